// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/egressd/egressd/internal/sdnotify"
	"github.com/egressd/egressd/loader/predecessor"
	"github.com/egressd/egressd/policy"
)

// What the states of the daemon mean for traffic, for its log and for the
// service manager.
const (
	trafficOpen = "all traffic is open"
	trafficShut = "everything is denied since a start failed (--on-failure lock)"
	trafficHeld = "the policy of the last run stays in force; what needs the proxy or DNS is refused"
	trafficOn   = "the policy is in force"
)

// tellWait is how long an end waits for the service manager to take what it is told.
const tellWait = time.Second

// life tells people and the service manager how the daemon is.
type life struct {
	manager *sdnotify.Manager // nil: none
	// reloads has a value when somebody asked for one.
	reloads chan struct{}
	// beats is received from by housekeep.
	beats chan struct{}
}

func newLife(o Options) life {
	l := life{reloads: make(chan struct{}, 1), beats: make(chan struct{})}
	if o.Daemon {
		l.manager = sdnotify.New(o.Log)
	}
	return l
}

// withoutDaemon is what traffic can do while no daemon runs.
func withoutDaemon(pins string) string {
	p, err := predecessor.Read(pins)
	switch {
	case err != nil || !p.AtWork():
		return trafficOpen
	case p.Locked():
		return trafficShut
	}
	return trafficHeld
}

func (a *Agent) sayStart() {
	if !a.opts.Daemon {
		return
	}
	traffic := "until it is ready, " + withoutDaemon(a.opts.PinDir)
	if a.holder != nil {
		traffic = "the egressd that runs serves until this one takes over"
	}
	a.log.Info("egressd starts", "version", a.opts.Version, "mode", a.opts.Mode.String(), "cgroups", a.capture.Named, "traffic", traffic)
}

func (a *Agent) sayReady() {
	traffic := trafficOn
	if a.opts.Mode == policy.Audit {
		traffic = "denials are logged and let pass, except for workloads whose own mode is enforce"
	}
	a.log.Info("ready", "cgroups", a.capture.Named, "held", a.capture.Err() == nil, "mode", a.opts.Mode.String(),
		"policy", a.control.Snapshot().Hash()[:12], "traffic", traffic)
	a.life.manager.Ready(a.summary())
}

// sayStop is for an end after which the kernel goes on, or does not.
func (a *Agent) sayStop(unload bool) {
	traffic := "the policy stays in force; what needs the proxy or DNS is refused until egressd is back, and \"egressd unload\" opens"
	switch {
	case unload:
		traffic = trafficOpen
	case a.status.notReady() != nil:
		traffic = withoutDaemon(a.opts.PinDir)
	case a.lasting() != nil:
		traffic = "when egressd has ended, " + trafficOpen
	}
	if a.opts.Daemon {
		a.log.Info("egressd stops; requests in flight may end", "within", a.opts.DrainTime, "traffic", traffic)
	}
	a.life.manager.Stopping("Stopping: " + traffic)
}

// summary is one line about the policy.
func (a *Agent) summary() string {
	p, _ := a.control.Report()
	in := fmt.Sprintf("mode %s, policy %.12s of %s", a.opts.Mode, p.Hash, p.Loaded.Format(time.DateTime))
	if p.Error != "" {
		return "The newest policy has errors and is not applied; " + in + " stays in force: " + p.Error
	}
	return "Ready: " + in
}

// Reload reads the policy again, as if its files had changed. It does not wait.
func (a *Agent) Reload() {
	select {
	case a.life.reloads <- struct{}{}:
	default: // one is asked for, and has not begun
	}
}

// reloadAsked does what Reload asks for, until ctx ends.
func (a *Agent) reloadAsked(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.life.reloads:
			a.life.manager.Reloading()
			a.watcher.WaitWritten(ctx) // half of a file is no policy that was asked for
			a.log.Info("the policy is read again, as was asked")
			a.nodeDNS.Read(a.dns.SetUpstreams)
			a.readAgain()
			a.life.manager.Ready(a.summary())
		}
	}
}

// changed follows a change of the files.
func (a *Agent) changed() {
	a.readAgain()
	a.life.manager.Status(a.summary())
}

// objectsChanged follows a change of the API server's objects.
func (a *Agent) objectsChanged() {
	a.control.ReloadObjects()
	a.life.manager.Status(a.summary())
}

// readAgain reloads, and says what came of it where that is not said yet.
func (a *Agent) readAgain() {
	before, _ := a.control.Report()
	a.control.Reload()
	now, _ := a.control.Report()
	switch {
	case now.Error != "":
	case before.Error != "":
		a.log.Info("the policy's files are good again and in force", "hash", now.Hash[:12])
	case before.Hash == now.Hash:
		a.log.Info("the policy has not changed", "hash", now.Hash[:12])
	}
}

// watch tells the service manager's watchdog that the daemon is alive, as long
// as its loops answer, until ctx ends. A daemon that stops has no loops any
// more, and is alive.
func (a *Agent) watch(ctx, serving context.Context) {
	interval := a.life.manager.WatchdogInterval()
	if interval <= 0 {
		return
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	checked := make(chan error, 1)
	checking := false
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-checked:
			checking = false
			if err == nil {
				a.life.manager.Alive()
			} else if serving.Err() == nil {
				a.log.Error("the daemon does not answer itself; the service manager will restart it if that goes on", "error", err)
			}
		case <-tick.C:
			if serving.Err() != nil {
				a.life.manager.Alive()
			} else if !checking {
				checking = true
				go func() { checked <- a.check(serving) }()
			}
		}
	}
}

// check passes by the daemon's loops: housekeeping, the policy's updates, and the
// probe of DNS and the proxy, which must go on and find nobody stuck. What it finds
// that a start anew would not mend is no error.
func (a *Agent) check(ctx context.Context) error {
	if a.gone.Load() {
		return nil // another daemon serves
	}
	select {
	case a.life.beats <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	a.control.WaitIdle()
	return a.probe.Alive(ctx)
}
