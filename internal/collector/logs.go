// SPDX-License-Identifier: Apache-2.0

package collector

import (
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
)

// logRecords are what Logs sends (opentelemetry-proto, logs_service.proto).
var logRecords = Signal{Path: "/v1/logs", Method: "/opentelemetry.proto.collector.logs.v1.LogsService/Export"}

const (
	// BatchSize and batchWait say when a batch of records is sent: so many, or after that.
	BatchSize = 512
	batchWait = time.Second
	// endWait is how long the last batch may take.
	endWait = time.Second
	// complainEvery bounds how often the log says that a collector takes nothing.
	complainEvery = time.Minute
)

// RecordOptions say what records are of, and who hears of those that are lost.
type RecordOptions struct {
	Service string // the attribute service.name
	// What is how the daemon's log calls them, as in "the access log".
	What string
	Log  *slog.Logger
	// Failed counts what the collector did not take.
	Failed *atomic.Uint64
	// Lost makes a record that tells how many were lost before, for the next batch; nil:
	// that is not told.
	Lost func(n uint64) *otlp.LogRecord
}

// Logs sends log records, several at a time. What a collector does not take is lost and
// counted. Who adds waits while a batch is sent, so that is to be a pipe. Use NewLogs, and
// Close at the end.
type Logs struct {
	RecordOptions
	to     *Collector
	ctx    context.Context // of what is sent
	cancel context.CancelFunc

	mu      sync.Mutex
	records []*otlp.LogRecord
	timer   *time.Timer // that sends what waits; nil: nothing does
	lost    uint64      // records of which nothing is told yet
	said    time.Time
}

// NewLogs makes one that sends to http://, https:// or grpc://ADDRESS:PORT.
func NewLogs(at string, o RecordOptions) (*Logs, error) {
	to, err := OTLP(at, logRecords)
	if err != nil {
		return nil, err
	}
	l := &Logs{RecordOptions: o, to: to}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l, nil
}

// Text is a string as records have it.
func Text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(s, "\ufffd")}}
}

// Add takes one record.
func (l *Logs) Add(r *otlp.LogRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	switch {
	case len(l.records) >= BatchSize:
		l.send()
	case l.timer == nil:
		l.timer = time.AfterFunc(batchWait, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.send()
		})
	}
}

// send sends what waits. The caller holds mu.
func (l *Logs) send() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	n := uint64(len(l.records))
	if n == 0 {
		return
	}
	records := l.records
	l.records = nil
	if l.lost > 0 && l.Lost != nil {
		records = append([]*otlp.LogRecord{l.Lost(l.lost)}, records...)
	}
	body, err := proto.Marshal(&service.ExportLogsServiceRequest{ResourceLogs: []*otlp.ResourceLogs{{
		Resource:  &resource.Resource{Attributes: []*common.KeyValue{{Key: "service.name", Value: Text(l.Service)}}},
		ScopeLogs: []*otlp.ScopeLogs{{Scope: &common.InstrumentationScope{Name: "egressd"}, LogRecords: records}},
	}}})
	if err == nil {
		err = l.to.Send(l.ctx, body)
	}
	if err == nil {
		l.lost = 0
		return
	}
	l.lost += n
	l.Failed.Add(n)
	if now := time.Now(); now.Sub(l.said) >= complainEvery {
		l.said = now
		l.Log.Warn("lines of "+l.What+" could not be sent to the collector, and are lost; traffic is not affected", "collector", l.to.Host(), "error", err)
	}
}

// Close sends what waits, for at most a second.
func (l *Logs) Close() error {
	defer l.cancel()
	defer time.AfterFunc(endWait, l.cancel).Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.send()
	l.to.Close()
	return nil
}
