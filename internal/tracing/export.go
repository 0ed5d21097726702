// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	service "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/egressd/egressd/internal/collector"
)

// complainEvery bounds how often the log says that a collector takes nothing.
const complainEvery = time.Minute

// otlpTraces are spans (opentelemetry-proto, trace_service.proto).
var otlpTraces = collector.Signal{Path: "/v1/traces", Method: "/opentelemetry.proto.collector.trace.v1.TraceService/Export"}

// exporter sends batches to a collector.
type exporter struct {
	o  Options
	to *collector.Collector
	// encode makes the body of a batch.
	encode func([]sdk.ReadOnlySpan) ([]byte, error)
	failed *atomic.Uint64

	mu   sync.Mutex
	said time.Time
}

func (o *Options) exporter(failed *atomic.Uint64) (e *exporter, err error) {
	e = &exporter{o: *o, failed: failed}
	switch {
	case o.OTLP != "":
		e.encode = e.otlp
		e.to, err = collector.OTLP(o.OTLP, otlpTraces)
	case o.Zipkin != "":
		at := o.Zipkin
		if !strings.Contains(at, "://") {
			at = "http://" + at
		}
		e.encode = e.zipkin
		e.to, err = collector.New(at, "/api/v2/spans", "application/json")
	}
	return e, err
}

// ExportSpans implements sdk.SpanExporter. What can't be sent is counted and lost.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	body, err := e.encode(spans)
	if err == nil {
		err = e.to.Send(ctx, body)
	}
	if err != nil {
		e.failed.Add(uint64(len(spans)))
		e.complain(err)
	}
	return nil
}

func (e *exporter) complain(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := time.Now(); now.Sub(e.said) >= complainEvery {
		e.said = now
		e.o.Log.Warn("spans could not be sent to the collector, and are lost; traffic is not affected", "collector", e.to.Host(), "error", err)
	}
}

// Shutdown implements sdk.SpanExporter.
func (e *exporter) Shutdown(context.Context) error {
	e.to.Close()
	return nil
}

func (e *exporter) otlp(spans []sdk.ReadOnlySpan) ([]byte, error) {
	list := make([]*otlp.Span, len(spans))
	for i, s := range spans {
		list[i] = otlpSpan(s)
	}
	return proto.Marshal(&service.ExportTraceServiceRequest{ResourceSpans: []*otlp.ResourceSpans{{
		Resource:   &resource.Resource{Attributes: []*common.KeyValue{text("service.name", e.o.Service)}},
		ScopeSpans: []*otlp.ScopeSpans{{Scope: &common.InstrumentationScope{Name: "egressd"}, Spans: list}},
	}}})
}

func text(key, value string) *common.KeyValue {
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(value, "\ufffd")}}}
}

func otlpSpan(s sdk.ReadOnlySpan) *otlp.Span {
	c := s.SpanContext()
	traceID, spanID := c.TraceID(), c.SpanID()
	out := &otlp.Span{
		TraceId: traceID[:], SpanId: spanID[:], TraceState: c.TraceState().String(), Name: strings.ToValidUTF8(s.Name(), "\ufffd"), Kind: otlp.Span_SPAN_KIND_CLIENT,
		StartTimeUnixNano: uint64(s.StartTime().UnixNano()), EndTimeUnixNano: uint64(s.EndTime().UnixNano()),
	}
	if p := s.Parent(); p.HasSpanID() {
		id := p.SpanID()
		out.ParentSpanId = id[:]
	}
	for _, a := range s.Attributes() {
		kv := text(string(a.Key), a.Value.Emit())
		if a.Value.Type() == attribute.INT64 {
			kv.Value = &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: a.Value.AsInt64()}}
		}
		out.Attributes = append(out.Attributes, kv)
	}
	if s.Status().Code == codes.Error {
		out.Status = &otlp.Status{Code: otlp.Status_STATUS_CODE_ERROR, Message: s.Status().Description}
	}
	return out
}

// zipkinSpan is a span in Zipkin's format (zipkin.io, API v2).
type zipkinSpan struct {
	TraceID   string            `json:"traceId"`
	ID        string            `json:"id"`
	ParentID  string            `json:"parentId,omitempty"`
	Name      string            `json:"name"`
	Kind      string            `json:"kind"`
	Timestamp int64             `json:"timestamp"` // microseconds
	Duration  int64             `json:"duration"`  // likewise, 1 at the least
	Local     map[string]string `json:"localEndpoint"`
	Tags      map[string]string `json:"tags"`
}

func (e *exporter) zipkin(spans []sdk.ReadOnlySpan) ([]byte, error) {
	list := make([]zipkinSpan, len(spans))
	for i, s := range spans {
		z := zipkinSpan{
			TraceID: s.SpanContext().TraceID().String(), ID: s.SpanContext().SpanID().String(), Name: s.Name(), Kind: kinds[s.SpanKind()],
			Timestamp: s.StartTime().UnixMicro(), Duration: max(s.EndTime().Sub(s.StartTime()).Microseconds(), 1),
			Local: map[string]string{"serviceName": e.o.Service}, Tags: map[string]string{},
		}
		if p := s.Parent(); p.HasSpanID() {
			z.ParentID = p.SpanID().String()
		}
		for _, a := range s.Attributes() {
			z.Tags[string(a.Key)] = a.Value.Emit()
		}
		if s.Status().Code == codes.Error {
			z.Tags["error"] = s.Status().Description
		}
		list[i] = z
	}
	return json.Marshal(list)
}

var kinds = map[trace.SpanKind]string{trace.SpanKindClient: "CLIENT", trace.SpanKindServer: "SERVER"}
