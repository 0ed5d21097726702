// SPDX-License-Identifier: Apache-2.0

// Package observe is who is told of what has ended: the access log and Istio's
// standard metrics, as the command line and the MeshConfig want them.
package observe

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/egressd/egressd/internal/accesslog"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/logfile"
	"github.com/egressd/egressd/internal/meshmetrics"
	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/internal/tracing"
	"github.com/egressd/egressd/policy"
)

// Where an access log may go beside a file.
const (
	Off    = "off"
	Stdout = "/dev/stdout"
	Stderr = "/dev/stderr"
)

// LogOptions say what the command line wants of the access log.
type LogOptions struct {
	// To is a file, a collector of OTLP, Stdout, Stderr or Off; "": what the MeshConfig
	// says. Service is whose lines they are at the collector.
	To, Service string
	// Format and Encoding are accesslog.ParseFormat's; empty ones are the MeshConfig's.
	Format, Encoding string
	// A file that has Size bytes is rotated, and Kept old ones stay.
	Size int64
	Kept int
	// Percent and Verdicts say of what there are lines; accesslog.Config.
	Percent  float64
	Verdicts []string
}

// Options configure an Audience.
type Options struct {
	Access         LogOptions
	Stdout, Stderr io.Writer
	// Traces say where spans go; without an endpoint the MeshConfig says it.
	Traces tracing.Options
	// Series bounds Istio's standard metrics; negative: there are none. 0: the default.
	Series int
	// Snapshot is the policy in force, nil before the first.
	Snapshot func() *policy.Snapshot
	Rand     func() uint64
	Log      *slog.Logger
}

// closeWait is how long an end waits for who takes the access log.
const closeWait = time.Second

// Audience is who is told. Use New; nil is nobody.
type Audience struct {
	o       Options
	access  *accesslog.AccessLog
	metrics *meshmetrics.Metrics // nil: none
	traces  traces

	mu    sync.Mutex
	file  *logfile.RotatedFile // nil: none is open
	lines lineCollectors
	last  policy.MeshTelemetry
	set   bool
	// rules are of objects and of workloads, and made anew with each snapshot that has
	// Telemetry objects.
	rules *telemetry.Rulebook
}

// Check says what is wrong with options.
func (o *LogOptions) Check() error {
	switch o.To {
	case "", Off, Stdout, Stderr:
	default:
		if accesslog.IsCollector(o.To) {
			if _, err := accesslog.NewOTLP(o.To, o.Service, nil); err != nil {
				return err
			}
		} else if !filepath.IsAbs(o.To) {
			return fmt.Errorf("the access log %q is no absolute path of a file, no http://, https:// or grpc://ADDRESS:PORT of a collector, and none of %s, %s and %s", o.To, Stdout, Stderr, Off)
		}
	}
	if o.Format == "" && o.Encoding == "" {
		return nil
	}
	_, err := accesslog.ParseFormat(o.Format, o.Encoding)
	return err
}

// New makes an Audience. The error is that of the file of the access log.
func New(o Options) (*Audience, error) {
	w := &Audience{o: o, access: accesslog.New(o.Rand), lines: lineCollectors{by: map[string]*accesslog.OTLPWriter{}}}
	if o.Series >= 0 {
		w.metrics = meshmetrics.New(meshmetrics.Options{Series: o.Series, Identity: w.identity})
	}
	if to := o.Access.To; filepath.IsAbs(to) && to != Stdout && to != Stderr {
		f, err := logfile.Open(to, o.Access.Size, o.Access.Kept)
		if err != nil {
			w.access.Close(0)
			return nil, fmt.Errorf("open the access log: %w", err)
		}
		w.file = f
	}
	w.Follow(nil)
	return w, nil
}

// Observer is who is told; nil: nobody is.
func (w *Audience) Observer() flow.Observer {
	switch {
	case w == nil:
		return nil
	case w.metrics == nil:
		return w.access
	}
	return flow.Observers{w.metrics, w.access}
}

// Collectors are the metrics of all that.
func (w *Audience) Collectors() []prometheus.Collector {
	if w == nil {
		return nil
	}
	counter := func(name, help string, n func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(n()) })
	}
	out := []prometheus.Collector{
		counter("egressd_access_log_dropped_total", "Lines of the access log that were dropped, because nobody took them or they could not be written.", func() uint64 { return w.access.Dropped() + w.untaken() }),
		counter("egressd_trace_spans_failed_total", "Spans that could not be sent to the collector, and are lost.", w.traces.failures),
	}
	if w.metrics != nil {
		out = append(out, w.metrics)
	}
	return out
}

// Follow has the access log, metrics and traces be as the MeshConfig and the Telemetry
// objects of a snapshot want them, as far as the command line leaves that to them. A
// format with an error changes nothing.
func (w *Audience) Follow(s *policy.Snapshot) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	mesh, was := s.Telemetry(), w.rules
	d := w.defaults(mesh)
	w.rules = telemetry.New(s, d, s.IdentityOf)
	if w.metrics != nil && (was != nil || w.rules != nil) {
		w.metrics.Follow(w.rules)
	}
	changed := !w.set || !reflect.DeepEqual(mesh, w.last)
	if !changed && was == nil && w.rules == nil {
		return
	}
	w.set, w.last = true, mesh
	w.trace(mesh, d, changed)
	c, err := w.config(mesh, d)
	if err != nil {
		w.o.Log.Error("the MeshConfig's access log is not taken over; lines are written as before, and traffic is not affected: correct its format or its collector", "error", err)
		return
	}
	w.access.Set(c)
	w.lines.keep(c, w.access)
}

// Defaults are what counts of a policy where no Telemetry says otherwise.
func (w *Audience) Defaults(s *policy.Snapshot) telemetry.Defaults {
	if w == nil {
		return telemetry.Defaults{}
	}
	return w.defaults(s.Telemetry())
}

// defaults are the MeshConfig's, or the command line's.
func (w *Audience) defaults(mesh policy.MeshTelemetry) telemetry.Defaults {
	d := telemetry.DefaultsOf(mesh)
	switch to := w.o.Access.To; {
	case to == Off:
		d.Logs = nil
	case len(mesh.DefaultLogs) > 0, to == "":
	case accesslog.IsCollector(to):
		d.Logs = []string{"otel"}
	default:
		d.Logs = []string{telemetry.BuiltIn}
	}
	if t := w.o.Traces; t.OTLP != "" || t.Zipkin != "" {
		d.OneTracer, d.Percent = true, t.Percent
	}
	return d
}

// Reopen opens the file of the access log anew.
func (w *Audience) Reopen() {
	if w == nil || w.file == nil {
		return
	}
	if err := w.file.Reopen(); err != nil {
		w.o.Log.Error("the access log could not be opened anew; lines go on to the file that was open", "error", err)
	}
}

// Close writes what waits, and ends the log.
func (w *Audience) Close() {
	if w == nil {
		return
	}
	w.access.Close(closeWait)
	w.traces.close()
	w.lines.close()
	if w.file != nil {
		_ = w.file.Close() // every line was written on its own
	}
}

// identity is that of a workload that the policy in force describes.
func (w *Audience) identity(name string) (policy.Identity, bool) {
	return w.o.Snapshot().IdentityOf(name)
}
