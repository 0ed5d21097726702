// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	kubeSyncedDesc = prometheus.NewDesc("egressd_kubernetes_synced",
		"1 when the API server has told everything once since the daemon started; 0: the objects of the last good policy are in force.", nil, nil)
	kubeObjectsDesc = prometheus.NewDesc("egressd_kubernetes_objects",
		"Objects of the API server that are watched.", []string{"kind"}, nil)
	kubeErrorsDesc = prometheus.NewDesc("egressd_kubernetes_watch_errors_total",
		"Requests to the API server that failed.", []string{"kind"}, nil)
	kubeRefusedDesc = prometheus.NewDesc("egressd_kubernetes_refused_objects",
		"Objects of the API server that have an error and are left out, or are in force in an older version.", []string{"kind"}, nil)
	kubeEventDesc = prometheus.NewDesc("egressd_kubernetes_last_event_timestamp_seconds",
		"When the API server told something the last time, in seconds since 1970.", nil, nil)
)

// kubeMetrics tell of an API server, when there is one.
type kubeMetrics struct{ status func() Status }

func (kubeMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{kubeSyncedDesc, kubeObjectsDesc, kubeErrorsDesc, kubeRefusedDesc, kubeEventDesc} {
		ch <- d
	}
}

func (m kubeMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.status()
	if s.Kubernetes == nil {
		return
	}
	put := func(d *prometheus.Desc, t prometheus.ValueType, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, n, labels...)
	}
	refused := map[string]int{}
	for _, r := range s.Policy.Refused {
		kind, _, _ := strings.Cut(r.Object, " ")
		refused[kind]++
	}
	put(kubeSyncedDesc, prometheus.GaugeValue, truth(s.Kubernetes.Synced))
	if at := s.Kubernetes.LastEvent; !at.IsZero() {
		put(kubeEventDesc, prometheus.GaugeValue, float64(at.UnixMilli())/1000)
	}
	for kind, k := range s.Kubernetes.Kinds {
		put(kubeObjectsDesc, prometheus.GaugeValue, float64(k.Objects), kind)
		put(kubeErrorsDesc, prometheus.CounterValue, float64(k.Errors), kind)
	}
	for kind, n := range refused {
		put(kubeRefusedDesc, prometheus.GaugeValue, float64(n), kind)
	}
}
