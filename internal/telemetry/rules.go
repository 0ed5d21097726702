// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"maps"
	"slices"

	"github.com/egressd/egressd/internal/expression"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// FlowRules are what all objects say of a flow together.
type FlowRules struct {
	// Objects are those that act, the nearest last.
	Objects []policy.Ref
	Trace   TraceRules
	log     logRules
	metrics map[string]*metricRules // by name; nil: all are as they are
}

// logRules say whether there is a line: never, always, or where one of the filters holds.
type logRules struct {
	never   bool
	filters []*expression.Expression
}

// TraceRules are what is said of spans.
type TraceRules struct {
	// Percent is nil for that of the command line or the MeshConfig.
	Percent *float64
	// Disabled: no span is sent. The fields of a trace go on.
	Disabled bool
	Tags     map[string]policy.TelemetryTag
}

// metricRules change one metric: the labels in gone are empty, those of tags have values
// of their own.
type metricRules struct {
	disabled bool
	gone     []string
	tags     map[string]*expression.Expression
}

// merge puts objects together, the farthest first.
func (b *Rulebook) merge(objects []*policy.Telemetry) *FlowRules {
	r := &FlowRules{log: b.logs(objects)}
	for _, o := range objects {
		r.Objects = append(r.Objects, o.Ref)
		for _, t := range o.Traces {
			if t.Sampling != nil {
				r.Trace.Percent = t.Sampling
			}
			if t.Disabled != nil {
				r.Trace.Disabled = *t.Disabled
			}
			if t.Tags != nil {
				r.Trace.Tags = t.Tags
			}
		}
		for _, m := range o.Metrics {
			b.metric(r, m)
		}
	}
	return r
}

// logs merges what is said of the access log: the nearest object that names providers
// says which there are, and what is nearer changes those.
func (b *Rulebook) logs(objects []*policy.Telemetry) logRules {
	names := b.defaults.Logs
	for _, o := range objects {
		var own []string
		for _, l := range o.Logs {
			own = append(own, l.Providers...)
		}
		if len(own) > 0 {
			names = own
		}
	}
	on := map[string]string{} // filters by provider
	for _, name := range b.defaults.Logs {
		if slices.Contains(names, name) {
			on[name] = ""
		}
	}
	above := b.defaults.Logs
	for _, o := range objects {
		for _, l := range o.Logs {
			of := l.Providers
			if len(of) == 0 {
				of = above
			} else {
				above = of
			}
			for _, name := range of {
				switch {
				case l.Disabled:
					delete(on, name)
				case slices.Contains(names, name):
					on[name] = l.Filter
				}
			}
		}
	}
	out := logRules{never: len(on) == 0}
	for _, filter := range slices.Sorted(maps.Values(on)) {
		p := b.programs[filter]
		if p == nil {
			return logRules{} // one without a filter has every line
		}
		out.filters = append(out.filters, p)
	}
	return out
}

// Metrics are the names of all metrics, as a Telemetry has them. Those of
// requests come first.
var Metrics = []string{
	"REQUEST_COUNT", "REQUEST_DURATION", "REQUEST_SIZE", "RESPONSE_SIZE",
	"TCP_SENT_BYTES", "TCP_RECEIVED_BYTES", "TCP_OPENED_CONNECTIONS", "TCP_CLOSED_CONNECTIONS",
}

func (b *Rulebook) metric(r *FlowRules, m policy.TelemetryMetric) {
	if r.metrics == nil {
		r.metrics = map[string]*metricRules{}
	}
	for _, name := range Metrics {
		if m.Name != "" && m.Name != name {
			continue
		}
		x := r.metrics[name]
		if x == nil {
			x = &metricRules{tags: map[string]*expression.Expression{}}
			r.metrics[name] = x
		}
		if m.Disabled != nil {
			x.disabled = *m.Disabled
		}
		for tag, value := range m.Tags {
			delete(x.tags, tag)
			x.gone = slices.DeleteFunc(x.gone, func(s string) bool { return s == tag })
			if value == "" {
				x.gone = append(x.gone, tag)
			} else if p := b.programs[value]; p != nil {
				x.tags[tag] = p
			}
		}
	}
}

// Logged says whether a flow has a line in the access log.
func (r *FlowRules) Logged(o *flow.Observation) bool {
	if r.log.never || len(r.log.filters) == 0 {
		return !r.log.never
	}
	return slices.ContainsFunc(r.log.filters, func(p *expression.Expression) bool { return p.Holds(Attributes(o)) })
}

// Counts says whether anything is said of metrics.
func (r *FlowRules) Counts() bool { return r.metrics != nil }

// Counted says whether a metric counts the flow, and changes the values of its labels,
// of which names has the names.
func (r *FlowRules) Counted(metric string, o *flow.Observation, names, values []string) bool {
	m := r.metrics[metric]
	if m == nil {
		return true
	}
	if m.disabled {
		return false
	}
	for i, name := range names {
		if slices.Contains(m.gone, name) {
			values[i] = ""
		} else if p := m.tags[name]; p != nil {
			text, ok := p.Text(Attributes(o))
			if values[i] = text; !ok {
				values[i] = "unknown" // as Istio has it
			} else if len(text) > maxTag {
				values[i] = text[:maxTag]
			}
		}
	}
	return true
}

// maxTag is how long the value of a label may be, in bytes: series stay in memory.
const maxTag = 256

// Labels are the labels that objects make for metrics, sorted.
func (b *Rulebook) Labels() (out []string) {
	if b == nil {
		return nil
	}
	for _, o := range b.objects {
		for _, m := range o.Metrics {
			for tag, value := range m.Tags {
				if value != "" {
					out = append(out, tag)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Logs says whether an object turns the access log on for anybody.
func (b *Rulebook) Logs() bool {
	return b != nil && slices.ContainsFunc(b.objects, func(o *policy.Telemetry) bool {
		return slices.ContainsFunc(o.Logs, func(l policy.TelemetryLog) bool { return !l.Disabled && len(l.Providers) > 0 })
	})
}
