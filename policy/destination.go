// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/match"
)

// destinationScope finds the DestinationRules that count for one class.
type destinationScope struct {
	own, root string
	labels    map[string]string                             // the workload's
	rules     map[string]*hostname.Index[*destinationGroup] // by namespace
	lists     map[string][]*destinationGroup                // the same, most specific first
}

// destinationGroup is what the DestinationRules of one namespace say about one
// host: the traffic policy of the first that has one, and all their subsets.
type destinationGroup struct {
	host     hostname.Pattern
	ref      *Ref
	traffic  *TrafficPolicy
	subsets  []*Subset
	selected bool // they select the workload
}

func (b *builder) destinationScope(sc *identityClass) *destinationScope {
	if s := b.destinationScopes[sc]; s != nil {
		return s
	}
	s := &destinationScope{own: sc.identity.Namespace, root: b.rootNamespace(), labels: sc.identity.Labels}
	groups := map[string]map[hostname.Pattern]*destinationGroup{}
	for _, dr := range b.cfg.DestinationRules {
		ns := dr.Ref.Namespace
		mine := ns == s.own
		switch {
		case len(dr.Selector) > 0 && (!mine || !match.Labels(dr.Selector, sc.identity.Labels)):
			continue
		case !mine && !visible(dr.Export, s.own, inNamespace(b.cfg.Mesh.DefaultDestinationRuleExport, ns)):
			continue
		}
		if groups[ns] == nil {
			groups[ns] = map[hostname.Pattern]*destinationGroup{}
		}
		groups[ns][dr.Host] = groups[ns][dr.Host].with(dr)
	}
	s.rules, s.lists = map[string]*hostname.Index[*destinationGroup]{}, map[string][]*destinationGroup{}
	for ns, byHost := range groups {
		s.rules[ns] = hostname.NewIndex(maps.All(byHost))
		s.lists[ns] = slices.SortedFunc(maps.Values(byHost), func(x, y *destinationGroup) int { return hostname.Compare(x.host, y.host) })
	}
	b.destinationScopes[sc] = s
	return s
}

// with adds a DestinationRule. One that selects the workload has precedence
// over those for all.
func (g *destinationGroup) with(dr *DestinationRule) *destinationGroup {
	selected := len(dr.Selector) > 0
	switch {
	case g == nil || selected && !g.selected:
		g = &destinationGroup{host: dr.Host, ref: &dr.Ref, selected: selected}
	case g.selected && !selected:
		return g
	}
	if g.traffic == nil && dr.Traffic != nil {
		g.traffic, g.ref = dr.Traffic, &dr.Ref
	}
	for i := range dr.Subsets {
		s := &dr.Subsets[i]
		if g.subset(s.Name) == nil {
			g.subsets = append(g.subsets, s)
		}
	}
	return g
}

