// SPDX-License-Identifier: Apache-2.0

package report

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/egressd/egressd/forward/limits"
)

// What each workload has of what all share.
var (
	usedDesc = prometheus.NewDesc("egressd_workload_used",
		"How much a workload uses of a resource that all share: connections, descriptors, memory (bytes) and ports of the node's loopback in the proxy, redirected connections in the kernel.", []string{"workload", "resource"}, nil)
	usedMaxDesc = prometheus.NewDesc("egressd_workload_max",
		"How much of the resource the workload could use at this moment; more is refused (quota).", []string{"workload", "resource"}, nil)
	fullDesc = prometheus.NewDesc("egressd_workload_full",
		"1 when the workload uses all that it may of a resource, so that its next proxied connection is refused (quota).", []string{"workload"}, nil)
	recycledDesc = prometheus.NewDesc("egressd_connections_recycled_total",
		"Idle proxied connections that were closed because their workload used all that it may.", nil, nil)
	ejectionsDesc = prometheus.NewDesc("egressd_endpoint_ejections_total",
		"Endpoints that the outlierDetection of a DestinationRule has taken out for a while, by side (egress, ingress) and cause.", []string{"side", "cause"}, nil)
)

func forwardParts(connections, descriptors, memory, ports limits.Use) map[string]limits.Use {
	return map[string]limits.Use{"connections": connections, "descriptors": descriptors, "memory": memory, "ports": ports}
}

func ejectionMetrics(counter func(*prometheus.Desc, uint64, ...string), s Status) {
	for cause, n := range s.Connections.Ejections {
		counter(ejectionsDesc, n, "egress", cause)
	}
	if s.GatewayConnections != nil {
		for cause, n := range s.GatewayConnections.Ejections {
			counter(ejectionsDesc, n, "ingress", cause)
		}
	}
}

func shareMetrics(gauge func(*prometheus.Desc, float64, ...string), s Status) {
	for _, w := range s.Workloads {
		parts := forwardParts(w.Share.Connections, w.Share.Descriptors, w.Share.Memory, w.Share.Ports)
		parts["redirected"] = limits.Use{Used: int64(w.Share.Redirected.Entries), Max: int64(w.Share.Redirected.Max)}
		for resource, u := range parts {
			gauge(usedDesc, float64(u.Used), w.Name, resource)
			gauge(usedMaxDesc, float64(u.Max), w.Name, resource)
		}
		gauge(fullDesc, truth(w.Share.Full), w.Name)
	}
}
