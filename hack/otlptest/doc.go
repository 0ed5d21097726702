// SPDX-License-Identifier: Apache-2.0

// Package otlptest has the OpenTelemetry collector's own receiver take what the daemon
// sends by OTLP and in Zipkin's format, so that not only code of ours reads it.
package otlptest