// subset returns a subset by its name, or nil.
func (g *destinationGroup) subset(name string) *Subset {
	for _, s := range g.subsets {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// find returns what counts for a host that a service of a namespace declares:
// the rules of the workload's namespace, else those of the service's, else
// those of the root namespace; there those of the most specific host. It is
// nil when there are none (istio pilot/pkg/model PushContext.destinationRule).
func (s *destinationScope) find(host hostname.Pattern, namespace string) *destinationGroup {
	if len(s.rules) == 0 {
		return nil
	}
	for _, ns := range [...]string{s.own, namespace, s.root} {
		if !host.IsWildcard() {
			if rules := s.rules[ns]; rules != nil {
				if g, ok := rules.Lookup(string(host)); ok {
					return g
				}
			}
			continue
		}
		for _, g := range s.lists[ns] {
			if g.host.Covers(host) {
				return g
			}
		}
	}
	return nil
}

// effective is what counts for a port and a subset (nil: the host): the
// subset's parts in place of the host's, and all of them replaced by those for
// the port. Tunnel and PROXY protocol are not among what a port can have.
func (g *destinationGroup) effective(subset *Subset, port uint16) *TrafficPolicy {
	var out TrafficPolicy
	if g.traffic != nil {
		out = *g.traffic
	}
	if subset != nil && subset.Traffic != nil {
		t := subset.Traffic
		out.LoadBalancer = cmp.Or(t.LoadBalancer, out.LoadBalancer)
		out.Pool = cmp.Or(t.Pool, out.Pool)
		out.Outlier = cmp.Or(t.Outlier, out.Outlier)
		out.TLS = cmp.Or(t.TLS, out.TLS)
		out.Tunnel = cmp.Or(t.Tunnel, out.Tunnel)
		out.RetryBudget = cmp.Or(t.RetryBudget, out.RetryBudget)
		out.ProxyProtocol = cmp.Or(t.ProxyProtocol, out.ProxyProtocol)
		if t.Ports != nil {
			out.Ports = t.Ports
		}
	}
	if p := out.Ports[port]; p != nil {
		out.LoadBalancer, out.Pool, out.Outlier, out.TLS = p.LoadBalancer, p.Pool, p.Outlier, p.TLS
		out.Tunnel = cmp.Or(p.Tunnel, out.Tunnel)
		out.ProxyProtocol = cmp.Or(p.ProxyProtocol, out.ProxyProtocol)
	}
	out.Ports = nil
	if out.LoadBalancer == nil && out.Pool == nil && out.Outlier == nil && out.TLS == nil && out.Tunnel == nil && out.RetryBudget == nil && out.ProxyProtocol == 0 {
		return nil
	}
	return &out
}

// direct adds to an upstream what DestinationRules say of its host and port.
func (s *destinationScope) direct(u *Upstream, host hostname.Pattern, namespace string) {
	if u.Protocol.Transport() != TCP {
		return
	}
	if g := s.find(host, namespace); g != nil {
		if u.travels(g.effective(nil, u.Port)); u.Traffic != nil {
			u.TrafficRule = g.ref
			u.prefer(s.labels)
		}
	}
}

// subset returns the upstream of a subset of u's endpoints, nil when no
// DestinationRule has it.
func (s *destinationScope) subset(u *Upstream, host hostname.Pattern, namespace, name string) *Upstream {
	g := s.find(host, namespace)
	if g == nil {
		return nil
	}
	sub := g.subset(name)
	if sub == nil {
		return nil
	}
	out := *u
	out.Subset, out.TrafficRule = name, g.ref
	out.travels(g.effective(sub, u.Port))
	if len(sub.Labels) == 0 {
		out.prefer(s.labels)
		return &out
	}
	out.Endpoints, out.Names, out.labels, out.nameLabels = nil, nil, nil, nil
	for i, e := range u.Endpoints {
		if match.Labels(sub.Labels, u.labels[i]) {
			out.Endpoints, out.labels = append(out.Endpoints, e), append(out.labels, u.labels[i])
		}
	}
	for i, n := range u.Names {
		if i < len(u.nameLabels) && match.Labels(sub.Labels, u.nameLabels[i]) {
			out.Names, out.nameLabels = append(out.Names, n), append(out.nameLabels, u.nameLabels[i])
		}
	}
	out.prefer(s.labels)
	out.empty = len(out.Endpoints)+len(out.Names) == 0
	return &out
}

// Unsupported says what a DestinationRule asks for on the way to u that
// egressd does not do, or that no endpoint may be dialled, in a few words; ""
// when there is nothing. To send on as
// if it were not asked for would be wrong: plain text would go to a TLS port,
// or to endpoints that were not meant. Limits and load balancing are not among
// it.
func (u *Upstream) Unsupported() string {
	if u == nil {
		return ""
	}
	if u.unreachable() {
		return fmt.Sprintf("endpoint %s is on the node, or for the node alone; --allow-endpoint %s lets policies lead there", u.refused, u.refused)
	}
	if u.empty {
		return fmt.Sprintf("subset %q has no endpoint", u.Subset)
	}
	return u.untransported()
}

// unsupported is Unsupported as a question, without the words.
func (u *Upstream) unsupported() bool {
	if u == nil {
		return false
	}
	return u.empty || u.unreachable() || u.untransported() != ""
}

// Balanced says whether a DestinationRule says how the endpoints of u are used, which
// it can't where the workload chooses the address, or the name.
func (u *Upstream) Balanced() bool {
	t := u.Traffic
	return t != nil && (t.LoadBalancer != nil || t.Outlier != nil) && u.Resolution != ResolutionNone && u.Resolution != ResolutionDynamicDNS
}

// steered says whether connections to u must pass the forwarding core, which is
// where endpoints are chosen, connections are counted and TLS is originated.
func (u *Upstream) steered() bool {
	return u.Transport() != "" || u.Balanced() || u.Traffic != nil && u.Traffic.Pool.OfConnections()
}

// ConnectTimeout is how long a connection to u may take to be made; 0: as
// long as any other.
func (u *Upstream) ConnectTimeout() time.Duration {
	if u.Traffic == nil || u.Traffic.Pool == nil {
		return 0
	}
	return u.Traffic.Pool.ConnectTimeout
}

// IdleTimeout is how long a connection to u whose bytes nobody reads may be
// without any either way; 0: as long as any other, negative: for ever.
func (u *Upstream) IdleTimeout() time.Duration {
	if u.Traffic == nil || u.Traffic.Pool == nil {
		return 0
	}
	return u.Traffic.Pool.TCPIdleTimeout
}

// MaxDuration is how long a connection to u whose bytes nobody reads may live;
// 0: for ever.
func (u *Upstream) MaxDuration() time.Duration {
	if u.Traffic == nil || u.Traffic.Pool == nil {
		return 0
	}
	return u.Traffic.Pool.MaxConnectionDuration
}

// unreachable says that u has endpoints, and the node's operator has allowed
// none of them.
func (u *Upstream) unreachable() bool {
	return u.refused != "" && len(u.Endpoints)+len(u.Names) == 0
}

// Refusal is the reason why nothing goes to u; "" when something may.
func (u *Upstream) Refusal() Reason {
	switch {
	case !u.unsupported():
		return ""
	case u.unreachable():
		return ReasonEndpoint
	}
	return ReasonNotSupported
}

// supported denies what would go to u in a way that egressd does not know, or
// where the node's operator does not let it.
func (d Decision) supported(u *Upstream) (Decision, *Upstream) {
	if d.Verdict == Deny {
		return d, u
	}
	switch r := u.Refusal(); r {
	case "":
		return d, u
	case ReasonEndpoint:
		return deny(r, cmp.Or(u.Rule, d.Rule)), nil
	default:
		return deny(r, cmp.Or(u.TrafficRule, d.Rule)), nil
	}
}

// touchDestinations has the hosts built anew that DestinationRules are about
// when these have changed, or ask for labels that the scope before did not have.
func (h *hostEdit) touchDestinations() {
	var patterns []hostname.Pattern
	switch {
	case h.sibling:
		for _, dr := range h.b.cfg.DestinationRules {
			if len(dr.Selector) > 0 || len(dr.Labels()) > 0 {
				patterns = append(patterns, dr.Host)
			}
		}
	case h.b.same().destinations:
		return
	default:
		for _, dr := range h.b.same().destinationsChanged {
			patterns = append(patterns, dr.Host)
		}
	}
	if len(patterns) == 0 {
		return
	}
	slices.Sort(patterns)
	patterns = slices.Compact(patterns)
	exact := map[hostname.Pattern]bool{}
	wild := slices.DeleteFunc(patterns, func(p hostname.Pattern) bool { exact[p] = true; return !p.IsWildcard() })
	for p := range h.old.names.All() {
		if exact[p] || slices.ContainsFunc(wild, func(w hostname.Pattern) bool { return w.Covers(p) }) {
			h.affect(p)
		}
	}
}
