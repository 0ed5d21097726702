// SPDX-License-Identifier: Apache-2.0

// Package session is a downstream connection that is being served: who it belongs
// to, what it has taken, how it is ended and what is recorded of it. What is spoken
// on it stands above.
package session

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// ErrKilled is the cause of a context that kill ended.
var ErrKilled = errors.New("connection closed by egressd")

// Session is one downstream connection that is being served, whatever is spoken on
// it: who it belongs to, what it has taken, and how it is ended and recorded.
type Session struct {
	shared *Shared
	Info   downstream.Conn
	NC     relay.StreamSocket
	// Stream is NC, or what is within its TLS, of which TLS says what is known; nil: it
	// has not ended here. Who serves the connection reads them, others ask State.
	Stream ByteStream
	TLS    *Terminated
	Ctx    context.Context
	Cancel context.CancelCauseFunc // of Ctx
	Opened time.Time
	Held   *limits.Lease // what it has taken
	Relay  relay.Relay
	Ups    *upstream.Conns // its upstream connections of HTTP

	mu       sync.Mutex
	up       net.Conn // spliced with nc
	requests Requests // nil: it is not of HTTP
	killed   policy.Reason
	detail   string // why it was killed
	flag     string // the response flag of that, where the reason has none
}

// Shared is what all sessions of a core have in common.
type Shared struct {
	Sink flow.Sink
	// Teller tells it what is nobody's to keep.
	Teller flow.Teller
	// Observer is told of what has ended; nil: nobody is.
	Observer     flow.Observer
	Observations Observations
	Limits       *limits.Limits
	Clusters     *upstream.ClusterManager
	Pipes        *relay.Pipes
	Buffers      *relay.CopyBuffers
	Refused      atomic.Uint64 // connections, ever
}

// Requests are those of HTTP that are under way on a session.
type Requests interface {
	// Abort ends them.
	Abort(cause error)
	// Recheck asks about each again, and ends those that are denied.
	Recheck()
	// CloseIdle closes connections for copies of them that nobody uses; end: and the
	// others when they are idle.
	CloseIdle(end bool)
	// UpstreamLost is upstream's.
	UpstreamLost(lost bool)
}

// New is a session of nc, which ends with ctx. End is to be called.
func New(ctx context.Context, s *Shared, nc relay.StreamSocket, info downstream.Conn) *Session {
	t := &Session{shared: s, Info: info, NC: nc, Stream: nc, Opened: time.Now()}
	t.Held = t.Lease()
	t.Relay, t.Ups = relay.NewRelay(s.Pipes, s.Buffers, t.Held), s.Clusters.NewConns(&t.Info, t.Held, t)
	t.Ctx, t.Cancel = context.WithCancelCause(ctx)
	return t
}

// SetRequests says that it is of HTTP.
func (t *Session) SetRequests(r Requests) {
	t.mu.Lock()
	t.requests = r
	t.mu.Unlock()
}

// OfHTTP are the requests under way; nil: it is not of HTTP.
func (t *Session) OfHTTP() Requests {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.requests
}

// UpstreamLost tells the client that its upstream connection has ended, or that
// there is one again.
func (t *Session) UpstreamLost(lost bool) {
	if r := t.OfHTTP(); r != nil {
		r.UpstreamLost(lost)
	}
}

// CloseIdleCopies closes upstream connections that nobody uses: those of copies.
func (t *Session) CloseIdleCopies(end bool) {
	if r := t.OfHTTP(); r != nil {
		r.CloseIdle(end)
	}
}

// Lease returns a lease of the connection's workload that has nothing yet.
func (t *Session) Lease() *limits.Lease { return limits.NewLease(t.shared.Limits, t.Holder()) }

// Holder is whose what it takes is.
func (t *Session) Holder() limits.Owner { return t.Info.Owner() }

// Attach makes up part of the connection. It returns false, and closes up,
// when the connection was killed meanwhile.
func (t *Session) Attach(up net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.killed != "" {
		relay.Reset(up)
		return false
	}
	t.up = up
	return true
}

