// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/internal/tracing"
	"github.com/egressd/egressd/policy"
)

// traces have the Tracer of the moment, which the MeshConfig may change.
type traces struct {
	now    atomic.Pointer[tracing.Tracer]     // nil: none
	rules  atomic.Pointer[telemetry.Rulebook] // nil: no Telemetry says anything
	failed atomic.Uint64                      // of those before
	ending sync.WaitGroup
}

// Begin implements session.Tracer.
func (t *traces) Begin(in field.List, h *field.List, start time.Time, of session.Course) session.Span {
	now := t.now.Load()
	if now == nil {
		return nil
	}
	var rules *telemetry.TraceRules
	if b := t.rules.Load(); b != nil {
		f := telemetry.Subject{Layer: of.Layer, Workload: of.Workload}
		if of.To != nil {
			f.To = of.To.Rule
		}
		rules = &b.Rules(f).Trace
	}
	return now.Begin(in, h, start, rules)
}

// set has another Tracer begin spans from now on. What waits in the one before is sent.
func (t *traces) set(next *tracing.Tracer) {
	was := t.now.Swap(next)
	t.ending.Go(func() {
		was.Close(closeWait)
		t.failed.Add(was.Failed())
	})
}

func (t *traces) failures() uint64 { return t.failed.Load() + t.now.Load().Failed() }

func (t *traces) close() {
	t.set(nil)
	t.ending.Wait()
}

// Tracer begins the spans of requests; nil: there is none.
func (w *Audience) Tracer() session.Tracer {
	if w == nil {
		return nil
	}
	return &w.traces
}

// trace has spans go where the command line says, or else the MeshConfig.
func (w *Audience) trace(mesh policy.MeshTelemetry) {
	o := w.o.Traces
	o.Log = w.o.Log
	if o.OTLP == "" && o.Zipkin == "" {
		o.OTLP, o.Zipkin, o.Percent = mesh.OTLP, mesh.Zipkin, mesh.TraceSampling
	}
	t, err := tracing.New(o)
	if err != nil {
		w.o.Log.Error("the MeshConfig's tracing is not taken over; spans go on as before, and traffic is not affected: correct its address", "error", err)
		return
	}
	w.traces.set(t)
}
