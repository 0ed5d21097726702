// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"reflect"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// unchanged says what of a Config is as it was in the one before. It is found
// out once for all policies.
type unchanged struct {
	mesh, gateways bool
	// guards says that AuthorizationPolicies say the same, and of the same
	// workloads; destinations that DestinationRules do.
	guards, destinations bool
	destinationsChanged  []*DestinationRule
	// rules are the VirtualServices that came, went or changed; ordered says
	// that the others are in the order in which they were.
	rules   []*VirtualService
	ordered bool
	// kube says that no Kubernetes Service that came or went is known to a host
	// or a rule.
	kube bool
	// services says that no Kubernetes Service came or went.
	services bool
	// external are the ServiceEntries that came or went, and those among them
	// that rules may lead to.
	external []*Service
	ledTo    map[*Service]bool
}

// same compares the Config with the one before, which there is.
func (b *builder) same() *unchanged {
	if b.unchanged != nil {
		return b.unchanged
	}
	was, now := b.old.cfg, b.cfg
	u := &unchanged{ledTo: map[*Service]bool{}}
	u.mesh = reflect.DeepEqual(&was.Mesh, &now.Mesh) && slices.Equal(was.AllowedEndpoints, now.AllowedEndpoints)
	u.gateways = slices.Equal(was.Gateways, now.Gateways) && maps.Equal(was.GatewaySelector, now.GatewaySelector)
	root := was.Mesh.RootNamespace == now.Mesh.RootNamespace
	u.guards = root && was.Mesh.TrustDomain == now.Mesh.TrustDomain && reflect.DeepEqual(targeted(was), targeted(now))
	var ordered bool
	u.destinationsChanged, ordered = changed(was.DestinationRules, now.DestinationRules)
	if u.destinations = root && ordered && len(u.destinationsChanged) == 0; !root || !ordered {
		u.destinationsChanged = slices.Concat(was.DestinationRules, now.DestinationRules)
	}
	u.rules, u.ordered = changed(was.VirtualServices, now.VirtualServices)
	b.compareServices(u)
	b.unchanged = u
	return u
}

// targeted are the AuthorizationPolicies that guard ServiceEntries.
func targeted(c *Config) (out []*AuthorizationPolicy) {
	for _, a := range c.Authorizations {
		if len(a.Targets) > 0 {
			out = append(out, a)
		}
	}
	return out
}

// changed returns what only one of two lists has, and whether what both have
// is in the same order in both. What is equal and not the same is in both.
func changed[T any](was, now []*T) (other []*T, ordered bool) {
	for len(was) > 0 && len(now) > 0 && was[0] == now[0] {
		was, now = was[1:], now[1:]
	}
	for len(was) > 0 && len(now) > 0 && was[len(was)-1] == now[len(now)-1] {
		was, now = was[:len(was)-1], now[:len(now)-1]
	}
	before, after := make(map[*T]bool, len(was)), make(map[*T]bool, len(now))
	for _, x := range was {
		before[x] = true
	}
	for _, x := range now {
		after[x] = true
	}
	split := func(list []*T, both map[*T]bool) (stayed []*T) {
		for _, x := range list {
			if both[x] {
				stayed = append(stayed, x)
			} else {
				other = append(other, x)
			}
		}
		return stayed
	}
	x, y := split(was, after), split(now, before)
	return other, slices.Equal(x, y)
}

// compareServices finds the services that came or went, and what they may
// mean beyond themselves.
func (b *builder) compareServices(u *unchanged) {
	u.kube, u.services = true, true
	moved := map[*Service]int{}
	for _, s := range b.removed {
		moved[s]++
	}
	for _, s := range b.added {
		moved[s]++
	}
	if len(moved) == 0 {
		return
	}
	led := b.destinationHosts()
	for s := range moved {
		if !s.External {
			u.services = false
			u.kube = u.kube && !b.known(s, led)
			continue
		}
		u.external = append(u.external, s)
		u.ledTo[s] = slices.ContainsFunc(s.Hosts, func(h hostname.Pattern) bool {
			if !h.IsWildcard() {
				return led[string(h)]
			}
			for d := range led {
				if h.Matches(d) {
					return true
				}
			}
			return false
		})
	}
}

