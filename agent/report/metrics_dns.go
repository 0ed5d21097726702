// SPDX-License-Identifier: Apache-2.0

package report

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/egressd/egressd/dnsproxy"
)

// upstreamMetrics are those of the DNS servers.
type upstreamMetrics struct {
	servers func() []dnsproxy.UpstreamStatus
}

var (
	dnsUpDesc = prometheus.NewDesc("egressd_dns_server_up",
		"0 when a trusted DNS server does not answer and is asked behind the others.", []string{"server"}, nil)
	dnsAskedDesc = prometheus.NewDesc("egressd_dns_server_questions_total",
		"Questions to a trusted DNS server by what came of them: answered (with any code) or failed.", []string{"server", "result"}, nil)
)

func (m upstreamMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- dnsUpDesc
	ch <- dnsAskedDesc
}

func (m upstreamMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, s := range m.servers() {
		ch <- prometheus.MustNewConstMetric(dnsUpDesc, prometheus.GaugeValue, truth(s.State != "down"), s.Server)
		ch <- prometheus.MustNewConstMetric(dnsAskedDesc, prometheus.CounterValue, float64(s.Answered), s.Server, "answered")
		ch <- prometheus.MustNewConstMetric(dnsAskedDesc, prometheus.CounterValue, float64(s.Failed), s.Server, "failed")
	}
}
