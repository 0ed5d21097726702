// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// errKilled is the cause of a context that kill ended.
var errKilled = errors.New("connection closed by egressd")

// phase is how far a connection is decided; Recheck asks accordingly.
type phase uint8

const (
	phaseOpening phase = iota // the first bytes are awaited
	phaseOpaque
	phaseTLS
	phaseHTTP
)

// conn is one downstream connection that is being served.
type conn struct {
	core   *Core
	info   Conn
	nc     *net.TCPConn
	ctx    context.Context
	cancel context.CancelCauseFunc
	stop   func() bool // has the end of ServeConn's context do nothing; nil: it has no end
	opened time.Time
	held   *lease
	ups    *upstreams
	// multiplexed: HTTP/2, set before the first request.
	multiplexed bool
	// http1 is the connection as one of HTTP/1; set with mu.
	http1 *http1Conn
	// generation is the core's before the Decider was first asked.
	generation uint64

	// requestsMu is held while something is done to requests under way.
	requestsMu sync.Mutex
	requests   map[*exchange]struct{}
	request    *exchange // of HTTP/1

	mu     sync.Mutex
	phase  phase
	sni    string
	up     net.Conn      // spliced with nc
	copies *mirrorClient // nil: no mirror had a copy yet
	killed policy.Reason
	detail string // why it was killed
	flag   string // the response flag of that, where the reason has none
}

// ServeConn serves nc, which it closes, and returns when the connection has
// ended. The end of ctx ends the connection.
func (c *Core) ServeConn(ctx context.Context, nc *net.TCPConn, info Conn) {
	c.serveConn(ctx, nc, &info, func() {})
}

// serveConn is ServeConn; counted is called when the Limits know the connection, or
// it was refused. Connections of HTTP/1 wait here for their requests, so that nothing
// big may be on the stack above: it has 4 KiB as long as half of that is not used.
func (c *Core) serveConn(ctx context.Context, nc *net.TCPConn, info *Conn, counted func()) {
	t := c.begin(ctx, nc, info, counted)
	if t == nil {
		return
	}
	if h := t.serve(); h != nil {
		h.serve()
		h.close()
	}
	t.close()
}

// begin registers a connection, before anything is decided: a policy change can't
// miss it. nil: it was refused.
//
//go:noinline
func (c *Core) begin(ctx context.Context, nc *net.TCPConn, info *Conn, counted func()) *conn {
	t := &conn{core: c, info: *info, nc: nc, opened: time.Now()}
	t.held, t.ups = t.lease(), newUpstreams(t)
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	if err := c.register(t); err != nil {
		t.refuse(denied(dialReason(err), nil), "tcp", "", err.Error())
		t.cancel(nil)
		return nil
	}
	counted()
	if ctx.Done() != nil {
		t.stop = context.AfterFunc(ctx, func() { t.kill(policy.ReasonAllowed, "shut down") })
	}
	c.counters.accepted.Add(1)
	return t
}

// close ends the connection.
func (t *conn) close() {
	if t.stop != nil {
		t.stop()
	}
	t.closeMirrors(true)
	t.ups.close()
	t.nc.Close()
	t.core.unregister(t)
	t.cancel(nil)
}

// serve asks for the opening and treats the connection accordingly. What it returns
// is to be served still, if anything.
//
//go:noinline
func (t *conn) serve() *http1Conn {
	t.generation = t.core.generation.Load()
	op := t.core.o.Decider.Open(&t.info)
	if op.Verdict == policy.Deny {
		op.Protocol = Refuse
	}
	switch op.Protocol {
	case Opaque:
		t.opaque(op, nil)
	case TLS:
		t.peekTLS(op)
	case HTTP:
		return t.peekHTTP(op)
	case Sniff:
		return t.sniff(op)
	default:
		op.Verdict = policy.Deny
		t.refuse(op.Decision, "tcp", "", "")
	}
	return nil
}

// upstreamLost tells a client of HTTP/1 that its upstream connection has ended, or
// that there is one again. HTTP/2 has other requests under way.
func (t *conn) upstreamLost(lost bool) {
	t.mu.Lock()
	h := t.http1
	t.mu.Unlock()
	if h != nil {
		h.upstreamLost(lost)
	}
}

// setPhase records what is about to be decided, so that Recheck asks the same.
func (t *conn) setPhase(p phase, sni string) {
	t.mu.Lock()
	t.phase, t.sni = p, sni
	t.mu.Unlock()
}

// attach makes up part of the connection. It returns false, and closes up,
// when the connection was killed meanwhile.
func (t *conn) attach(up net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.killed != "" {
		reset(up)
		return false
	}
	t.up = up
	return true
}

