// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"strings"
	"time"

	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// observe tells the observer of a request that has ended. Its fields, and those of
// its answer, are still there.
func (x *exchange) observe(s *flow.Observation) {
	s.Src, s.To, s.Host = x.conn.Info.Src, x.to, x.decision.Host
	s.Major, s.Minor, s.Scheme, s.Target, s.Authority = x.r.ProtoMajor, x.r.ProtoMinor, x.req.Scheme, x.target, x.r.Host
	s.Request, s.Response = x.r.Header, *x.w.Header()
	if t, ok := x.w.(interface{ trailer() field.List }); ok {
		s.Trailer = t.trailer()
	}
	if a := x.decision.Action; a != nil {
		s.Route = a.Rule.Name
	}
	s.Answered = x.headAfter
	if !x.traced { // it went nowhere
		x.trace(new(field.List))
	}
	s.RequestID = x.requestID
	if x.span != nil {
		s.TraceID, s.SpanID = x.span.IDs()
		x.span.End(s)
	}
	if o := x.core.o.Observer; o != nil {
		o.Observe(s)
	}
}

// observeRefused tells the observer of what was refused before it was a request: it
// has what is known of one. major and minor are the version's.
func (t *client) observeRefused(e flow.Event, major, minor int, target, authority string) {
	o := t.core.o.Observer
	if o == nil {
		return
	}
	s := t.core.o.Observations.Get()
	defer t.core.o.Observations.Put(s)
	e.Kind = flow.Request
	s.Event, s.Src = e, t.Info.Src
	s.Flag()
	s.Major, s.Minor, s.Target, s.Authority = major, minor, target, authority
	o.Observe(s)
}

// observed says whether somebody is told of requests.
func (x *exchange) observed() bool { return x.core.o.Observer != nil || x.core.o.Tracer != nil }

// goesTo notes where a request goes on to, and begins its span.
func (x *exchange) goesTo(u *policy.Upstream, out *message.Outgoing) {
	if x.to = u; !x.traced {
		x.trace(&out.Header)
	}
}

// trace begins the span of a request that goes on with the fields of h.
func (x *exchange) trace(h *field.List) {
	x.traced = true
	t := x.core.o.Tracer
	if t == nil {
		return
	}
	const id = "x-request-id"
	x.span = t.Begin(x.r.Header, h, x.start, session.Course{
		Layer: x.conn.Info.Layer, Workload: x.conn.Info.Workload, To: x.to, Dst: x.conn.Info.Dst, Socket: x.conn.Info.Socket, Host: x.r.Host,
	})
	if !x.r.Header.Has(id) {
		x.requestID = strings.Clone(h.Get(id))
	}
}

// answers notes that the head of the upstream's answer has come.
func (x *exchange) answers() {
	if x.observed() {
		x.headAfter = max(time.Since(x.start), 1)
	}
}

func (a *http1Answer) trailer() field.List { return a.tail }
