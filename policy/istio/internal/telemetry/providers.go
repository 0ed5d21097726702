// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"fmt"
	"slices"
	"strings"

	meshapi "istio.io/api/mesh/v1alpha1"
)

// What providers are for.
const (
	Logs    = "accessLogging"
	Traces  = "tracing"
	Metrics = "metrics"
)

var words = map[string]string{Logs: "access logs", Traces: "traces", Metrics: "metrics"}

// Providers are those that Telemetry objects may name: where the access log, spans and
// metrics go the flags of run say, and names lead there.
type Providers struct{ by map[string][]string }

// NewProviders are Istio's own, egressd's, and the extension providers of a MeshConfig; nil:
// there is none.
func NewProviders(m *meshapi.MeshConfig) Providers {
	p := Providers{map[string][]string{Logs: {"envoy", "otel"}, Traces: {"otel", "zipkin"}, Metrics: {"prometheus"}}}
	for _, e := range m.GetExtensionProviders() {
		if s := SignalOf(e); s != "" && e.Name != "" && !slices.Contains(p.by[s], e.Name) {
			p.by[s] = append(p.by[s], e.Name)
		}
	}
	return p
}

func (p Providers) has(signal, name string) bool { return slices.Contains(p.by[signal], name) }

func (p Providers) names(signal string) []string { return slices.Sorted(slices.Values(p.by[signal])) }

// Known are those of a list that are for a signal.
func (p Providers) Known(signal string, list []string) (out []string) {
	for _, name := range list {
		if p.has(signal, name) {
			out = append(out, name)
		}
	}
	return out
}

// SignalOf is what an extension provider is for; "": nothing that egressd does.
func SignalOf(e *meshapi.MeshConfig_ExtensionProvider) string {
	switch e.Provider.(type) {
	case *meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLog, *meshapi.MeshConfig_ExtensionProvider_EnvoyOtelAls:
		return Logs
	case *meshapi.MeshConfig_ExtensionProvider_Zipkin, *meshapi.MeshConfig_ExtensionProvider_Opentelemetry:
		return Traces
	case *meshapi.MeshConfig_ExtensionProvider_Prometheus:
		return Metrics
	}
	return ""
}

// Collector is where an extension provider's spans go: a Zipkin address, or a URL of OTLP.
func Collector(m *meshapi.MeshConfig, name string) (zipkin, otlp string) {
	for _, e := range m.GetExtensionProviders() {
		if e.Name != name {
			continue
		}
		if z := e.GetZipkin(); z != nil {
			return fmt.Sprintf("%s:%d%s", host(z.Service), z.Port, path(z.Path)), ""
		}
		if o := e.GetOpentelemetry(); o != nil {
			if o.Http == nil {
				return "", fmt.Sprintf("grpc://%s:%d", host(o.Service), o.Port)
			}
			return "", fmt.Sprintf("http://%s:%d%s", host(o.Service), o.Port, path(o.Http.Path))
		}
	}
	return "", ""
}

// host is a service without the namespace that may stand before it.
func host(service string) string { return service[strings.LastIndex(service, "/")+1:] }

func path(p string) string {
	if p == "" || strings.HasPrefix(p, "/") {
		return p
	}
	return "/" + p
}
