// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	service "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/egressd/egressd/internal/collector"
)

// otlpLogs are log records (opentelemetry-proto, logs_service.proto).
var otlpLogs = collector.Signal{Path: "/v1/logs", Method: "/opentelemetry.proto.collector.logs.v1.LogsService/Export"}

const (
	// batchLines and batchWait say when lines are sent.
	batchLines = 512
	batchWait  = time.Second
	// sendWait is how long the last of them may take.
	sendWait = time.Second
	// complainEvery bounds how often the log says that a collector takes nothing.
	complainEvery = time.Minute
)

// IsCollector says whether a text names a collector, and no file.
func IsCollector(to string) bool { return strings.Contains(to, "://") }

// OTLPWriter sends lines to a collector as log records whose body is the line, as Envoy's
// OpenTelemetry access log does. What the collector does not take is lost and counted.
// Who writes waits while lines are sent: that is the pipe of an AccessLog. Use NewOTLP,
// and Close at the end.
type OTLPWriter struct {
	to     *collector.Collector
	name   string // of the service
	log    *slog.Logger
	ctx    context.Context // of what is sent
	cancel context.CancelFunc
	failed atomic.Uint64

	mu    sync.Mutex
	lines []*otlp.LogRecord
	timer *time.Timer // that sends what waits; nil: nothing does
	said  time.Time
}

// NewOTLP makes a writer to http://, https:// or grpc://ADDRESS:PORT.
func NewOTLP(at, name string, log *slog.Logger) (*OTLPWriter, error) {
	to, err := collector.OTLP(at, otlpLogs)
	if err != nil {
		return nil, err
	}
	w := &OTLPWriter{to: to, name: name, log: log}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w, nil
}

// Write takes one line. It never fails.
func (w *OTLPWriter) Write(line []byte) (int, error) {
	now := uint64(time.Now().UnixNano())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, &otlp.LogRecord{
		TimeUnixNano: now, ObservedTimeUnixNano: now, SeverityNumber: otlp.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
		Body: stringValue(string(bytes.TrimSuffix(line, []byte("\n")))), EventName: "egressd.access",
	})
	switch {
	case len(w.lines) >= batchLines:
		w.send()
	case w.timer == nil:
		w.timer = time.AfterFunc(batchWait, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.send()
		})
	}
	return len(line), nil
}

func stringValue(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(s, "\ufffd")}}
}

// send sends what waits. w.mu is held.
func (w *OTLPWriter) send() {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if len(w.lines) == 0 {
		return
	}
	lines := w.lines
	w.lines = nil
	body, err := proto.Marshal(&service.ExportLogsServiceRequest{ResourceLogs: []*otlp.ResourceLogs{{
		Resource:  &resource.Resource{Attributes: []*common.KeyValue{{Key: "service.name", Value: stringValue(w.name)}}},
		ScopeLogs: []*otlp.ScopeLogs{{Scope: &common.InstrumentationScope{Name: "egressd"}, LogRecords: lines}},
	}}})
	if err == nil {
		err = w.to.Send(w.ctx, body)
	}
	if err == nil {
		return
	}
	w.failed.Add(uint64(len(lines)))
	if now := time.Now(); now.Sub(w.said) >= complainEvery {
		w.said = now
		w.log.Warn("lines of the access log could not be sent to the collector, and are lost; traffic is not affected", "collector", w.to.Host(), "error", err)
	}
}

// Failed is how many lines the collector did not take; nil: none.
func (w *OTLPWriter) Failed() uint64 {
	if w == nil {
		return 0
	}
	return w.failed.Load()
}

// Close sends what waits, for at most a second.
func (w *OTLPWriter) Close() error {
	defer w.cancel()
	defer time.AfterFunc(sendWait, w.cancel).Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.send()
	w.to.Close()
	return nil
}
