// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"slices"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/policy"
)

// telemetries says what is logged, traced and counted in another way: of workloads, of the
// node's gateway, and of what Telemetry objects name.
func telemetries(old, next *policy.Snapshot, workloads []string) (out []Delta) {
	everywhere := telemetry.Scope{Layer: flow.Egress}
	wasAll, isAll := watched(old, everywhere), watched(next, everywhere)
	compare := func(workload, of string, f telemetry.Scope) {
		a, b := watched(old, f), watched(next, f)
		for _, what := range []string{"access log", "traces", "metrics"} {
			if f.To != nil && slices.Equal(a[what], wasAll[what]) && slices.Equal(b[what], isAll[what]) {
				continue // as what goes elsewhere
			}
			if d, differs := difference(workload, what+of, item{lines: a[what]}, item{lines: b[what]}); differs {
				out = append(out, d)
			}
		}
	}
	for _, w := range workloads {
		compare(w, "", telemetry.Scope{Layer: flow.Egress, Workload: w})
	}
	if len(old.GatewayLabels())+len(next.GatewayLabels()) > 0 {
		compare(everybody, " of the gateway", telemetry.Scope{Layer: flow.Ingress})
	}
	for _, t := range targets(old, next) {
		of := " of what goes to " + t.Object()
		f := telemetry.Scope{Layer: flow.Egress, To: &t}
		if t.Kind == "Gateway" {
			of, f = " of visitors of "+t.Object(), telemetry.Scope{Layer: flow.Ingress, Via: &t}
		}
		compare(everybody, of, f)
	}
	return out
}

// watched are sentences of what is said of a scope.
func watched(s *policy.Snapshot, f telemetry.Scope) map[string][]string {
	a := telemetry.Tell(s, telemetry.DefaultsOf(s.Telemetry()), f)
	return map[string][]string{"access log": {a.LogLine()}, "traces": {a.TraceLine()}, "metrics": a.MetricLines()}
}

// targets are the objects that Telemetry objects name, each once.
func targets(both ...*policy.Snapshot) (out []policy.Ref) {
	for _, s := range both {
		for _, o := range s.Telemetries() {
			for _, t := range o.Targets {
				if r := (policy.Ref{Kind: t.Kind, Namespace: o.Ref.Namespace, Name: t.Name}); !slices.Contains(out, r) {
					out = append(out, r)
				}
			}
		}
	}
	return out
}
