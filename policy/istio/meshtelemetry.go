// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"

	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/egressd/egressd/internal/logformat"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
	"github.com/egressd/egressd/policy/istio/internal/telemetry"
)

// defaultTraceSampling is Istio's, in percent (PILOT_TRACE_SAMPLING).
const defaultTraceSampling = 1

// telemetry translates what is said of access logs and traces.
func (m *meshSource) telemetry() policy.MeshTelemetry {
	out := policy.MeshTelemetry{AccessLogFormat: m.v.AccessLogFormat}
	if m.says("accessLogEncoding") {
		out.AccessLogEncoding = m.v.AccessLogEncoding.String()
	}
	switch file := m.v.AccessLogFile; file {
	case "", "/dev/stdout", "/dev/stderr":
		out.AccessLogFile = file
	default:
		// Whoever may write the MeshConfig would have root append to any file.
		m.Say(Note, m.at.KeyOf("accessLogFile"), "%s does not act on egressd", "accessLogFile beyond /dev/stdout and /dev/stderr (run has --access-log)")
	}
	if err := logformat.Check(out.AccessLogFormat, out.AccessLogEncoding); err != nil {
		m.Errorf(m.at.At("accessLogFormat"), "accessLogFormat: %s", err)
	}
	if c := m.v.DefaultConfig; c != nil {
		m.tracing(&out, c.Tracing)
	}
	m.providers(&out)
	return out
}

// providers translates the extension providers, and says what of them does not act.
func (m *meshSource) providers(out *policy.MeshTelemetry) {
	at := m.at.KeyOf("extensionProviders")
	for _, e := range m.v.ExtensionProviders {
		switch telemetry.SignalOf(e) {
		case "":
			m.Say(Note, at, "%s does not act on egressd", "extensionProviders "+e.Name)
		case telemetry.Logs:
			p, inert, err := telemetry.Log(e)
			if err == nil {
				err = logformat.Check(p.Format, p.Encoding)
			}
			if err != nil {
				m.Errorf(at, "extensionProviders: %s: %s", e.Name, err)
				continue
			}
			for _, what := range inert {
				m.Say(Note, at, "%s does not act on egressd", "extensionProviders "+e.Name+" "+what)
			}
			out.LogProviders = append(out.LogProviders, p)
		case telemetry.Traces:
			out.TraceProviders = append(out.TraceProviders, telemetry.Tracer(e))
		}
	}
	if len(out.TraceProviders) > 0 && out.Zipkin == "" {
		out.TraceSampling = m.sampling()
	}
	known, d := telemetry.NewProviders(m.v), m.v.DefaultProviders
	logs, otherLogs := known.Known(telemetry.Logs, d.GetAccessLogging())
	traces, otherTraces := known.Known(telemetry.Traces, d.GetTracing())
	_, otherMetrics := known.Known(telemetry.Metrics, d.GetMetrics())
	if out.DefaultLogs = logs; len(traces) > 0 {
		out.DefaultTrace = traces[0]
	}
	for _, name := range slices.Concat(otherLogs, otherTraces, otherMetrics) {
		m.Say(Note, m.at.KeyOf("defaultProviders"), "%s does not act on egressd", "defaultProviders "+name+" (extensionProviders has no such provider, or it is for something else)")
	}
}

// says whether a field is written, whatever its value.
func (m *meshSource) says(name string) bool {
	return slices.ContainsFunc(m.at.Fields, func(f strictyaml.Field) bool { return strictyaml.CamelCase(f.Key) == name })
}

func (m *meshSource) tracing(out *policy.MeshTelemetry, t *meshapi.Tracing) {
	config := m.at.At("defaultConfig")
	for i := range config.Fields {
		if f := &config.Fields[i]; !slices.Contains([]string{"tracing", "gatewayTopology"}, strictyaml.CamelCase(f.Key)) {
			m.Say(Note, f.Pos(), "%s does not act on egressd", "defaultConfig."+f.Key)
		}
	}
	if t == nil || !m.v.EnableTracing && m.says("enableTracing") {
		return
	}
	if z := t.GetZipkin(); z != nil {
		out.Zipkin = z.Address
	} else if t.Tracer != nil {
		m.Say(Note, config.KeyOf("tracing"), "%s does not act on egressd", "a tracer other than zipkin")
	}
	out.TraceSampling = m.sampling()
}

// sampling is how many requests of which nobody has decided are traced, in percent.
func (m *meshSource) sampling() float64 {
	at := m.at.At("defaultConfig", "tracing")
	if at.Get("sampling") == nil {
		return defaultTraceSampling
	}
	n := m.v.DefaultConfig.GetTracing().GetSampling()
	if n < 0 || n > 100 {
		m.Errorf(at.At("sampling"), "tracing.sampling: %v is not in percent, 0 to 100", n)
	}
	return n
}
