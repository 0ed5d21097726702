// SPDX-License-Identifier: Apache-2.0

package session

import (
	"net/netip"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Observations are those that observers were told in, to be used again.
type Observations struct{ pool sync.Pool }

// Get returns an empty one.
func (t *Observations) Get() *flow.Observation {
	if s, ok := t.pool.Get().(*flow.Observation); ok {
		return s
	}
	return new(flow.Observation)
}

// Put takes back what nobody reads any more.
func (t *Observations) Put(s *flow.Observation) {
	*s = flow.Observation{}
	t.pool.Put(s)
}

// Tracer begins the spans of requests. Begin may change the fields with which a
// request goes on, of which h are the first copy, and never blocks. It is safe for
// concurrent use. A nil Span is none.
type Tracer interface {
	Begin(in field.List, h *field.List, start time.Time, of Course) Span
}

// Course is whose request goes where, and through which side of egressd. Dst or Socket is
// where it came to, Host what it asks for.
type Course struct {
	Layer    flow.Layer
	Workload string
	To       *policy.Upstream
	Dst      netip.AddrPort
	Socket   string
	Host     string
}

// Span is one request in a trace. Its methods are for one goroutine at a time.
type Span interface {
	// IDs are the trace's and the span's, in hexadecimal.
	IDs() (trace, span string)
	// End ends the span of a request; what s has is good until it returns.
	End(s *flow.Observation)
}

// Record tells of the connection, of which d was decided, and u is where it goes; nil:
// nowhere. Whoever keeps events is told, and who observes.
func (t *Session) Record(e flow.Event, d policy.Decision, u *policy.Upstream) {
	s := t.shared.Observations.Get()
	defer t.shared.Observations.Put(s)
	s.Event = e
	s.Flag()
	t.shared.Sink.Record(&s.Event)
	if o := t.shared.Observer; o != nil {
		s.Src, s.To, s.Host = t.Info.Src, u, d.Host
		s.Begun = e.Kind == flow.Decision && e.Allowed
		o.Observe(s)
	}
}

// Tell has whoever keeps events told e. It is for what nobody observes, or is observed by
// itself.
func (t *Session) Tell(e flow.Event) { t.shared.Teller.Tell(t.shared.Sink, e) }
