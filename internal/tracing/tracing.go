// SPDX-License-Identifier: Apache-2.0

// Package tracing makes spans of requests, and sends them to a collector: by OTLP over
// HTTP or gRPC, or in Zipkin's format. The context of a trace comes and goes on in the
// fields of W3C (traceparent) and B3.
package tracing

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/propagators/b3"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/accesslog"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/policy"
)

// requestID is the field that people follow a request by; one that is there is kept.
const requestID = "x-request-id"

// Options say where spans go. Only one of the endpoints is used, OTLP before Zipkin.
type Options struct {
	// OTLP is http://, https:// or grpc://ADDRESS:PORT; over HTTP the path is
	// /v1/traces unless there is one. Zipkin is ADDRESS:PORT, or the whole URL.
	OTLP, Zipkin string
	// Percent is how many requests of which nobody has decided are traced, 0 to 100.
	Percent float64
	// Service is the name under which the spans are shown.
	Service string
	Log     *slog.Logger
}

// Validate says what is wrong with options.
func (o *Options) Validate() error {
	_, err := o.exporter(nil)
	return err
}

// Tracer begins spans. Use New, and Close at the end.
type Tracer struct {
	provider *sdk.TracerProvider
	spans    trace.Tracer
	w3c      propagation.TraceContext
	b3, one  propagation.TextMapPropagator // in several fields, and in one
	failed   *atomic.Uint64
}

// New makes a Tracer, and nil where there is nowhere to send spans.
func New(o Options) (*Tracer, error) {
	if o.OTLP == "" && o.Zipkin == "" {
		return nil, nil
	}
	failed := &atomic.Uint64{}
	e, err := o.exporter(failed)
	if err != nil {
		return nil, err
	}
	// A parent that has decided is followed.
	sampler := sdk.ParentBased(sampler{sdk.TraceIDRatioBased(o.Percent / 100)})
	p := sdk.NewTracerProvider(sdk.WithSampler(sampler), sdk.WithBatcher(e, sdk.WithBatchTimeout(time.Second)), sdk.WithResource(nil))
	return &Tracer{
		provider: p, spans: p.Tracer("egressd"), failed: failed,
		b3:  b3.New(b3.WithInjectEncoding(b3.B3MultipleHeader)),
		one: b3.New(b3.WithInjectEncoding(b3.B3SingleHeader)),
	}, nil
}

// Failed is how many spans could not be sent.
func (t *Tracer) Failed() uint64 {
	if t == nil {
		return 0
	}
	return t.failed.Load()
}

// Close sends what waits, at most for a time.
func (t *Tracer) Close(wait time.Duration) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // what could not be sent is counted
}

// carrier has propagators read one list of fields and write another.
type carrier struct {
	in  field.List
	out *field.List
}

func (c carrier) Get(name string) string { return strings.Clone(c.in.Get(name)) }
func (c carrier) Set(name, value string) { c.out.Set(name, value) }
func (c carrier) Keys() []string {
	names := make([]string, len(c.in))
	for i := range c.in {
		names[i] = c.in[i].Name
	}
	return names
}

// percentKey is of the context that has how many of its requests are traced.
type percentKey struct{}

// sampler decides where nobody has, by what a Telemetry object says or as all do.
type sampler struct{ sdk.Sampler }

// ShouldSample implements sdk.Sampler.
func (s sampler) ShouldSample(p sdk.SamplingParameters) sdk.SamplingResult {
	if percent, ok := p.ParentContext.Value(percentKey{}).(float64); ok {
		return sdk.TraceIDRatioBased(percent / 100).ShouldSample(p)
	}
	return s.Sampler.ShouldSample(p)
}

// contextFields are those of W3C and of B3.
var contextFields = []string{"traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"}

// Strip takes the fields of a trace away.
func Strip(h *field.List) {
	for _, name := range contextFields {
		h.Del(name)
	}
}

