// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const (
	// sendWait is how long a collector may take for one batch.
	sendWait = 10 * time.Second
	// complainEvery bounds how often the log says that a collector takes nothing.
	complainEvery = time.Minute
	// grpcPath is the collector's method (opentelemetry-proto, trace_service.proto).
	grpcPath = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
)

// exporter sends batches by POST.
type exporter struct {
	o      Options
	to     *url.URL
	client *http.Client
	// encode makes the body of a batch, of the type content.
	encode  func([]sdk.ReadOnlySpan) ([]byte, error)
	content string
	grpc    bool
	failed  *atomic.Uint64

	mu   sync.Mutex
	said time.Time
}

func (o *Options) exporter(failed *atomic.Uint64) (e *exporter, err error) {
	// The collector is the operator's: no proxy of the environment stands before it.
	transport := &http.Transport{ResponseHeaderTimeout: sendWait, IdleConnTimeout: time.Minute, MaxIdleConns: 1}
	e = &exporter{o: *o, failed: failed, client: &http.Client{
		Timeout: sendWait, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	switch {
	case strings.HasPrefix(o.OTLP, "grpc://"):
		e.encode, e.content, e.grpc = e.otlpGRPC, "application/grpc", true
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
		if e.to, err = endpoint(o.OTLP, grpcPath, "grpc"); err == nil {
			e.to.Scheme = "http"
		}
	case o.OTLP != "":
		e.encode, e.content = e.otlp, "application/x-protobuf"
		e.to, err = endpoint(o.OTLP, "/v1/traces", "http", "https")
	case o.Zipkin != "":
		at := o.Zipkin
		if !strings.Contains(at, "://") {
			at = "http://" + at
		}
		e.encode, e.content = e.zipkin, "application/json"
		e.to, err = endpoint(at, "/api/v2/spans", "http", "https")
	}
	return e, err
}

// ExportSpans implements sdk.SpanExporter. What can't be sent is counted and lost.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	body, err := e.encode(spans)
	if err == nil {
		err = e.post(ctx, body)
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
		e.o.Log.Warn("spans could not be sent to the collector, and are lost; traffic is not affected", "collector", e.to.Host, "error", err)
	}
}

func (e *exporter) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.to.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", e.content)
	if e.grpc {
		req.Header.Set("TE", "trailers")
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // the status says it
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", resp.Status)
	}
	if !e.grpc {
		return nil
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status")
	}
	if status != "0" {
		return fmt.Errorf("the collector answers with the gRPC status %q", status)
	}
	return nil
}

// Shutdown implements sdk.SpanExporter.
func (e *exporter) Shutdown(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}

// otlpGRPC is a message of gRPC: a byte for compression, a length, and the body.
func (e *exporter) otlpGRPC(spans []sdk.ReadOnlySpan) ([]byte, error) {
	body, err := e.otlp(spans)
	if err != nil {
		return nil, err
	}
	head := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)))
	return append(head, body...), nil
}

func (e *exporter) otlp(spans []sdk.ReadOnlySpan) ([]byte, error) {
	list := make([]*otlp.Span, len(spans))
	for i, s := range spans {
		list[i] = otlpSpan(s)
	}
	return proto.Marshal(&collector.ExportTraceServiceRequest{ResourceSpans: []*otlp.ResourceSpans{{
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
