// SPDX-License-Identifier: Apache-2.0

package report

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/egressd/egressd/forward"
)

// What each workload has of what all share.
var (
	usedDesc = prometheus.NewDesc("egressd_workload_used",
		"What a workload has of what all share: connections, descriptors, memory (bytes), ports of the node's loopback in the proxy, redirected connections in the kernel.", []string{"workload", "what"}, nil)
	usedMaxDesc = prometheus.NewDesc("egressd_workload_max",
		"How much of it the workload could have at this moment; more is refused (quota).", []string{"workload", "what"}, nil)
	fullDesc = prometheus.NewDesc("egressd_workload_full",
		"1 when the workload has all that it may have of something, so that its next proxied connection is refused (quota).", []string{"workload"}, nil)
	recycledDesc = prometheus.NewDesc("egressd_connections_recycled_total",
		"Quiet proxied connections that were closed because a workload had all that it may have.", nil, nil)
)

func forwardParts(connections, descriptors, memory, ports forward.Use) map[string]forward.Use {
	return map[string]forward.Use{"connections": connections, "descriptors": descriptors, "memory": memory, "ports": ports}
}

func shareMetrics(gauge func(*prometheus.Desc, float64, ...string), s Status) {
	for _, w := range s.Workloads {
		parts := forwardParts(w.Share.Connections, w.Share.Descriptors, w.Share.Memory, w.Share.Ports)
		parts["redirected"] = forward.Use{Used: int64(w.Share.Redirected.Entries), Max: int64(w.Share.Redirected.Max)}
		for what, u := range parts {
			gauge(usedDesc, float64(u.Used), w.Name, what)
			gauge(usedMaxDesc, float64(u.Max), w.Name, what)
		}
		gauge(fullDesc, truth(w.Share.Full), w.Name)
	}
}