// Begin begins the span of a request as a session.Tracer does. rules are what Telemetry
// objects say of it; nil: nothing. Where these want no span it is nil, and the fields of
// the trace go on as they came.
func (t *Tracer) Begin(in field.List, h *field.List, start time.Time, rules *telemetry.TraceRules) session.Span {
	if !in.Has(requestID) {
		h.Add(requestID, newID())
	}
	ctx := context.Background()
	if rules != nil {
		if rules.Disabled {
			return nil
		}
		if rules.Percent != nil {
			ctx = context.WithValue(ctx, percentKey{}, *rules.Percent)
		}
	}
	c := carrier{in, h}
	ctx = t.w3c.Extract(ctx, c)
	inB3 := in.Has("b3") || in.Has("x-b3-traceid") || in.Has("x-b3-sampled") || in.Has("x-b3-flags")
	if inB3 && !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = t.b3.Extract(ctx, c)
	}
	ctx, s := t.spans.Start(ctx, "egress", trace.WithTimestamp(start), trace.WithSpanKind(trace.SpanKindClient))
	out := &span{Span: s}
	if rules != nil {
		out.tags = rules.Tags
	}
	if rules != nil && rules.NoContext {
		Strip(h)
		return out
	}
	t.w3c.Inject(ctx, c)
	// What is of the span before does not go on beside it.
	for _, name := range []string{"b3", "x-b3-parentspanid", "x-b3-flags"} {
		h.Del(name)
	}
	switch {
	case in.Has("b3"):
		t.one.Inject(ctx, c)
	case inB3 || !in.Has("traceparent"):
		t.b3.Inject(ctx, c)
	}
	return out
}

// span is one request.
type span struct {
	trace.Span
	tags map[string]policy.TelemetryTag // of Telemetry objects
}

// IDs implements session.Span.
func (s *span) IDs() (traceID, spanID string) {
	c := s.SpanContext()
	return c.TraceID().String(), c.SpanID().String()
}

// End implements session.Span. Attributes have the names of OpenTelemetry's semantic
// conventions for HTTP, and Istio's for what those have not.
func (s *span) End(o *flow.Observation) {
	if !s.IsRecording() {
		s.Span.End()
		return
	}
	host := strings.Clone(o.Authority)
	s.SetName(host + ":" + strconv.Itoa(int(o.Dst.Port())) + "/*")
	path, _, _ := strings.Cut(o.Target, "?") // a query may have what nobody is to read
	s.SetAttributes(
		attribute.String("http.request.method", strings.Clone(o.Method)), attribute.String("url.path", strings.Clone(path)),
		attribute.String("server.address", host), attribute.Int("http.response.status_code", o.Status),
		attribute.String("response_flags", or(o.ResponseFlags, "-")), attribute.Int64("http.request.body.size", o.BytesSent),
		attribute.Int64("http.response.body.size", o.BytesReceived), attribute.String("egressd.workload", o.Workload),
		attribute.String("egressd.verdict", o.Verdict.String()), attribute.String("egressd.reason", string(o.Reason)),
	)
	if id := o.ID(); id != "" {
		s.SetAttributes(attribute.String("guid:x-request-id", strings.Clone(id)))
	}
	for name, tag := range s.tags {
		value := tag.Value
		if i := o.Request.Index(tag.Header, 0); tag.Header != "" && i >= 0 {
			value = strings.Clone(o.Request[i].Value)
		}
		if tag.Format != "" {
			t, _ := accesslog.NewTemplate(tag.Format) // it was checked
			value = t.Of(o)
		}
		if value != "" {
			s.SetAttributes(attribute.String(name, value))
		}
	}
	if o.Event.Upstream.IsValid() {
		s.SetAttributes(attribute.String("network.peer.address", o.Event.Upstream.Addr().String()), attribute.Int("network.peer.port", int(o.Event.Upstream.Port())))
	}
	if o.Status >= 500 || !o.Allowed {
		s.SetStatus(codes.Error, string(o.Reason))
	}
	s.Span.End(trace.WithTimestamp(o.Time))
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// newID is a random UUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		binary.NativeEndian.PutUint64(b[:], mrand.Uint64())
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
