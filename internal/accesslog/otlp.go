// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	otlp "go.opentelemetry.io/proto/slim/otlp/logs/v1"

	"github.com/egressd/egressd/internal/collector"
)

// IsCollector says whether a text names a collector, and no file.
func IsCollector(to string) bool { return strings.Contains(to, "://") }

// OTLPWriter sends lines to a collector as log records whose body is the line, as Envoy's
// OpenTelemetry access log does. What the collector does not take is lost and counted.
// Who writes waits while lines are sent: that is the pipe of an AccessLog. Use NewOTLP,
// and Close at the end.
type OTLPWriter struct {
	to     *collector.Logs
	failed atomic.Uint64
}

// NewOTLP makes a writer to http://, https:// or grpc://ADDRESS:PORT.
func NewOTLP(at, name string, log *slog.Logger) (*OTLPWriter, error) {
	w := &OTLPWriter{}
	var err error
	w.to, err = collector.NewLogs(at, collector.RecordOptions{Service: name, What: "the access log", Log: log, Failed: &w.failed})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// Write takes one line. It never fails.
func (w *OTLPWriter) Write(line []byte) (int, error) {
	now := uint64(time.Now().UnixNano())
	w.to.Add(&otlp.LogRecord{
		TimeUnixNano: now, ObservedTimeUnixNano: now, SeverityNumber: otlp.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
		Body: collector.Text(string(bytes.TrimSuffix(line, []byte("\n")))), EventName: "egressd.access",
	})
	return len(line), nil
}

// Failed is how many lines the collector did not take; nil: none.
func (w *OTLPWriter) Failed() uint64 {
	if w == nil {
		return 0
	}
	return w.failed.Load()
}

// Close sends what waits, for at most a second.
func (w *OTLPWriter) Close() error { return w.to.Close() }
