// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// shift is a time in which this daemon serves: its loops accept, read, and write
// what daemons share. What was accepted outlives it, and so does what follows
// the policy's files, for that is what connections are judged by.
type shift struct {
	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup
	// answering are DNS queries under way.
	answering sync.WaitGroup
	// begun is closed when the programs are in force.
	begun chan struct{}
}

// beginShift opens what is closed, attaches the programs, and serves. fail is
// called when a loop ends with an error. What arrives before the programs are in
// force waits in its socket: an answer is learned in the tables that count.
func (a *Agent) beginShift(ctx context.Context, fail context.CancelCauseFunc) (*shift, error) {
	s := &shift{begun: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	end := func(err error) {
		if err != nil && s.ctx.Err() == nil {
			fail(err)
		}
	}
	serve := func(f func() error) { s.loops.Go(func() { end(f()) }) }
	accept := func(f func() error) { serve(func() error { s.wait(); return f() }) }
	answer := func(f func() error) { s.answering.Go(func() { s.wait(); end(f()) }) }
	serve(func() error { return a.datapath.Events(a.kernel.Record) })
	for _, ln := range a.sockets.Proxy {
		accept(func() error { return a.outgoing.Serve(s.ctx, ln, a.identify) })
	}
	for i, udp := range a.sockets.DNSUDP {
		tcp := []net.Listener{a.sockets.DNSTCP[i]}
		answer(func() error { return a.dns.Serve(s.ctx, udp, tcp) })
	}
	serve(func() error { a.names.Run(s.ctx); return nil })
	serve(func() error { a.dns.KeepResolved(s.ctx); return nil })
	a.followDevices(s.ctx, accept, answer)
	serve(func() error { return a.watchAddresses(s.ctx, accept, answer) })
	serve(func() error { a.upkeep.Run(s.ctx); return nil })
	if err := a.open(s, serve); err != nil {
		a.endShift(s)
		s.answering.Wait()
		return nil, err
	}
	close(s.begun)
	a.store()
	a.inherited.Close() // what nobody took
	a.ready.Serves(true)
	serve(func() error { a.control.Settle(s.ctx); return nil })
	serve(func() error { a.keepHold(s.ctx); return nil })
	if a.probe != nil {
		serve(func() error { a.probe.Run(s.ctx); return nil })
	}
	serve(func() error { return a.guards.Watch(s.ctx) })
	return s, nil
}

// open opens what has places of its own, and attaches the programs.
func (a *Agent) open(s *shift, serve func(func() error)) error {
	if a.incoming != nil {
		a.incoming.Resume()
		if err := a.incoming.Apply(a.control.Snapshot()); err != nil {
			return err
		}
	}
	if a.opts.Daemon {
		if err := errors.Join(a.serveInterfaces(s.ctx, serve), a.awaitHeirs(s.ctx, serve)); err != nil {
			return err
		}
	}
	return a.enforcer.Begin(a.control.Snapshot())
}

// wait waits until the programs are in force, or the shift is over.
func (s *shift) wait() {
	select {
	case <-s.begun:
	case <-s.ctx.Done():
	}
}

// endShift stops the loops: when it returns nothing is accepted or read, and
// nothing is written that another daemon could be writing. Sockets are closed;
// whoever has duplicates has what waits in them.
func (a *Agent) endShift(s *shift) {
	a.enforcer.End()
	s.cancel()
	if err := a.datapath.DrainEvents(); err != nil {
		a.log.Warn("kernel events", "error", err)
	}
	s.loops.Wait()
	a.dns.WaitQuiet()
	if a.incoming != nil {
		a.incoming.Pause()
	}
	// Who looked at captures before is done.
	a.control.WaitIdle()
	a.enforcer.Wait()
}

const (
	// lingerLook is how often a daemon that ends looks whether it may.
	lingerLook = 5 * time.Millisecond
	// lastPart is what part of the drain time is for what is under way alone, and
	// lastMost is how much of that at most.
	lastPart = 5
	lastMost = time.Second
)

// drain serves on until what is open has ended, at most for the drain time: a
// daemon that still lives had better serve than refuse. In its last part it
// takes nothing new. s is nil when another daemon serves already.
func (a *Agent) drain(s *shift) {
	a.ready.Serves(false)
	end := time.Now().Add(a.opts.DrainTime)
	a.outgoing.Linger()
	if a.incoming != nil {
		a.incoming.Linger()
	}
	last := end.Add(-min(a.opts.DrainTime/lastPart, lastMost))
	a.awaitIdle(last)
	if s != nil {
		a.endShift(s)
		a.awaitIdle(last) // what was accepted meanwhile
	}
	a.shutDown(end)
}

// awaitIdle waits until nothing is open, or a moment. What exec's command opened
// ended with it.
func (a *Agent) awaitIdle(until time.Time) {
	if !a.opts.Daemon {
		return
	}
	tick := time.NewTicker(lingerLook)
	defer tick.Stop()
	for (!a.outgoing.Idle() || a.incoming != nil && !a.incoming.Idle()) && time.Now().Before(until) {
		<-tick.C
	}
}

// shutDown ends what is open: in order until then, and then at once.
func (a *Agent) shutDown(end time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	if err := a.outgoing.Shutdown(ctx); err != nil {
		a.log.Warn("proxied connections were still open after the drain time and were closed", "error", err)
	}
	if a.incoming != nil {
		if err := a.incoming.Shutdown(ctx); err != nil {
			a.log.Warn("gateway connections were still open after the drain time and were closed", "error", err)
		}
	}
}
