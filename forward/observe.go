// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"sync"
	"time"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// told has what observers were told in, to be used again.
type told struct{ pool sync.Pool }

func (t *told) get() *flow.Observation {
	if s, ok := t.pool.Get().(*flow.Observation); ok {
		return s
	}
	return new(flow.Observation)
}

func (t *told) put(s *flow.Observation) {
	*s = flow.Observation{}
	t.pool.Put(s)
}

// Tracer begins the spans of requests. Begin may change the fields with which a
// request goes on, of which h are the first copy, and never blocks. It is safe for
// concurrent use.
type Tracer interface {
	Begin(in field.List, h *field.List, start time.Time) Span
}

// Span is one request in a trace. Its methods are for one goroutine at a time.
type Span interface {
	// IDs are the trace's and the span's, in hexadecimal.
	IDs() (trace, span string)
	// End ends the span of a request; what s has is good until it returns.
	End(s *flow.Observation)
}

// record tells of a connection: whoever keeps events, and who observes.
func (t *conn) record(e flow.Event, d policy.Decision, u *policy.Upstream) {
	t.core.o.Sink.Record(e)
	o := t.core.o.Observer
	if o == nil {
		return
	}
	s := t.core.told.get()
	defer t.core.told.put(s)
	s.Event, s.Src, s.To, s.Host = flow.Flagged(e), t.info.Src, u, d.Host
	s.Begun = e.Kind == flow.Decision && e.Allowed
	o.Observe(s)
}