// Kill ends the connection on both sides at once. The first reason stays.
func (t *Session) Kill(reason policy.Reason, detail string) {
	t.mu.Lock()
	if t.killed == "" {
		t.killed, t.detail = reason, detail
	}
	up, requests := t.up, t.requests
	t.mu.Unlock()
	t.Cancel(ErrKilled)
	if requests != nil {
		requests.Abort(ErrKilled)
	}
	relay.Reset(t.NC)
	if up != nil {
		relay.Reset(up)
	}
}

// KillFlagged is kill with the response flag of that; "": the reason has one, or there
// is none.
func (t *Session) KillFlagged(reason policy.Reason, detail, flag string) {
	if flag != "" {
		t.mu.Lock()
		t.flag = flag
		t.mu.Unlock()
	}
	t.Kill(reason, detail)
}

// KillReason returns why the connection was killed, "" when it was not.
func (t *Session) KillReason() (policy.Reason, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.killed, t.detail
}

func (t *Session) killFlag() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flag
}

// Denied is a denial that the core itself found; rule is the nearest miss.
func Denied(reason policy.Reason, rule *policy.Ref) policy.Decision {
	return policy.Decision{Verdict: policy.Deny, Reason: reason, Rule: rule}
}

// Refuse records the denial d and resets the connection.
//
//go:noinline
func (t *Session) Refuse(d policy.Decision, proto, name, detail string) {
	if reason, why := t.KillReason(); reason != "" {
		d, detail = Denied(reason, d.Rule), why
	}
	t.RecordDenial(d, proto, name, detail)
	relay.Reset(t.NC)
}

// RecordDenial records the denial d.
//
//go:noinline
func (t *Session) RecordDenial(d policy.Decision, proto, name, detail string) {
	t.shared.Refused.Add(1)
	e := t.Event(flow.Decision, d, proto, name)
	e.Detail = detail
	t.Record(e, d, nil)
}

// Event returns an Event about this connection and the decision d.
func (t *Session) Event(kind flow.Moment, d policy.Decision, proto, name string) (e flow.Event) {
	t.Describe(&e, time.Now(), kind, &d, proto, name)
	return e
}

// Describe has an empty event be one about this connection at a time and the decision d.
// A denial that was let through, as audit mode does, is an allowing verdict with a
// denial's reason.
func (t *Session) Describe(e *flow.Event, at time.Time, kind flow.Moment, d *policy.Decision, proto, name string) {
	e.Time, e.Kind, e.Layer, e.Workload, e.Process = at, kind, t.Info.Layer, t.Info.Workload, t.Info.Process
	e.Transport, e.Proto, e.Dst, e.Socket, e.Name = policy.TCP, proto, t.Info.Dst, t.Info.Socket, name
	e.Verdict, e.Reason, e.Rule, e.Audited, e.DryRun = d.Verdict, d.Reason, d.Rule, d.Audited, d.DryRun
	e.Allowed = d.Verdict != policy.Deny
	if e.Reason == "" && e.Allowed {
		e.Reason = policy.ReasonAllowed
	}
	e.WouldDeny = e.Allowed && e.Reason != policy.ReasonAllowed
}

// CloseEvent starts the Close event of a connection that was decided by d.
func (t *Session) CloseEvent(d policy.Decision, proto, name string) (e flow.Event) {
	t.Describe(&e, time.Now(), flow.Close, &d, proto, name)
	e.Duration = e.Time.Sub(t.Opened)
	if reason, detail := t.KillReason(); reason != "" {
		e.Detail, e.ResponseFlags = detail, t.killFlag()
		if reason != policy.ReasonAllowed {
			e.Reason, e.Allowed, e.WouldDeny = reason, false, false
		}
	}
	return e
}

// DialReason names the reason of a Dialer's error, or of a limit's.
func DialReason(err error) policy.Reason {
	var limit *limits.ExceededError
	switch r := originate.ReasonOf(err); {
	case r != "":
		return r
	case errors.As(err, &limit):
		return limit.Reason
	case errors.Is(err, dial.ErrAddress):
		return policy.ReasonAddress
	case errors.Is(err, dial.ErrResolve):
		return policy.ReasonResolve
	case errors.Is(err, dial.ErrEndpoint):
		return policy.ReasonEndpoint
	case errors.Is(err, dial.ErrUnsupported):
		return policy.ReasonNotSupported
	}
	return policy.ReasonUpstream
}
