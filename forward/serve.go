// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"net"
	"sync"

	"github.com/egressd/egressd/forward/httpproxy"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/policy"
)

// phase is how far a connection is decided; Recheck asks accordingly.
type phase uint8

const (
	phaseEntering phase = iota // a PROXY header may be awaited: nothing is decided
	phaseOpening               // the first bytes are awaited
	phaseOpaque
	phaseTLS    // it ends here, or that is being decided
	phasePassed // TLS is passed through
	phaseHTTP
)

// conn is a session of a Core.
type conn struct {
	*session.Session
	core *Core
	// generation is the core's before the Decider was first asked.
	generation uint64
	// pending is what serves it, when it is one of HTTP.
	pending httpproxy.Pending
	// stop has the end of ServeConn's context do nothing; nil: it has no end.
	stop func() bool

	phaseMu sync.Mutex
	phase   phase
	sni     string
}

// ServeConn serves nc, which it closes, and returns when the connection has
// ended. The end of ctx ends the connection.
func (c *Core) ServeConn(ctx context.Context, nc *net.TCPConn, info Conn) {
	if t := c.begin(ctx, nc, &info); t != nil {
		t.run(false)
	}
}

// run serves the connection to its end, or goes on with one that has rested. What is open while a connection of HTTP/1
// waits for its requests is no part of its stack. If it may, a connection rests while it
// waits for long: then it is served again by another goroutine, and is nobody's here.
func (t *conn) run(mayRest bool) (rests bool) {
	if t.pending == nil {
		t.pending = t.serve()
	}
	if t.pending != nil {
		var resume func()
		if mayRest {
			resume = t.resume
		}
		if t.pending.Serve(resume) {
			return true
		}
	}
	t.close()
	return false
}

// resume has another goroutine serve a connection that rests.
func (t *conn) resume() { t.core.workers.serve(accepted{core: t.core, rested: t}) }

// begin registers a connection, before anything is decided: a policy change can't
// miss it. nil: it was refused.
//
//go:noinline
func (c *Core) begin(ctx context.Context, nc relay.StreamSocket, info *Conn) *conn {
	info.Draw = c.o.Rand()
	t := &conn{Session: session.New(ctx, c.shared, nc, *info), core: c}
	if err := c.register(t); err != nil {
		t.Refuse(session.Denied(session.DialReason(err), nil), "tcp", "", err.Error())
		t.Cancel(nil)
		return nil
	}
	if ctx.Done() != nil {
		t.stop = context.AfterFunc(ctx, func() { t.Kill(policy.ReasonAllowed, "shut down") })
	}
	c.counters.accepted.Add(1)
	return t
}

// close ends the connection.
func (t *conn) close() {
	if t.stop != nil {
		t.stop()
	}
	t.CloseIdleCopies(true)
	t.Ups.Close()
	t.Stream.Close()
	t.core.unregister(t)
	t.Cancel(nil)
}

// serve asks for the opening and treats the connection accordingly. What it returns
// is to be served still, if anything.
//
//go:noinline
func (t *conn) serve() httpproxy.Pending {
	if !t.enter() {
		return nil
	}
	t.generation = t.core.generation.Load()
	op := t.core.o.Decider.Open(&t.Info)
	if op.Verdict == policy.Deny {
		op.Protocol = Refuse
	}
	switch op.Protocol {
	case Opaque:
		t.opaque(op, nil)
	case TLS:
		return t.peekTLS(op)
	case HTTP:
		return t.peekHTTP(op)
	case Sniff:
		return t.sniff(op)
	default:
		op.Verdict = policy.Deny
		t.Refuse(op.Decision, "tcp", "", "")
	}
	return nil
}

// setPhase records what is about to be decided, so that Recheck asks the same.
func (t *conn) setPhase(p phase, sni string) {
	t.phaseMu.Lock()
	t.phase, t.sni = p, sni
	t.phaseMu.Unlock()
}

// recheck ends what the newest policy denies.
func (t *conn) recheck() {
	d := t.core.o.Decider
	t.phaseMu.Lock()
	phase, sni := t.phase, t.sni
	t.phaseMu.Unlock()
	if phase == phaseEntering {
		return // it asks when it has entered
	}
	known := t.State()
	op := d.Open(&t.Info)

	allowed := op.Verdict != policy.Deny && op.Protocol != Refuse
	switch phase {
	case phaseOpaque:
		allowed = allowed && opaqueAllowed(op)
	case phaseTLS, phasePassed:
		allowed = allowed && op.Protocol != HTTP
		if allowed && op.Protocol != Opaque {
			allowed = t.goesOnAsTLS(sni, known, phase == phasePassed)
		}
	case phaseHTTP:
		allowed = allowed && t.carriesHTTP(op, known)
	}
	if !allowed {
		t.Kill(policy.ReasonPolicyChanged, "")
		return
	}
	if r := t.OfHTTP(); r != nil {
		r.Recheck()
	}
}

// goesOnAsTLS says whether a connection that began with a ClientHello may go on: its
// TLS ends here or is passed through as before.
func (t *conn) goesOnAsTLS(sni string, s *session.Terminated, passed bool) bool {
	if _, ends := t.termination(sni); ends || s != nil {
		return s == nil && !passed || s != nil && t.readmitted(s) // the first: in its handshake
	}
	now, u := t.core.o.Decider.TLS(&t.Info, sni)
	return now.Verdict != policy.Deny && u != nil
}

// carriesHTTP says whether a connection that carries requests may go on.
func (t *conn) carriesHTTP(op Admission, s *session.Terminated) bool {
	if s != nil {
		return op.Protocol == TLS && t.readmitted(s)
	}
	return op.Protocol != TLS
}

// opaqueAllowed says whether op lets bytes pass unread.
func opaqueAllowed(op Admission) bool {
	return op.Verdict != policy.Deny && op.Upstream != nil && (op.Protocol == Opaque || op.Protocol == Sniff)
}
