// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/egressd/egressd/internal/flowlog"
)

// FlowLog are the metrics of a flow log.
func FlowLog(stats func() flowlog.Stats) []prometheus.Collector {
	counter := func(name, help string, n func(flowlog.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(n(stats())) })
	}
	return []prometheus.Collector{
		counter("egressd_flow_log_lines_total", "Lines of the flow log, each counted once, wherever it goes.", func(s flowlog.Stats) uint64 { return s.Lines }),
		counter("egressd_flow_log_folded_total", "Denials that have no line of their own in the flow log, and are counted in another one's field more.", func(s flowlog.Stats) uint64 { return s.Folded }),
		counter("egressd_flow_log_dropped_total", "Lines of the flow log that were lost in one of the places that it goes to, because nobody took them or they could not be written.", func(s flowlog.Stats) uint64 { return s.Dropped }),
	}
}
