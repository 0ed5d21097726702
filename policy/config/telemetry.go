// SPDX-License-Identifier: Apache-2.0

package config

// MeshTelemetry is what a MeshConfig says of access logs and traces. Nothing is
// decided by it.
type MeshTelemetry struct {
	// AccessLogFile is /dev/stdout or /dev/stderr; "": there is no log.
	// AccessLogFormat is a format string, or JSON of such; "": Istio's default.
	// AccessLogEncoding is TEXT or JSON.
	AccessLogFile, AccessLogFormat, AccessLogEncoding string
	// Zipkin is ADDRESS:PORT of a Zipkin collector; "": none. TraceSampling is how
	// many requests of which nobody has decided are traced, in percent.
	Zipkin        string
	TraceSampling float64
	// OTLP is the collector of an extension provider that has traces; "": none.
	OTLP string
	// DefaultLogs are the providers of the access log that act where no Telemetry
	// names others (defaultProviders).
	DefaultLogs []string
}

// Telemetry is an object of telemetry.istio.io, as far as it acts (istio.io/api
// telemetry/v1alpha1). Nothing is decided by it. In the root namespace it is for the
// whole mesh, else for its namespace.
type Telemetry struct {
	Ref Ref
	// Selector holds the labels of the workloads, or of the gateway, that it is for;
	// ServiceEntries are names of its namespace that flows must go to. Neither: all of
	// the namespace.
	Selector       map[string]string
	ServiceEntries []string
	Logs           []TelemetryLog
	Traces         []TelemetryTrace
	Metrics        []TelemetryMetric
}

// TelemetryLog says of which flows the access log has lines.
type TelemetryLog struct {
	// Providers are those that it is said of; none: those of the object above.
	Providers []string
	Disabled  bool
	// Filter is an expression of CEL that must hold; "": none.
	Filter string
}

// TelemetryTrace says which requests are traced, and what their spans have. What is nil
// is as the object above says.
type TelemetryTrace struct {
	Sampling  *float64 // percent
	Disabled  *bool
	RequestID *bool // whether x-request-id decides with the rest
	Tags      map[string]TelemetryTag
}

// TelemetryTag is the value of a custom tag: that of a field of the request if Header
// is set and the field is there, or else Value.
type TelemetryTag struct{ Header, Value string }

// TelemetryMetric changes one of Istio's metrics.
type TelemetryMetric struct {
	// Name is that of MetricSelector.IstioMetric; "": all.
	Name     string
	Disabled *bool
	// Tags are expressions of CEL for labels; "": the label is taken away.
	Tags map[string]string
}
