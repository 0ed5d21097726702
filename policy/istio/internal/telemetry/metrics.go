// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	telemetry "istio.io/api/telemetry/v1alpha1"

	"github.com/egressd/egressd/internal/expression"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// labelForm is what Prometheus lets a label be called.
var labelForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (t *translation) metrics(at *strictyaml.Node, m *telemetry.Metrics) {
	if at.Has("reportingInterval") {
		t.inert(at.KeyOf("reportingInterval"), "reportingInterval", "connections are counted when they begin and end")
	}
	if _, ok := t.providers(at, m.Providers, Metrics); !ok {
		return
	}
	for i, o := range m.Overrides {
		n := at.At("overrides", i)
		if !t.outgoing(n, o.GetMatch().GetMode()) {
			continue
		}
		out := policy.TelemetryMetric{}
		if name, ok := t.metric(n, o.GetMatch()); ok {
			out.Name = name
		} else {
			continue
		}
		if o.Disabled != nil {
			out.Disabled = &o.Disabled.Value
		}
		t.tags(n.At("tagOverrides"), o.TagOverrides, &out)
		t.out.Metrics = append(t.out.Metrics, out)
	}
}

// metric is the name of what is matched, "" for all, and whether there is one.
func (t *translation) metric(at *strictyaml.Node, m *telemetry.MetricSelector) (string, bool) {
	name := m.GetCustomMetric()
	if name == "" {
		switch x := m.GetMetric(); x {
		case telemetry.MetricSelector_ALL_METRICS:
			return "", true
		case telemetry.MetricSelector_GRPC_REQUEST_MESSAGES, telemetry.MetricSelector_GRPC_RESPONSE_MESSAGES:
			t.inert(at.At("match", "metric"), "the metric "+x.String(), "messages of gRPC are not counted")
			return "", false
		default:
			return x.String(), true
		}
	}
	if standard, ok := byName[strings.TrimPrefix(name, "istio_")]; ok {
		return standard, true
	}
	t.inert(at.At("match", "customMetric"), "customMetric "+name, "there are Istio's standard metrics alone")
	return "", false
}

// byName are Istio's standard metrics by the names that Prometheus has for them.
var byName = map[string]string{
	"requests_total": "REQUEST_COUNT", "request_duration_milliseconds": "REQUEST_DURATION", "request_bytes": "REQUEST_SIZE", "response_bytes": "RESPONSE_SIZE",
	"tcp_sent_bytes_total": "TCP_SENT_BYTES", "tcp_received_bytes_total": "TCP_RECEIVED_BYTES",
	"tcp_connections_opened_total": "TCP_OPENED_CONNECTIONS", "tcp_connections_closed_total": "TCP_CLOSED_CONNECTIONS",
}

func (t *translation) tags(at *strictyaml.Node, tags map[string]*telemetry.MetricsOverrides_TagOverride, out *policy.TelemetryMetric) {
	x := strictyaml.EntriesOf(at)
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		n, v := x.At(name), tags[name]
		value := v.GetValue()
		if !labelForm.MatchString(name) || strings.HasPrefix(name, "__") || name == "le" {
			t.Errorf(x.KeyOf(name), "tagOverrides: %q is no name of a label: letters, digits and _", name)
			continue
		}
		switch v.GetOperation() {
		case telemetry.MetricsOverrides_TagOverride_REMOVE:
			if value != "" {
				t.Errorf(n, "value must not be set when operation is REMOVE")
			}
			value = ""
		case telemetry.MetricsOverrides_TagOverride_UPSERT:
			if value == "" {
				t.Errorf(n, "value must be set when operation is UPSERT")
				continue
			}
			_, unknown, err := expression.Value(value)
			if err != nil {
				t.Errorf(n.At("value"), "the expression cannot be read: %s", err)
				continue
			}
			if len(unknown) > 0 {
				t.Warnf(n.At("value"), "nothing is known here of %s: %s", strings.Join(unknown, ", "), "the tag is \"unknown\" where the value needs it, as in Istio")
			}
		}
		if out.Tags == nil {
			out.Tags = map[string]string{}
		}
		out.Tags[name] = value
	}
}
