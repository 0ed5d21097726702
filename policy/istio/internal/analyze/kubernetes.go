// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"slices"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/internal/match"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// onlyKubernetes warns about a destination for workloads that a Kubernetes
// Service has and no ServiceEntry: a rule does not open what no ServiceEntry
// does, whereas Istio has all Services in its registry. Services of gateways
// are what this node does.
func (a *analysis) onlyKubernetes(o strictyaml.Passage, host string) {
	found := a.hosts.find(hostname.Pattern(host)).service
	all := append([]*policy.Service{found}, a.hosts.several[hostname.Pattern(host)]...)
	for _, s := range all {
		if s == nil || s.External || a.ofGateway(s) {
			return
		}
	}
	o.Warnf(o.Node.At("host"), "the destination %s is a Kubernetes Service, and a rule does not open one: what comes from workloads is refused (%s); write a ServiceEntry for the host", host, policy.ReasonName)
}

// ofGateway says whether a Kubernetes Service is that of a Gateway.
func (a *analysis) ofGateway(s *policy.Service) bool {
	return len(s.Selector) > 0 && slices.ContainsFunc(a.cfg.Gateways, func(g *policy.Gateway) bool { return match.Labels(g.Selector, s.Selector) })
}