// kill ends the connection on both sides at once. The first reason stays.
func (t *conn) kill(reason policy.Reason, detail string) {
	t.mu.Lock()
	if t.killed == "" {
		t.killed, t.detail = reason, detail
	}
	up := t.up
	t.mu.Unlock()
	t.cancel(errKilled)
	t.eachRequest(func(x *exchange) { x.cancel(errKilled) })
	reset(t.nc)
	if up != nil {
		reset(up)
	}
}

// killReason returns why the connection was killed, "" when it was not.
func (t *conn) killReason() (policy.Reason, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.killed, t.detail
}

func (t *conn) killFlag() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flag
}

// recheck ends what the newest policy denies.
func (t *conn) recheck() {
	d := t.core.o.Decider
	op := d.Open(&t.info)
	t.mu.Lock()
	phase, sni := t.phase, t.sni
	t.mu.Unlock()

	allowed := op.Verdict != policy.Deny && op.Protocol != Refuse
	switch phase {
	case phaseOpaque:
		allowed = allowed && opaqueAllowed(op)
	case phaseTLS:
		allowed = allowed && op.Protocol != HTTP
		if allowed && op.Protocol != Opaque {
			now, u := d.TLS(&t.info, sni)
			allowed = now.Verdict != policy.Deny && u != nil
		}
	case phaseHTTP:
		allowed = allowed && op.Protocol != TLS
	}
	if !allowed {
		t.kill(policy.ReasonPolicyChanged, "")
		return
	}
	t.eachRequest(func(x *exchange) {
		if now := d.HTTP(&t.info, &x.req); now.Verdict == policy.Deny {
			x.cancel(errPolicyChanged)
		}
	})
}

// opaqueAllowed says whether op lets bytes pass unread.
func opaqueAllowed(op Admission) bool {
	return op.Verdict != policy.Deny && op.Upstream != nil && (op.Protocol == Opaque || op.Protocol == Sniff)
}

// eachRequest calls do for each request under way, which does not end meanwhile.
func (t *conn) eachRequest(do func(*exchange)) {
	t.requestsMu.Lock()
	defer t.requestsMu.Unlock()
	if t.request != nil {
		do(t.request)
	}
	for x := range t.requests {
		do(x)
	}
}

// addRequest makes x known to recheck; call it before x is decided.
func (t *conn) addRequest(x *exchange) {
	t.requestsMu.Lock()
	defer t.requestsMu.Unlock()
	if x.h1 != nil {
		t.request = x
		return
	}
	if t.requests == nil {
		t.requests = make(map[*exchange]struct{})
	}
	t.requests[x] = struct{}{}
}

func (t *conn) removeRequest(x *exchange) {
	t.requestsMu.Lock()
	defer t.requestsMu.Unlock()
	if t.request == x {
		t.request = nil
	}
	delete(t.requests, x)
}

// denied is a denial that the core itself found; rule is the nearest miss.
func denied(reason policy.Reason, rule *policy.Ref) policy.Decision {
	return policy.Decision{Verdict: policy.Deny, Reason: reason, Rule: rule}
}

// refuse records the denial d and resets the connection.
//
//go:noinline
func (t *conn) refuse(d policy.Decision, proto, name, detail string) {
	if reason, why := t.killReason(); reason != "" {
		d, detail = denied(reason, d.Rule), why
	}
	t.core.counters.refused.Add(1)
	e := t.event(flow.Decision, d, proto, name)
	e.Detail = detail
	t.core.o.Sink.Record(e)
	reset(t.nc)
}

// event returns an Event about this connection and the decision d. A denial
// that was let through, as audit mode does, is an allowing verdict with a
// denial's reason.
func (t *conn) event(kind flow.Moment, d policy.Decision, proto, name string) flow.Event {
	reason := d.Reason
	if reason == "" && d.Verdict != policy.Deny {
		reason = policy.ReasonAllowed
	}
	return flow.Event{
		Time:      time.Now(),
		Kind:      kind,
		Layer:     t.info.Layer,
		Workload:  t.info.Workload,
		Process:   t.info.Process,
		Transport: policy.TCP,
		Proto:     proto,
		Dst:       t.info.Dst,
		Name:      name,
		Verdict:   d.Verdict,
		Allowed:   d.Verdict != policy.Deny,
		WouldDeny: d.Verdict != policy.Deny && reason != policy.ReasonAllowed,
		Reason:    reason,
		Rule:      d.Rule,
		Audited:   d.Audited,
		DryRun:    d.DryRun,
	}
}

// closeEvent starts the Close event of a connection that was decided by d.
func (t *conn) closeEvent(d policy.Decision, proto, name string) flow.Event {
	e := t.event(flow.Close, d, proto, name)
	e.Duration = e.Time.Sub(t.opened)
	if reason, detail := t.killReason(); reason != "" {
		e.Detail, e.ResponseFlags = detail, t.killFlag()
		if reason != policy.ReasonAllowed {
			e.Reason, e.Allowed, e.WouldDeny = reason, false, false
		}
	}
	return e
}

// addrPort is the address of an end of a connection, invalid if it has none.
func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
