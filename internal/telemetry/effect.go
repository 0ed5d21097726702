// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/policy"
)

// Effect says of flows of a scope what is logged, traced and counted, and which objects
// say so.
type Effect struct {
	// Objects are the Telemetry objects that act, the nearest last.
	Objects []policy.Ref `json:"objects,omitempty"`
	// Log are the providers of the access log that have lines.
	Log []LogEffect `json:"accessLog"`
	// Trace is nil when no request has a span.
	Trace *TraceEffect `json:"trace,omitempty"`
	// NoContext: the fields of a trace do not go on.
	NoContext bool `json:"noContextPropagation,omitempty"`
	// Uncounted: no metric of Istio's counts. Metrics are those that are changed.
	Uncounted bool           `json:"metricsDisabled,omitempty"`
	Metrics   []MetricEffect `json:"metrics,omitempty"`
}

// LogEffect is a provider, and the condition that must hold; "": every flow has a line.
type LogEffect struct {
	Provider string `json:"provider"`
	Filter   string `json:"filter,omitempty"`
}

// TraceEffect says how many requests have a span, in percent of those of which the caller
// has not decided, and where it goes; "": where a flag or defaultConfig says.
type TraceEffect struct {
	Provider string   `json:"provider,omitempty"`
	Percent  float64  `json:"percent"`
	Tags     []string `json:"tags,omitempty"`
}

// MetricEffect is one metric that is not as Istio has it.
type MetricEffect struct {
	Metric   string            `json:"metric"`
	Disabled bool              `json:"disabled,omitempty"`
	Removed  []string          `json:"removed,omitempty"` // labels
	Set      map[string]string `json:"set,omitempty"`     // labels and their expressions
}

// names are those that Prometheus has for metrics.
var names = map[string]string{
	"REQUEST_COUNT": "istio_requests_total", "REQUEST_DURATION": "istio_request_duration_milliseconds", "REQUEST_SIZE": "istio_request_bytes", "RESPONSE_SIZE": "istio_response_bytes",
	"TCP_SENT_BYTES": "istio_tcp_sent_bytes_total", "TCP_RECEIVED_BYTES": "istio_tcp_received_bytes_total",
	"TCP_OPENED_CONNECTIONS": "istio_tcp_connections_opened_total", "TCP_CLOSED_CONNECTIONS": "istio_tcp_connections_closed_total",
}

// Tell says what a policy has be logged, traced and counted of flows of a scope.
func Tell(s *policy.Snapshot, d Defaults, f Scope) Effect {
	r := &FlowRules{log: logRules{}, Trace: TraceRules{Provider: d.Trace}}
	for _, name := range d.Logs {
		r.log[name] = nil
	}
	if b := New(s, d, s.IdentityOf); b != nil {
		r = b.Rules(f)
	}
	a := Effect{Objects: r.Objects, Log: []LogEffect{}, NoContext: r.Trace.NoContext, Uncounted: r.uncounted}
	for _, name := range slices.Sorted(maps.Keys(r.log)) {
		l := LogEffect{Provider: name}
		if p := r.log[name]; p != nil {
			l.Filter = p.String()
		}
		a.Log = append(a.Log, l)
	}
	if name, ok := d.Tracer(r.Trace.Provider); ok && !r.Trace.Disabled {
		a.Trace = &TraceEffect{Provider: name, Percent: d.Percent, Tags: slices.Sorted(maps.Keys(r.Trace.Tags))}
		if p := r.Trace.Percent; p != nil {
			a.Trace.Percent = *p
		}
	}
	for _, name := range Metrics {
		if m := r.metrics[name]; m != nil && !r.uncounted {
			a.Metrics = append(a.Metrics, m.tell(names[name]))
		}
	}
	a.Metrics = slices.DeleteFunc(a.Metrics, func(m MetricEffect) bool { return !m.Disabled && len(m.Removed)+len(m.Set) == 0 })
	return a
}

func (m *metricRules) tell(name string) MetricEffect {
	out := MetricEffect{Metric: name, Disabled: m.disabled}
	if m.disabled {
		return out
	}
	out.Removed = slices.Sorted(slices.Values(m.gone))
	for tag, p := range m.tags {
		if out.Set == nil {
			out.Set = map[string]string{}
		}
		out.Set[tag] = p.String()
	}
	return out
}

// Configured says whether anything is logged, traced, or said of metrics.
func (a *Effect) Configured() bool {
	return len(a.Objects)+len(a.Log)+len(a.Metrics) > 0 || a.Trace != nil || a.Uncounted
}

// LogLine is a sentence of the access log.
func (a *Effect) LogLine() string {
	if len(a.Log) == 0 {
		return "no line"
	}
	list := make([]string, len(a.Log))
	for i, l := range a.Log {
		if list[i] = "a line of each by provider " + l.Provider; l.Filter != "" {
			list[i] = "a line by provider " + l.Provider + " where " + l.Filter
		}
	}
	return strings.Join(list, "; ")
}

// TraceLine is a sentence of spans.
func (a *Effect) TraceLine() string {
	line := "no span is sent"
	if t := a.Trace; t != nil {
		line = "a span of " + strconv.FormatFloat(t.Percent, 'g', -1, 64) + "% of the requests of which the caller has not decided"
		if t.Provider != "" {
			line += ", to provider " + t.Provider
		}
		if len(t.Tags) > 0 {
			line += ", with " + strings.Join(t.Tags, ", ")
		}
	}
	if a.NoContext {
		line += "; the fields of a trace do not go on"
	}
	return line
}

// MetricLines are sentences of metrics; none: all count as Istio has them.
func (a *Effect) MetricLines() (out []string) {
	if a.Uncounted {
		return []string{"none of Istio's metrics counts"}
	}
	for _, m := range a.Metrics {
		if m.Disabled {
			out = append(out, m.Metric+" does not count")
			continue
		}
		var parts []string
		if len(m.Removed) > 0 {
			parts = append(parts, "without "+strings.Join(m.Removed, ", "))
		}
		for _, tag := range slices.Sorted(maps.Keys(m.Set)) {
			parts = append(parts, fmt.Sprintf("with %s = %s", tag, m.Set[tag]))
		}
		out = append(out, m.Metric+" "+strings.Join(parts, ", "))
	}
	return out
}
