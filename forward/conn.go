// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// errKilled is the cause of a context that kill ended.
var errKilled = errors.New("connection closed by egressd")

// session is one downstream connection that is being served, whatever is spoken on
// it: who it belongs to, what it has taken, and how it is ended and recorded.
type session struct {
	shared *shared
	info   downstream.Conn
	nc     *net.TCPConn
	ctx    context.Context
	cancel context.CancelCauseFunc
	opened time.Time
	held   *limits.Lease
	relay  relay.Relay
	ups    *upstream.Conns

	mu       sync.Mutex
	up       net.Conn // spliced with nc
	requests requests // nil: it is not of HTTP
	killed   policy.Reason
	detail   string // why it was killed
	flag     string // the response flag of that, where the reason has none
}

// shared is what all sessions of a core have in common.
type shared struct {
	Sink     flow.Sink
	Limits   *limits.Limits
	Clusters *upstream.ClusterManager
	Pipes    *relay.Pipes
	Buffers  *relay.CopyBuffers
	refused  atomic.Uint64 // connections, ever
}

// requests are those of HTTP that are under way on a session.
type requests interface {
	// Kill ends them.
	Kill(cause error)
	// Recheck asks about each again, and ends those that are denied.
	Recheck()
	// CloseIdle closes connections for copies of them that nobody uses; end: and the
	// others when they are idle.
	CloseIdle(end bool)
	// UpstreamLost is upstream's.
	UpstreamLost(lost bool)
}

// newSession is a session of nc, which ends with ctx. End is to be called.
func newSession(ctx context.Context, s *shared, nc *net.TCPConn, info downstream.Conn) *session {
	t := &session{shared: s, info: info, nc: nc, opened: time.Now()}
	t.held = t.lease()
	t.relay, t.ups = relay.NewRelay(s.Pipes, s.Buffers, t.held), s.Clusters.NewConns(&t.info, t.held, t)
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	return t
}

// setRequests says that it is of HTTP.
func (t *session) setRequests(r requests) {
	t.mu.Lock()
	t.requests = r
	t.mu.Unlock()
}

// ofHTTP are the requests under way; nil: it is not of HTTP.
func (t *session) ofHTTP() requests {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.requests
}

// UpstreamLost tells the client that its upstream connection has ended, or that
// there is one again.
func (t *session) UpstreamLost(lost bool) {
	if r := t.ofHTTP(); r != nil {
		r.UpstreamLost(lost)
	}
}

// closeIdleCopies closes upstream connections that nobody uses: those of copies.
func (t *session) closeIdleCopies(end bool) {
	if r := t.ofHTTP(); r != nil {
		r.CloseIdle(end)
	}
}

// lease returns a lease of the connection's workload that has nothing yet.
func (t *session) lease() *limits.Lease { return limits.NewLease(t.shared.Limits, t.holder()) }

func (t *session) holder() limits.Owner { return t.info.Owner() }

// attach makes up part of the connection. It returns false, and closes up,
// when the connection was killed meanwhile.
func (t *session) attach(up net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.killed != "" {
		relay.Reset(up)
		return false
	}
	t.up = up
	return true
}

// kill ends the connection on both sides at once. The first reason stays.
func (t *session) kill(reason policy.Reason, detail string) {
	t.mu.Lock()
	if t.killed == "" {
		t.killed, t.detail = reason, detail
	}
	up, requests := t.up, t.requests
	t.mu.Unlock()
	t.cancel(errKilled)
	if requests != nil {
		requests.Kill(errKilled)
	}
	relay.Reset(t.nc)
	if up != nil {
		relay.Reset(up)
	}
}

// killFlagged is kill with the response flag of that; "": the reason has one, or there
// is none.
func (t *session) killFlagged(reason policy.Reason, detail, flag string) {
	if flag != "" {
		t.mu.Lock()
		t.flag = flag
		t.mu.Unlock()
	}
	t.kill(reason, detail)
}

// killReason returns why the connection was killed, "" when it was not.
func (t *session) killReason() (policy.Reason, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.killed, t.detail
}

func (t *session) killFlag() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flag
}

// denied is a denial that the core itself found; rule is the nearest miss.
func denied(reason policy.Reason, rule *policy.Ref) policy.Decision {
	return policy.Decision{Verdict: policy.Deny, Reason: reason, Rule: rule}
}

// refuse records the denial d and resets the connection.
//
//go:noinline
func (t *session) refuse(d policy.Decision, proto, name, detail string) {
	if reason, why := t.killReason(); reason != "" {
		d, detail = denied(reason, d.Rule), why
	}
	t.shared.refused.Add(1)
	e := t.event(flow.Decision, d, proto, name)
	e.Detail = detail
	t.shared.Sink.Record(e)
	relay.Reset(t.nc)
}

// event returns an Event about this connection and the decision d. A denial
// that was let through, as audit mode does, is an allowing verdict with a
// denial's reason.
func (t *session) event(kind flow.Moment, d policy.Decision, proto, name string) flow.Event {
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
func (t *session) closeEvent(d policy.Decision, proto, name string) flow.Event {
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

// dialReason names the reason of a Dialer's error, or of a limit's.
func dialReason(err error) policy.Reason {
	var limit *limits.ExceededError
	switch {
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
