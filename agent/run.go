// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/egressd/egressd/agent/lifecycle"
	"github.com/egressd/egressd/agent/resolve"
	"github.com/egressd/egressd/agent/resources"
	"github.com/egressd/egressd/agent/shift"
	"github.com/egressd/egressd/agent/teardown"
	"github.com/egressd/egressd/internal/gate"
	"github.com/egressd/egressd/loader/bpffs"
)

// Run captures the workload and serves until ctx is done, or another daemon has
// taken over, and what was open then has ended. It leaves the kernel side
// pinned; see Unload. ready is called once everything is in place.
func (a *Agent) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := a.start(ctx, cancel)
	if err != nil {
		return err
	}
	a.begun.Succeed()
	if a.opts.Daemon {
		resolve.WarnBeside(a.log, resolve.Beside("/"))
	}
	a.life.Ready(a.capture)
	ready()
	defer resources.LeaveGarbage(a.usualGarbage())()
	// Connections are judged by the files until the last has ended.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var living sync.WaitGroup
	defer func() { end(); living.Wait() }()
	living.Go(func() { lifecycle.Watch(life, ctx, a.manager, a.check, a.log) })
	living.Go(func() { a.watcher.Run(life, a.life.FilesChanged) })
	a.kubernetes.Begin()
	living.Go(func() { a.life.Reloads(life, a.watcher.WaitWritten, func() { a.nodeDNS.Read(a.dns.SetUpstreams) }) })
	living.Go(func() { a.nodeDNS.Run(life, a.dns.SetUpstreams) })
	living.Go(func() { a.followHolder(life) })
	living.Go(func() { a.publisher.Run(life, a.holder == nil) })
	living.Go(func() { a.workloads.Watch(life, a.governor.Rebind) })
	living.Go(func() { a.containers.Run(life, a.governor.Rebind) })
	t := &tenure{shifts: []*shift.Shift{s}, now: s}
	unload := false
	for serving := true; serving; {
		select {
		case <-ctx.Done():
			serving = false
		case <-a.unload:
			unload, serving = true, false
		case c := <-a.heirs:
			a.yield(ctx, c, t, cancel)
			serving = t.heir == nil
		}
	}
	a.finish(ctx, cancel, t, unload)
	t.waitAnswered()
	a.recorder.Flush(true)
	a.tellMissing()
	a.control.SaveLastGood()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// start begins the first shift, in the place of the daemon before if there is
// one that lives. What a start did that fails is taken back before that one goes on.
func (a *Agent) start(ctx context.Context, fail context.CancelCauseFunc) (*shift.Shift, error) {
	err := a.quiesce()
	if err == nil {
		var s *shift.Shift
		if s, err = a.beginShift(ctx, fail); err == nil {
			if a.holder != nil {
				err = a.holder.Settle()
			}
			if err == nil {
				return s, nil
			}
			a.endShift(s)
			s.WaitAnswered()
		}
	}
	a.recorder.Flush(true)
	err = errors.Join(a.notTaken(err), a.rollBack())
	if a.holder != nil {
		a.holder.Leave()
	}
	return nil, err
}

// notTaken is err as that of a daemon that does not take over, where it wanted to:
// what is there is that of the daemon which goes on.
func (a *Agent) notTaken(err error) error {
	if a.holder == nil {
		return err
	}
	a.letGo()
	return fmt.Errorf("no takeover: the running egressd goes on serving, and what it has is %w: %w", bpffs.ErrInUse, err)
}

// finish ends the last shift.
func (a *Agent) finish(ctx context.Context, cancel context.CancelCauseFunc, t *tenure, unload bool) {
	defer func() {
		if a.incoming != nil && t.heir == nil && (unload || !a.manager.Keeps()) {
			a.incoming.RemoveSockets()
		}
	}()
	switch {
	case t.heir != nil:
		a.release()
		a.ready.Serves(false)
		a.drain().Run(nil)
		return
	case t.now == nil:
		a.drain().ShutDown(time.Now())
		return
	case unload:
		a.unloadAll(cancel, t.now)
		return
	default:
		a.life.Stops(lifecycle.Ending{NotReady: a.ready.Err(), NotLasting: a.lasting(), Within: a.opts.DrainTime})
	}
	if err := context.Cause(ctx); err == nil || errors.Is(err, context.Canceled) {
		a.serveOut(context.WithoutCancel(ctx), cancel, t)
		return
	}
	a.stop(t.now)
}

// stop ends the last shift and what is open, within the drain time.
func (a *Agent) stop(s *shift.Shift) {
	a.ready.Serves(false)
	a.endShift(s)
	a.drain().ShutDown(time.Now().Add(a.opts.DrainTime))
}

// unloadAll opens all traffic, and ends the last shift. What unload, the command,
// removes when this daemon has ended is left to that.
func (a *Agent) unloadAll(cancel context.CancelCauseFunc, s *shift.Shift) {
	a.life.Stops(lifecycle.Ending{Unload: true, Within: a.opts.DrainTime})
	a.surfaces.Release()
	cancel(nil)
	a.forget()
	stop := sync.OnceFunc(func() { a.stop(s) })
	err := teardown.Teardown{
		Detach: a.datapath.Unload,
		Ended:  func() error { stop(); return nil },
		Gates:  gate.Remove,
	}.Run()
	if err != nil {
		a.log.Error("not everything could be removed from the kernel; run \"egressd unload\", which says what is left and removes it", "error", err)
	}
	stop()
}
