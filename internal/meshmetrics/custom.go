// SPDX-License-Identifier: Apache-2.0

package meshmetrics

import (
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/telemetry"
)

// Follow has metrics be as Telemetry objects want them; nil: there are none. When these
// have other labels than before, all series begin anew: a metric has one set of labels.
func (m *Metrics) Follow(b *telemetry.Rulebook) {
	extra := slices.DeleteFunc(b.Labels(), func(name string) bool { return slices.Contains(ofRequests, name) })
	m.mu.Lock()
	if !slices.Equal(extra, m.extra) {
		m.begin(extra)
	}
	m.mu.Unlock()
	m.rules.Store(b)
}

// custom is the series of what is observed where a Telemetry changes metrics. Its labels
// are made anew each time, since what their values are made of is no part of the key.
func (m *Metrics) custom(r *telemetry.FlowRules, k key, o *flow.Observation) *series {
	of := telemetry.Metrics[:4]
	if k.connection {
		of = telemetry.Metrics[4:]
	}
	m.mu.RLock()
	names := m.names(k)
	m.mu.RUnlock()
	base := append(m.labels(k), make([]string, len(names))...)[:len(names)]
	var labels [4][]string
	var text strings.Builder
	for i, metric := range of {
		values := slices.Clone(base)
		if r.Counted(metric, o, names, values) {
			labels[i] = values
		}
		for _, v := range labels[i] {
			text.WriteString(v)
			text.WriteByte(0)
		}
		text.WriteByte(1)
	}
	k = key{connection: k.connection, workload: k.workload, custom: text.String()}
	s := m.find(k)
	if s == nil {
		s = m.add(k, o.Time, func() [4][]string { return labels })
	}
	s.touch(o.Time)
	return s
}
