// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"

	"github.com/egressd/egressd/policy"
)

// inside explains a flow that is let pass because its address is inside of the
// cluster, and no rule speaks of it; false: it is not.
func (x *explainer) inside(d policy.Decision) bool {
	if d.Verdict != policy.Direct || d.Port != nil {
		return false
	}
	in, ok := x.p.Inside(x.t.transport, netip.AddrPortFrom(x.t.addr, x.t.port))
	switch {
	case !ok:
		return false
	case in.Service != nil:
		x.step("connect: verdict %s: cluster-internal by %s, which the workload's Sidecar imports", d.Verdict, in.Service)
	default:
		x.step("connect: verdict %s: cluster-internal by --cluster-cidr (%s); no rule names this address and port, and no Sidecar with egress hosts applies", d.Verdict, in.Prefix)
	}
	return true
}

// closedInside says why an address inside of the cluster is not open.
func (x *explainer) closedInside() {
	if _, ok := x.p.Inside(x.t.transport, netip.AddrPortFrom(x.t.addr, x.t.port)); !ok && x.p.IsInside(x.t.addr) {
		x.step("connect: %s is inside of the cluster, but a Sidecar with egress hosts applies to the workload: only the Services that it imports are open", x.t.addr)
	}
}

// clusterName explains a query for a name of the cluster's that no rule names;
// false: it is none.
func (x *explainer) clusterName() bool {
	switch x.p.ClusterName(x.t.host) {
	case policy.OfCluster:
		x.step("dns: %s is a name of the cluster's; its DNS server is asked, and the answer opens nothing", x.t.host)
		x.step("connect: an address inside of the cluster (--cluster-cidr) is open by itself; explain ADDRESS:%d says it of one", x.t.port)
		x.undecided = true
		x.Verdict, x.Reason = policy.Direct, policy.ReasonAllowed
	case policy.NotInCluster:
		x.step("dns: %s ends in the cluster's domain, and no Service or Pod has such a name; it does not exist, and nobody is asked", x.t.host)
		x.Reason = policy.ReasonName
	case policy.NotImported:
		x.step("dns: %s is a name of the cluster's, and the workload's Sidecar does not import the Service; the query is denied", x.t.host)
		x.Reason = policy.ReasonName
	default:
		return false
	}
	return true
}
