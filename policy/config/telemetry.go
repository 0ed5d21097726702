// SPDX-License-Identifier: Apache-2.0

package config

// MeshTelemetry is what a MeshConfig says of access logs and traces. Nothing is
// decided by it.
type MeshTelemetry struct {
	// AccessLogFile is /dev/stdout or /dev/stderr; "": there is no log.
	// AccessLogFormat is a format string, or JSON of such; "": Istio's default.
	// AccessLogEncoding is TEXT or JSON.
	AccessLogFile, AccessLogFormat, AccessLogEncoding string
	// Zipkin is ADDRESS:PORT of a Zipkin collector (defaultConfig.tracing); "": none.
	// TraceSampling is how many requests of which nobody has decided are traced, in
	// percent.
	Zipkin        string
	TraceSampling float64
	// LogProviders and TraceProviders are the extension providers that say where lines
	// and spans go, in their order.
	LogProviders   []LogProvider
	TraceProviders []TraceProvider
	// DefaultLogs and DefaultTrace are the providers that act where no Telemetry names
	// others (defaultProviders); "": the spans go where Zipkin says.
	DefaultLogs  []string
	DefaultTrace string
}

// LogProvider is a place of the access log (envoyFileAccessLog, envoyOtelAls).
type LogProvider struct {
	Name string
	// File is /dev/stdout or /dev/stderr; OTLP is the URL of a collector. Without
	// either the lines go where AccessLogFile says, or to /dev/stdout.
	File, OTLP string
	// Format and Encoding are as AccessLogFormat's and AccessLogEncoding's; with neither
	// those count.
	Format, Encoding string
	// OmitEmpty: what has no value is left out.
	OmitEmpty bool
}

// TraceProvider is a collector of spans (zipkin, opentelemetry): its address in Zipkin's
// format, or a URL of OTLP.
type TraceProvider struct{ Name, Zipkin, OTLP string }

// Telemetry is an object of telemetry.istio.io, as far as it acts (istio.io/api
// telemetry/v1alpha1). Nothing is decided by it. In the root namespace it is for the
// whole mesh, else for its namespace.
type Telemetry struct {
	Ref Ref
	// Selector holds the labels of the workloads, or of the gateway, that it is for;
	// Targets are objects of its namespace that flows must go to, or come by. Neither: all
	// of the namespace.
	Selector map[string]string
	Targets  []TelemetryTarget
	Logs     []TelemetryLog
	Traces   []TelemetryTrace
	Metrics  []TelemetryMetric
}

// TelemetryTarget is a ServiceEntry, a Service or a Gateway, Istio's or the Gateway API's.
type TelemetryTarget struct{ Kind, Name string }

// TelemetryLog says of which flows the access log has lines.
type TelemetryLog struct {
	// Providers are those that it is said of; none: those of the item above.
	Providers []string
	Disabled  bool
	// Filter is an expression of CEL that must hold; "": none.
	Filter string
}

// TelemetryTrace says which requests are traced, and what their spans have. What is nil
// is as the object above says.
type TelemetryTrace struct {
	Provider  string   // "": that of the object above
	Sampling  *float64 // percent
	Disabled  *bool
	NoContext *bool // whether the fields of a trace do not go on
	// Tags are in the place of all tags of the object above; empty: there are none.
	Tags map[string]TelemetryTag
}

// TelemetryTag is the value of a custom tag: that of a field of the request if Header
// is set and the field is there, or else Value. Format is a text with command operators of
// the access log, in the place of both.
type TelemetryTag struct{ Header, Value, Format string }

// TelemetryMetric changes one of Istio's metrics.
type TelemetryMetric struct {
	// Name is that of MetricSelector.IstioMetric; "": all.
	Name     string
	Disabled *bool
	// Tags are expressions of CEL for labels; "": the label is taken away.
	Tags map[string]string
}
