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
}
