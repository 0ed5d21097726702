// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/policy"
)

// watched says what is logged, traced and counted of the flow.
func (x *explainer) watched(s *policy.Snapshot, q Question) {
	d := telemetry.DefaultsOf(s.Telemetry())
	if q.Observed != nil {
		d = *q.Observed
	}
	f := telemetry.Scope{Layer: flow.Egress, Workload: x.workload}
	if q.Visit != nil {
		host := x.t.host
		if h := x.header.Get("Host"); h != "" {
			host = h
		}
		f = telemetry.Scope{Layer: flow.Ingress, At: netip.AddrPortFrom(x.t.addr, x.t.port), Host: host}
	} else if x.Allowed {
		f.To = x.Rule
	}
	if a := telemetry.Tell(s, d, f); a.Configured() {
		x.Telemetry = &a
	}
}
