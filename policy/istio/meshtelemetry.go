// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"

	meshapi "istio.io/api/mesh/v1alpha1"

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
	if c := m.v.DefaultConfig; c != nil {
		m.tracing(&out, c.Tracing)
	}
	m.tellProviders()
	providers := telemetry.NewProviders(m.v)
	out.DefaultLogs = providers.Known(telemetry.Logs, m.v.DefaultProviders.GetAccessLogging())
	for _, name := range m.v.DefaultProviders.GetTracing() {
		collector(&out, m.v, name)
	}
	return out
}

// tellProviders says what of the providers does not act.
func (m *meshSource) tellProviders() {
	at := m.at.KeyOf("extensionProviders")
	for _, e := range m.v.ExtensionProviders {
		switch what := telemetry.SignalOf(e); {
		case what == "":
			m.Say(Note, at, "%s does not act on egressd", "extensionProviders "+e.Name)
		case what == telemetry.Logs:
			m.Say(Note, at, "%s does not act on egressd", "what extensionProviders "+e.Name+" says of a place and a format (the access log is where accessLogFile or run's --access-log has it)")
		}
	}
	if len(m.v.DefaultProviders.GetMetrics()) > 0 {
		m.Say(Note, m.at.KeyOf("defaultProviders"), "%s does not act on egressd", "defaultProviders.metrics (there are always metrics)")
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
	if out.TraceSampling = t.Sampling; config.At("tracing").Get("sampling") == nil {
		out.TraceSampling = defaultTraceSampling
	}
	if out.TraceSampling < 0 || out.TraceSampling > 100 {
		m.Errorf(config.At("tracing").At("sampling"), "tracing.sampling: %v is not in percent, 0 to 100", out.TraceSampling)
	}
}

// collector has spans go to an extension provider, if nothing says that they go elsewhere.
func collector(out *policy.MeshTelemetry, mesh *meshapi.MeshConfig, name string) {
	if out.Zipkin != "" || out.OTLP != "" {
		return
	}
	if out.Zipkin, out.OTLP = telemetry.Collector(mesh, name); out.Zipkin+out.OTLP != "" {
		out.TraceSampling = defaultTraceSampling
	}
}
