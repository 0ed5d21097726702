// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/egressd/egressd/policy"
)

// What providers are for.
const (
	Logs    = "accessLogging"
	Traces  = "tracing"
	Metrics = "metrics"
)

var words = map[string]string{Logs: "access logs", Traces: "traces", Metrics: "metrics"}

// Providers are those that Telemetry objects may name.
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

// find is the name of a provider for a signal, which people write in whatever case; "":
// there is none.
func (p Providers) find(signal, name string) string {
	for _, n := range p.by[signal] {
		if strings.EqualFold(n, name) {
			return n
		}
	}
	return ""
}

func (p Providers) names(signal string) []string { return slices.Sorted(slices.Values(p.by[signal])) }

// Known are those of a list that are for a signal, and the others.
func (p Providers) Known(signal string, list []string) (known, others []string) {
	for _, name := range list {
		if n := p.find(signal, name); n != "" {
			known = append(known, n)
		} else {
			others = append(others, name)
		}
	}
	return known, others
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

// Tracer is where an extension provider's spans go; Istio's field for it says which. Its
// Zipkin and OTLP are empty when it is for something else.
func Tracer(e *meshapi.MeshConfig_ExtensionProvider) policy.TraceProvider {
	out := policy.TraceProvider{Name: e.Name}
	if z := e.GetZipkin(); z != nil {
		out.Zipkin = fmt.Sprintf("%s:%d%s", host(z.Service), z.Port, path(z.Path))
	}
	if o := e.GetOpentelemetry(); o != nil && o.Http != nil {
		out.OTLP = fmt.Sprintf("http://%s:%d%s", host(o.Service), o.Port, path(o.Http.Path))
	} else if o != nil {
		out.OTLP = fmt.Sprintf("grpc://%s:%d", host(o.Service), o.Port)
	}
	return out
}

// Log is where an extension provider's lines go, and how they look. inert are the fields
// that do not act, with what happens.
func Log(e *meshapi.MeshConfig_ExtensionProvider) (out policy.LogProvider, inert []string, err error) {
	out.Name = e.Name
	if f := e.GetEnvoyFileAccessLog(); f != nil {
		switch out.OmitEmpty = f.OmitEmptyValues; f.Path {
		case "", "/dev/stdout":
			out.File = "/dev/stdout"
		case "/dev/stderr":
			out.File = f.Path
		default:
			inert = append(inert, "path beyond /dev/stdout and /dev/stderr (lines go where accessLogFile says or to /dev/stdout; run has --access-log)")
		}
		if format, ok := f.LogFormat.GetLogFormat().(*meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider_LogFormat_Labels); ok {
			out.Encoding = "JSON"
			if len(format.Labels.GetFields()) > 0 {
				text, err := json.Marshal(format.Labels.AsMap()) // with sorted names
				if err != nil {
					return out, nil, err
				}
				out.Format = string(text)
			}
		} else if out.Format = f.LogFormat.GetText(); out.Format != "" || e.Name != "envoy" {
			out.Encoding = "TEXT" // that of Istio's own provider is the MeshConfig's
		}
	}
	if o := e.GetEnvoyOtelAls(); o != nil {
		if o.LogName != "" {
			inert = append(inert, "logName (records have the name egressd.access; service.name tells who sends them)")
		}
		out.OTLP = fmt.Sprintf("grpc://%s:%d", host(o.Service), o.Port)
		out.Format, out.Encoding = o.LogFormat.GetText(), "TEXT"
		if len(o.LogFormat.GetLabels().GetFields()) > 0 {
			inert = append(inert, "logFormat.labels (the line is the body of the record; write it as logFormat.text)")
		}
	}
	return out, inert, nil
}

// host is a service without the namespace that may stand before it.
func host(service string) string {
	service = service[strings.LastIndex(service, "/")+1:]
	if a, err := netip.ParseAddr(service); err == nil && a.Is6() {
		return "[" + service + "]"
	}
	return service
}

func path(p string) string {
	if p == "" || strings.HasPrefix(p, "/") {
		return p
	}
	return "/" + p
}
