// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"

	"github.com/egressd/egressd/agent/shift"
)

// beginShift opens what is closed, attaches the programs, and serves. fail is
// called when a loop ends with an error.
func (a *Agent) beginShift(ctx context.Context, fail context.CancelCauseFunc) (*shift.Shift, error) {
	s := shift.Begin(ctx, fail)
	s.Serve(func() error { return a.datapath.Events(a.kernel.Record) })
	for _, ln := range a.sockets.Proxy {
		s.Accept(func() error { return a.outgoing.Serve(s.Context, ln, a.identify) })
	}
	for i, udp := range a.sockets.DNSUDP {
		tcp := []net.Listener{a.sockets.DNSTCP[i]}
		s.Answer(func() error { return a.dns.Serve(s.Context, udp, tcp) })
	}
	until := func(ends func(context.Context)) { s.Serve(func() error { ends(s.Context); return nil }) }
	until(a.names.Run)
	until(a.dns.KeepResolved)
	a.followDevices(s)
	until(func(ctx context.Context) { a.addressWatcher().Run(ctx, func() { a.followDevices(s) }) })
	until(a.upkeep.Run)
	until(a.stock.Run)
	if err := a.open(s); err != nil {
		a.endShift(s)
		s.WaitAnswered()
		return nil, err
	}
	s.InForce()
	a.store()
	a.inherited.Close() // what nobody took
	a.ready.Serves(true)
	until(a.control.Settle)
	until(a.holdLoop().Run)
	if a.probe != nil {
		until(a.probe.Run)
	}
	s.Serve(func() error { return a.guards.Watch(s.Context) })
	return s, nil
}

// open opens what has places of its own, and attaches the programs.
func (a *Agent) open(s *shift.Shift) error {
	if a.incoming != nil {
		a.incoming.Resume()
		if err := a.incoming.Apply(a.control.Snapshot()); err != nil {
			return err
		}
	}
	if a.opts.Daemon {
		if err := errors.Join(a.serveInterfaces(s.Context, s.Serve), a.awaitHeirs(s)); err != nil {
			return err
		}
	}
	return a.governor.Begin(a.control.Snapshot())
}

// endShift stops the loops: when it returns nothing is accepted or read, and
// nothing is written that another daemon could be writing. Sockets are closed;
// whoever has duplicates has what waits in them.
func (a *Agent) endShift(s *shift.Shift) {
	a.governor.End()
	s.Stop()
	if err := a.datapath.DrainEvents(); err != nil {
		a.log.Warn("kernel events", "error", err)
	}
	s.Wait()
	a.dns.WaitQuiet()
	if a.incoming != nil {
		a.incoming.Pause()
	}
	// Who looked at captures before is done.
	a.control.WaitIdle()
	a.governor.Wait()
}

// drain ends what is open.
func (a *Agent) drain() shift.Drain {
	d := shift.Drain{Time: a.opts.DrainTime, Waits: a.opts.Daemon, Log: a.log, Cores: []shift.Drained{
		{Core: a.outgoing, Cut: "proxied connections were still open after the drain time and were closed"},
	}}
	if a.incoming != nil {
		d.Cores = append(d.Cores, shift.Drained{Core: a.incoming, Cut: "gateway connections were still open after the drain time and were closed"})
	}
	return d
}
