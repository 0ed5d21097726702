// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"log/slog"
	"time"
)

// Alive hears that a daemon is alive; it is a sdnotify.Manager.
type Alive interface {
	Alive()
	// WatchdogInterval is how often it wants to hear that; 0: never.
	WatchdogInterval() time.Duration
}

// Watch tells the service manager's watchdog that the daemon is alive, as long as
// check, which passes by the daemon's loops, returns without an error, until ctx ends.
// A daemon that stops (serving has ended) has no loops any more, and is alive.
func Watch(ctx, serving context.Context, to Alive, check func(context.Context) error, log *slog.Logger) {
	interval := to.WatchdogInterval()
	if interval <= 0 {
		return
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	watch(ctx, serving, tick.C, to.Alive, check, log)
}

func watch(ctx, serving context.Context, tick <-chan time.Time, alive func(), check func(context.Context) error, log *slog.Logger) {
	checked := make(chan error, 1)
	checking := false
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-checked:
			checking = false
			if err == nil {
				alive()
			} else if serving.Err() == nil {
				log.Error("a loop of the daemon does not answer; the service manager restarts egressd if that lasts", "error", err)
			}
		case <-tick:
			if serving.Err() != nil {
				alive()
			} else if !checking {
				checking = true
				go func() { checked <- check(serving) }()
			}
		}
	}
}
