// SPDX-License-Identifier: Apache-2.0

package report

import "github.com/prometheus/client_golang/prometheus"

var (
	publishedEventsDesc = prometheus.NewDesc("egressd_kubernetes_events_total",
		"Kubernetes Events of denials and refused objects, and denials without one, by outcome.", []string{"outcome"}, nil)
	publishedStatusesDesc = prometheus.NewDesc("egressd_kubernetes_statuses_total",
		"Statuses of objects of the API server that this daemon wrote, or found to be right, by outcome.", []string{"outcome"}, nil)
	publishedWriterDesc = prometheus.NewDesc("egressd_kubernetes_status_writer",
		"Whether this daemon is the one of the cluster that writes statuses.", nil, nil)
)

// publishedMetrics tell what the people of a cluster were told, when there is one.
type publishedMetrics struct{ status func() Status }

func (publishedMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{publishedEventsDesc, publishedStatusesDesc, publishedWriterDesc} {
		ch <- d
	}
}

func (m publishedMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.status().Published
	if s == nil {
		return
	}
	count := func(d *prometheus.Desc, by map[string]uint64) {
		for outcome, n := range by {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), outcome)
		}
	}
	e := s.Events
	count(publishedEventsDesc, map[string]uint64{
		"written": e.Written, "repeated": e.Repeated, "folded": e.Folded, "dropped": e.Dropped, "failed": e.Failed, "no_pod": e.NoPod,
	})
	count(publishedStatusesDesc, map[string]uint64{"written": s.Statuses.Written, "same": s.Statuses.Same, "failed": s.Statuses.Failed})
	ch <- prometheus.MustNewConstMetric(publishedWriterDesc, prometheus.GaugeValue, truth(s.Writer))
}
