// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"maps"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// subsets finds the subsets that DestinationRules define for a host.
type subsets struct {
	exact map[hostname.Pattern][]*policy.DestinationRule
	wild  *hostname.Index[[]*policy.DestinationRule]
	used  map[subset]bool
}

// subset is a subset of one DestinationRule.
type subset struct {
	rule *policy.DestinationRule
	name string
}

func newSubsets(rules []*policy.DestinationRule) *subsets {
	s := &subsets{exact: map[hostname.Pattern][]*policy.DestinationRule{}, used: map[subset]bool{}}
	wild := map[hostname.Pattern][]*policy.DestinationRule{}
	for _, r := range rules {
		if len(r.Subsets) == 0 {
			continue
		}
		if r.Host.IsWildcard() {
			wild[r.Host] = append(wild[r.Host], r)
		} else {
			s.exact[r.Host] = append(s.exact[r.Host], r)
		}
	}
	s.wild = hostname.NewIndex(maps.All(wild))
	return s
}

// use notes that a route leads to a subset, and says whether it exists.
func (s *subsets) use(d policy.Destination) bool {
	found := s.useOf(s.exact[hostname.Pattern(d.Host)], d.Subset)
	walk := s.wild.Walk(d.Host)
	for rules, ok := walk.Next(); ok; rules, ok = walk.Next() {
		found = s.useOf(rules, d.Subset) || found
	}
	return found
}

func (s *subsets) useOf(rules []*policy.DestinationRule, name string) bool {
	found := false
	for _, r := range rules {
		for i := range r.Subsets {
			if r.Subsets[i].Name == name {
				s.used[subset{r, name}] = true
				found = true
			}
		}
	}
	return found
}

// destinationRules finds DestinationRules that have no effect.
func (a *analysis) destinationRules() {
	for _, r := range a.cfg.DestinationRules {
		s := a.part(r.Ref)
		host := string(r.Host)
		// A Service that nobody declares is named where a route leads to it.
		if a.undeclared(host) && !(isKubernetes(r.Host) && a.routed[host]) {
			s.Warnf(s.spec("host"), "no ServiceEntry and no Service declares the host %s: the rule does not apply to anything", host)
			continue
		}
		for i := range r.Subsets {
			if name := r.Subsets[i].Name; !a.subsets.used[subset{r, name}] {
				s.Warnf(s.spec("subsets", i, "name"), "no route uses the subset %q of %s", name, host)
			}
		}
	}
}
