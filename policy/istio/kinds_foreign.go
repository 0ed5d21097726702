// SPDX-License-Identifier: Apache-2.0

package istio

import "slices"

// foreign are the kinds of other systems that let connections out, and what
// of theirs is written how here.
var foreign = []struct {
	groups []string
	kinds  []string
	how    string
}{
	{[]string{"networking.k8s.io", "crd.projectcalico.org", "projectcalico.org"}, []string{"NetworkPolicy", "GlobalNetworkPolicy"},
		"an ipBlock is a ServiceEntry with these addresses and resolution NONE; whom it is for is said by exportTo and AuthorizationPolicies"},
	{[]string{"cilium.io"}, []string{"CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "CiliumCIDRGroup", "CiliumEgressGatewayPolicy"},
		"toFQDNs is a ServiceEntry with these hosts, toCIDR one with these addresses and resolution NONE, rules for HTTP are a VirtualService; whom it is for is said by exportTo and AuthorizationPolicies"},
	{[]string{"policy.networking.k8s.io", "crd.antrea.io"}, []string{"AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy", "NetworkPolicy"},
		"what it allows is a ServiceEntry (domainNames are hosts, networks are addresses with resolution NONE), what it denies needs no rule here, or a DENY AuthorizationPolicy where a ServiceEntry allows more"},
	{[]string{"k8s.ovn.org", "network.openshift.io"}, []string{"EgressFirewall", "EgressNetworkPolicy"},
		"dnsName is a ServiceEntry with that host, cidrSelector one with these addresses and resolution NONE"},
}

// counterpart says how what an object of another system allows is written
// here; "" when it is of none that is known.
func counterpart(group, kind string) string {
	for _, f := range foreign {
		if slices.Contains(f.groups, group) && slices.Contains(f.kinds, kind) {
			return f.how
		}
	}
	return ""
}
