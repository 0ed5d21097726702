// SPDX-License-Identifier: Apache-2.0

package report

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/egressd/egressd/agent/selfprobe"
)

var (
	probeDesc = prometheus.NewDesc("egressd_probe_success",
		"1 when the last probe of egressd by itself was answered, by path (dns-udp, dns-tcp, proxy) and family.", []string{"path", "family"}, nil)
	probeSuccessDesc = prometheus.NewDesc("egressd_probe_last_success_timestamp_seconds",
		"When a probe was answered last, in seconds since 1970; 0: never.", []string{"path", "family"}, nil)
	probeDurationDesc = prometheus.NewDesc("egressd_probe_duration_seconds",
		"How long the last probe took.", []string{"path", "family"}, nil)
	probeCapturedDesc = prometheus.NewDesc("egressd_probe_captured",
		"1 when the probe is a process under the kernel programs; 0: it knows of the listeners only.", nil, nil)
)

// probeMetrics tells what a probe sees; nil: there is none.
func probeMetrics(s *selfprobe.ProbeStatus, gauge func(d *prometheus.Desc, n float64, labels ...string)) {
	if s == nil {
		return
	}
	gauge(probeCapturedDesc, truth(s.Captured))
	for _, p := range s.Paths {
		labels := []string{string(p.Path), string(p.Family)}
		last := 0.0
		if !p.LastSuccess.IsZero() {
			last = float64(p.LastSuccess.UnixMilli()) / 1000
		}
		gauge(probeDesc, truth(p.OK), labels...)
		gauge(probeSuccessDesc, last, labels...)
		gauge(probeDurationDesc, p.Seconds, labels...)
	}
}
