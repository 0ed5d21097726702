// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"bytes"
	"log/slog"
	"sync/atomic"
	"time"

	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/logs/v1"

	"github.com/egressd/egressd/internal/collector"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
)

// records sends lines to a collector. While a batch is being sent, who writes waits,
// which is a pipe that drops and counts.
type records struct{ *collector.Logs }

func newRecords(at, service string, failed *atomic.Uint64, log *slog.Logger) (records, error) {
	to, err := collector.NewLogs(at, collector.RecordOptions{
		Service: service, What: "the flow log", Log: log, Failed: failed,
		Lost: func(n uint64) *otlp.LogRecord {
			line := flowrecord.Lost(n, time.Now())
			e, _ := flowrecord.Parse(line) // it is one
			return logRecord(&e, line)
		},
	})
	return records{to}, err
}

func (r records) Write(line []byte) (int, error) {
	e, err := flowrecord.Parse(line)
	if err != nil {
		return 0, err
	}
	r.Add(logRecord(&e, line))
	return len(line), nil
}

// logRecord has the line as its body, and what people look for as attributes.
func logRecord(e *flow.Event, line []byte) *otlp.LogRecord {
	r := &otlp.LogRecord{
		TimeUnixNano: uint64(e.Time.UnixNano()), ObservedTimeUnixNano: uint64(e.Time.UnixNano()), EventName: "egressd." + string(e.Kind),
		Body: collector.Text(string(bytes.TrimSuffix(line, []byte("\n")))),
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
			add(a[0], collector.Text(a[1]))
		}
	}
	add("egressd.allowed", &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: e.Allowed}})
	if e.Dst.IsValid() {
		add("network.peer.address", collector.Text(e.Dst.Addr().String()))
		add("network.peer.port", &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: int64(e.Dst.Port())}})
	}
	if e.Socket != "" {
		add("network.transport", collector.Text("unix"))
		add("network.local.address", collector.Text(e.Socket))
	}
	return r
}
