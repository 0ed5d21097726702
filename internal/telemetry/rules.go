// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
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
	// uncounted: all metrics are disabled, until something is said of one.
	uncounted bool
}

// logRules are the filters of the providers that have lines; nil: every line.
type logRules map[string]*expression.Expression

// TraceRules are what is said of spans.
type TraceRules struct {
	// Provider is whose collector takes them; "": the one that is nobody's own.
	Provider string
	// Percent is nil for that of the command line or the MeshConfig.
	Percent *float64
	// Disabled: no span is sent. The fields of a trace go on.
	Disabled bool
	// NoContext: the fields of a trace do not go on.
	NoContext bool
	Tags      map[string]policy.TelemetryTag
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
	r := &FlowRules{log: b.logs(objects), Trace: TraceRules{Provider: b.defaults.Trace}}
	for _, o := range objects {
		r.Objects = append(r.Objects, o.Ref)
		for _, t := range o.Traces {
			r.Trace.merge(t)
		}
		for _, m := range o.Metrics {
			b.metric(r, m)
		}
	}
	return r
}

func (r *TraceRules) merge(t policy.TelemetryTrace) {
	if t.Provider != "" {
		r.Provider = t.Provider
	}
	if t.Sampling != nil {
		r.Percent = t.Sampling
	}
	if t.Disabled != nil {
		r.Disabled = *t.Disabled
	}
	if t.NoContext != nil {
		r.NoContext = *t.NoContext
	}
	if t.Tags != nil {
		r.Tags = t.Tags
	}
}

// logs merges what is said of the access log: the nearest object that names providers
// says which there are, and what is nearer changes those.
func (b *Rulebook) logs(objects []*policy.Telemetry) logRules {
	names, filters, said := b.defaults.Logs, map[string]string{}, false
	for _, o := range objects {
		var own []string
		for _, l := range o.Logs {
			own, said = append(own, l.Providers...), true
			for _, name := range l.Providers {
				filters[name] = l.Filter // the nearest that names it, wherever it is turned on
			}
		}
		if len(own) > 0 {
			names = own
		}
	}
	on := map[string]string{} // filters by provider
	if !said {
		for _, name := range names {
			on[name] = ""
		}
	}
	above := b.defaults.Logs
	for _, o := range objects {
		for _, l := range o.Logs {
			of := l.Providers
			if len(of) == 0 {
				of = above
			}
			above = of
			for _, name := range of {
				switch {
				case !slices.Contains(names, name):
				case l.Disabled:
					delete(on, name)
				case len(l.Providers) == 0 && l.Filter != "":
					filters[name] = l.Filter // Istio takes no notice of it
					on[name] = l.Filter
				default:
					on[name] = filters[name]
				}
			}
		}
	}
	out := logRules{}
	for name, filter := range on {
		out[name] = b.programs[filter]
	}
	return out
}

// Metrics are the names of all metrics, as a Telemetry has them. Those of
// requests come first.
var Metrics = []string{
	"REQUEST_COUNT", "REQUEST_DURATION", "REQUEST_SIZE", "RESPONSE_SIZE",
	"TCP_SENT_BYTES", "TCP_RECEIVED_BYTES", "TCP_OPENED_CONNECTIONS", "TCP_CLOSED_CONNECTIONS",
}

// metric puts one override on top of what is there. One that disables all metrics says
// nothing else, and holds until something is said of any metric, as in Istio.
func (b *Rulebook) metric(r *FlowRules, m policy.TelemetryMetric) {
	if r.metrics == nil {
		r.metrics = map[string]*metricRules{}
	}
	if r.uncounted = m.Name == "" && m.Disabled != nil && *m.Disabled; r.uncounted {
		return
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

// Logged says whether a flow has a line in the access log, of whatever provider.
func (r *FlowRules) Logged(o *flow.Observation) bool {
	for name := range r.log {
		if r.LoggedBy(name, o) {
			return true
		}
	}
	return false
}

// LoggedBy says whether a flow has a line in the access log of a provider.
func (r *FlowRules) LoggedBy(provider string, o *flow.Observation) bool {
	filter, ok := r.log[provider]
	return ok && (filter == nil || filter.Holds(Attributes(o)))
}

// Counts says whether anything is said of metrics.
func (r *FlowRules) Counts() bool { return r.metrics != nil }

// Counted says whether a metric counts the flow, and changes the values of its labels,
// of which names has the names.
func (r *FlowRules) Counted(metric string, o *flow.Observation, names, values []string) bool {
	if r.uncounted {
		return false
	}
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

// Logs are the providers of the access log that act for anybody, sorted.
func (b *Rulebook) Logs(d Defaults) []string {
	out := slices.Clone(d.Logs)
	if b != nil {
		for _, o := range b.objects {
			for _, l := range o.Logs {
				if !l.Disabled {
					out = append(out, l.Providers...)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
