// SPDX-License-Identifier: Apache-2.0

package flowlog

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
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
)

// otlpLogs are log records (opentelemetry-proto, logs_service.proto).
var otlpLogs = collector.Signal{Path: "/v1/logs", Method: "/opentelemetry.proto.collector.logs.v1.LogsService/Export"}

const (
	// batchLines and batchWait say when a batch is sent.
	batchLines = 512
	batchWait  = time.Second
	// endWait is how long the last batch may take.
	endWait = time.Second
)

// batches collects lines and sends them together. While a batch is being sent, who
// writes waits, which is a pipe that drops and counts.
type batches struct {
	to      *collector.Collector
	service string
	failed  *atomic.Uint64
	log     *slog.Logger
	ctx     context.Context // of what is sent
	cancel  context.CancelFunc

	mu    sync.Mutex
	lines [][]byte
	timer *time.Timer // that sends what waits; nil: nothing does
	lost  uint64      // lines of batches that were not taken, and of which nothing is told yet
	said  time.Time
}

func newBatches(c *collector.Collector, name string, failed *atomic.Uint64, log *slog.Logger) *batches {
	b := &batches{to: c, service: name, failed: failed, log: log}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

func (b *batches) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, line)
	if len(b.lines) >= batchLines {
		b.send()
	} else if b.timer == nil {
		b.timer = time.AfterFunc(batchWait, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.send()
		})
	}
	return len(line), nil
}

// send sends what waits. The caller holds mu.
func (b *batches) send() {
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if len(b.lines) == 0 {
		return
	}
	lines := b.lines
	if b.lost > 0 {
		lines = append([][]byte{flowrecord.Lost(b.lost, time.Now())}, lines...)
	}
	body, err := b.encode(lines)
	if err == nil {
		err = b.to.Send(b.ctx, body)
	}
	n := uint64(len(b.lines))
	b.lines = nil
	if err == nil {
		b.lost = 0
		return
	}
	b.lost += n
	b.failed.Add(n)
	if now := time.Now(); now.Sub(b.said) >= complainEvery {
		b.said = now
		b.log.Warn("lines of the flow log could not be sent to the collector, and are lost; traffic is not affected", "collector", b.to.Host(), "error", err)
	}
}

// Close sends what waits, for at most endWait.
func (b *batches) Close() error {
	defer time.AfterFunc(endWait, b.cancel).Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.send()
	b.to.Close()
	return nil
}

func (b *batches) encode(lines [][]byte) ([]byte, error) {
	list := make([]*otlp.LogRecord, 0, len(lines))
	for _, l := range lines {
		e, err := flowrecord.Parse(l)
		if err != nil {
			return nil, err
		}
		list = append(list, logRecord(&e, l))
	}
	return proto.Marshal(&service.ExportLogsServiceRequest{ResourceLogs: []*otlp.ResourceLogs{{
		Resource:  &resource.Resource{Attributes: []*common.KeyValue{{Key: "service.name", Value: text(b.service)}}},
		ScopeLogs: []*otlp.ScopeLogs{{Scope: &common.InstrumentationScope{Name: "egressd"}, LogRecords: list}},
	}}})
}

func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(s, "\ufffd")}}
}

// logRecord has the line as its body, and what people look for as attributes.
func logRecord(e *flow.Event, line []byte) *otlp.LogRecord {
	r := &otlp.LogRecord{
		TimeUnixNano: uint64(e.Time.UnixNano()), ObservedTimeUnixNano: uint64(e.Time.UnixNano()), EventName: "egressd." + string(e.Kind),
		Body: text(string(bytes.TrimSuffix(line, []byte("\n")))),
	}
	switch severity(e) {
	case severityWarning:
		r.SeverityNumber, r.SeverityText = otlp.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	case severityNotice:
		r.SeverityNumber, r.SeverityText = otlp.SeverityNumber_SEVERITY_NUMBER_INFO2, "INFO2"
	default:
		r.SeverityNumber, r.SeverityText = otlp.SeverityNumber_SEVERITY_NUMBER_INFO, "INFO"
	}
	add := func(key string, v *common.AnyValue) {
		r.Attributes = append(r.Attributes, &common.KeyValue{Key: key, Value: v})
	}
	for _, a := range [][2]string{
		{"egressd.workload", e.Workload}, {"egressd.verdict", e.Verdict.String()}, {"egressd.reason", string(e.Reason)}, {"server.address", e.Name}, {"process.command", e.Process.Command},
	} {
		if a[1] != "" {
			add(a[0], text(a[1]))
		}
	}
	add("egressd.allowed", &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: e.Allowed}})
	if e.Dst.IsValid() {
		add("network.peer.address", text(e.Dst.Addr().String()))
		add("network.peer.port", &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: int64(e.Dst.Port())}})
	}
	return r
}
