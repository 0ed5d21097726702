// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// donors is how many policies others may have hosts from: the one of workloads that
// nothing is known of sees most of what all see, and comes first.
const donors = 2

// shared returns the host of a policy of the same snapshot, where it is the same in e's:
// a node with pods of many namespaces has a policy for each of them, which say the same
// of nearly all hosts. nil: there is none. A host is what its services say, unless
// AuthorizationPolicies, DestinationRules or rules for TLS and TCP say something of it,
// or it has to do with the inside of the cluster: all of that is each policy's own.
func (b *builder) shared(e *hostEdit, pattern hostname.Pattern, services []*Service) *Host {
	if len(b.made) == 0 || !b.plain(e, pattern, services) {
		return nil
	}
	for _, p := range b.made[:min(len(b.made), donors)] {
		h, ok := p.names.Get(pattern)
		if ok && slices.Equal(h.services, services) && !h.guarded && !slices.ContainsFunc(h.Ports, func(hp *HostPort) bool {
			return hp.Upstream.Traffic != nil || hp.sniVerdict != e.policy.sniVerdict || hp.routed != (hp.ruled || b.routesL4(e.policy, pattern, hp))
		}) {
			return h
		}
	}
	return nil
}

// plain says whether a host is what its services say, whoever's policy it is in.
func (b *builder) plain(e *hostEdit, pattern hostname.Pattern, services []*Service) bool {
	return e.destinations.find(pattern, services[0].Ref.Namespace) == nil && !slices.ContainsFunc(services, func(s *Service) bool {
		return len(b.inside) > 0 && b.namesInside(s)
	})
}
