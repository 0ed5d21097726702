// SPDX-License-Identifier: Apache-2.0

// Package upkeep does what a daemon does again and again: it sweeps what nobody
// needs any more, and saves what a kill would lose.
package upkeep

import (
	"context"
	"log/slog"
	"time"
)

const (
	sweepInterval = 10 * time.Second
	// saveInterval is how much of what was learned a kill -9 may lose.
	saveInterval = time.Second
)

// Sweep is one thing that is looked after.
type Sweep struct {
	Do func() error
	// Failed is what it means that Do failed.
	Failed string
}

// Upkeep is what is done. All of it is done in one goroutine.
type Upkeep struct {
	sweeps []Sweep
	save   func()
	log    *slog.Logger
	// beats is received from between two things that are done.
	beats chan struct{}
}

// New makes an Upkeep that has not begun. One sweep that fails keeps no other.
func New(log *slog.Logger, save func(), sweeps ...Sweep) *Upkeep {
	return &Upkeep{sweeps: sweeps, save: save, log: log, beats: make(chan struct{})}
}

// Run does it until ctx ends.
func (u *Upkeep) Run(ctx context.Context) {
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	save := time.NewTicker(saveInterval)
	defer save.Stop()
	u.run(ctx, sweep.C, save.C)
}

func (u *Upkeep) run(ctx context.Context, sweep, save <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.beats:
		case <-sweep:
			for _, s := range u.sweeps {
				if err := s.Do(); err != nil {
					u.log.Warn(s.Failed, "error", err)
				}
			}
		case <-save:
			u.save()
		}
	}
}

// Beat returns when Run goes on, or ctx has ended: that is the error.
func (u *Upkeep) Beat(ctx context.Context) error {
	select {
	case u.beats <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
