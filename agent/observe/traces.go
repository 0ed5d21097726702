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

// traces have the Tracers of the moment, which the MeshConfig may change.
type traces struct {
	now    atomic.Pointer[tracers]
	failed atomic.Uint64 // of those before
	ending sync.WaitGroup
}

// tracers are those of providers that have a collector of their own, by name; that of ""
// is of everybody else.
type tracers struct {
	by       map[string]*tracing.Tracer
	defaults telemetry.Defaults
	rules    *telemetry.Rulebook // nil: no Telemetry says anything
}

// Begin implements session.Tracer.
func (t *traces) Begin(in field.List, h *field.List, start time.Time, of session.Course) session.Span {
	now := t.now.Load()
	if now == nil {
		return nil
	}
	var rules *telemetry.TraceRules
	provider := ""
	if b := now.rules; b != nil {
		f := telemetry.Scope{Layer: of.Layer, Workload: of.Workload, At: of.Dst, Socket: of.Socket, Host: of.Host}
		if of.To != nil {
			f.To = of.To.Rule
		}
		rules = &b.Rules(f).Trace
		provider = rules.Provider
	}
	name, ok := now.defaults.Tracer(provider)
	if tracer := now.by[name]; ok && tracer != nil && (rules == nil || !rules.Disabled) {
		return tracer.Begin(in, h, start, rules)
	}
	if rules != nil && rules.NoContext {
		tracing.Strip(h)
	}
	return nil
}

// set has others begin spans from now on. What waits in those before, and is in none of
// these, is sent.
func (t *traces) set(next *tracers) {
	was := t.now.Swap(next)
	if was == nil {
		return
	}
	for name, tracer := range was.by {
		if next != nil && next.by[name] == tracer {
			continue
		}
		t.ending.Go(func() {
			tracer.Close(closeWait)
			t.failed.Add(tracer.Failed())
		})
	}
}

func (t *traces) failures() uint64 {
	n := t.failed.Load()
	if now := t.now.Load(); now != nil {
		for _, tracer := range now.by {
			n += tracer.Failed()
		}
	}
	return n
}

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
func (w *Audience) trace(mesh policy.MeshTelemetry, d telemetry.Defaults, changed bool) {
	next := &tracers{defaults: d, rules: w.rules}
	if was := w.traces.now.Load(); was != nil && !changed {
		next.by = was.by
		w.traces.set(next)
		return
	}
	next.by = map[string]*tracing.Tracer{}
	begin := func(name string, o tracing.Options) {
		o.Log, o.Service = w.o.Log, w.o.Traces.Service
		t, err := tracing.New(o)
		if err != nil {
			w.o.Log.Error("a collector of the MeshConfig is not taken over; no span goes to it, and traffic is not affected: correct its address", "provider", name, "error", err)
		} else if t != nil {
			next.by[name] = t
		}
	}
	if o := w.o.Traces; d.OneTracer {
		begin("", o)
	} else {
		begin("", tracing.Options{Zipkin: mesh.Zipkin, Percent: d.Percent})
		for _, p := range mesh.TraceProviders {
			begin(p.Name, tracing.Options{Zipkin: p.Zipkin, OTLP: p.OTLP, Percent: d.Percent})
		}
	}
	w.traces.set(next)
}