// destinationHosts are the hosts that rules lead to, or led to.
func (b *builder) destinationHosts() map[string]bool {
	out := map[string]bool{}
	for _, vs := range b.cfg.VirtualServices {
		for _, h := range vs.LedTo() {
			out[h] = true
		}
	}
	for _, vs := range b.unchangedRules() {
		for _, h := range vs.LedTo() {
			out[h] = true
		}
	}
	return out
}

// unchangedRules are those of the Config before, unless they are the same.
func (b *builder) unchangedRules() []*VirtualService {
	if slices.Equal(b.old.cfg.VirtualServices, b.cfg.VirtualServices) {
		return nil
	}
	return b.old.cfg.VirtualServices
}

// known says whether a Kubernetes Service is, or was, a destination of rules,
// or what a ServiceEntry's host stands for.
func (b *builder) known(k *Service, led map[string]bool) bool {
	name, ns := k.Ref.Name, k.Ref.Namespace
	for _, h := range append([]hostname.Pattern{hostname.Pattern(name), hostname.Pattern(name + "." + ns)}, k.Names()...) {
		if led[string(h)] {
			return true
		}
		for _, n := range [...]*index{b.index, b.old} {
			if by, _ := n.declared.Get(h); len(by) > 0 {
				return true
			}
		}
	}
	return false
}

// kept returns the policy of a class as it was in the snapshot before, when
// nothing that it was compiled from has changed; nil otherwise. Policies that
// go on as gateways depend on more than what their workloads see, and are
// always compiled.
func (b *builder) kept(sc *identityClass, old *Policy) *Policy {
	u, was := b.same(), old.class
	if len(old.gateways) > 0 || !u.mesh || !u.gateways || !u.guards || !u.ordered || !u.kube || was.shares != sc.shares || was.home != sc.home || was.key != sc.key {
		return nil
	}
	if !u.services && len(b.inside) > 0 && sc.sidecar.limits() {
		return nil // it opens the Services that it imports
	}
	if slices.ContainsFunc(u.rules, func(vs *VirtualService) bool { return b.countsFor(sc, vs) }) {
		return nil
	}
	if !u.destinations && b.destinationsDiffer(sc) {
		return nil
	}
	for _, s := range u.external {
		switch {
		case u.ledTo[s]:
			return nil
		case !b.sees(sc, s):
		case !sc.sidecar.limits() || len(sc.sidecar.narrow(s)) > 0:
			return nil
		}
	}
	p := *old
	p.class, p.index, p.reserved = sc, b.index, nil
	if p.reserve(b.covered); !reflect.DeepEqual(p.reserved, old.reserved) {
		return nil
	}
	return &p
}

// knownRules finds the rules that are as they were in the policy before: those
// that lead to no gateway, to no host of those that were built anew, and to
// nothing that other DestinationRules are for.
func (b *builder) knownRules(old *Policy, changed []hostname.Pattern) func(*VirtualService) *compiledRules {
	u := b.same()
	if !u.mesh || !u.gateways || !u.guards || !u.kube {
		return func(*VirtualService) *compiledRules { return nil }
	}
	hosts := map[hostname.Pattern]bool{}
	for _, p := range changed {
		hosts[p] = true
	}
	for _, dr := range u.destinationsChanged {
		hosts[dr.Host] = true
	}
	for _, s := range u.external {
		if u.ledTo[s] {
			for _, p := range s.Hosts {
				hosts[p] = true
			}
		}
	}
	return func(vs *VirtualService) *compiledRules {
		c := old.compiled[vs]
		if c == nil || c.leadsOn() {
			return nil
		}
		for _, h := range vs.LedTo() {
			if hosts[hostname.Pattern(h)] {
				return nil
			}
			for i := 0; i <= len(h); i++ {
				if hosts[hostname.Pattern("*"+h[i:])] {
					return nil
				}
			}
		}
		return c
	}
}

// destinationsDiffer says whether a DestinationRule that came, went or moved
// is for the workloads of a class.
func (b *builder) destinationsDiffer(sc *identityClass) bool {
	return slices.ContainsFunc(b.same().destinationsChanged, func(dr *DestinationRule) bool {
		own := dr.Ref.Namespace == sc.identity.Namespace
		return own || len(dr.Selector) == 0 && visible(dr.Export, sc.identity.Namespace, inNamespace(b.cfg.Mesh.DefaultDestinationRuleExport, dr.Ref.Namespace))
	})
}
