// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/authz"
)

// policy compiles what a class of workloads sees, on top of what old (nil: nothing) saw
// under the same key in the snapshot before, or else on top of like (nil:
// none), the policy of a class of this one that sees the same.
func (b *builder) policy(sc *identityClass, old, like *Policy) *Policy {
	if old == nil || old.class.sidecar != sc.sidecar || b.visibilityChanged() || old.sniVerdict != b.sniVerdict(sc) {
		old = emptyPolicy
	} else if p := b.kept(sc, old); p != nil {
		return p
	}
	p := &Policy{class: sc, index: b.index, sniVerdict: b.sniVerdict(sc), inside: b.inside, domains: b.cfg.Cluster.Names()}
	p.vhosts, p.vhostList = meshHosts(b.rules(sc))
	b.nextHops, b.imports = map[*gatewayPort]*GatewayListener{}, map[importKey]*Host{}
	h := &hostEdit{b: b, scope: sc, policy: p, old: old, removed: b.removed, added: b.added,
		gone: map[*Service]bool{}, decls: map[hostname.Pattern][]*Service{},
		auth: b.authScope(sc), destinations: b.destinationScope(sc)}
	switch {
	case old == emptyPolicy && like != nil:
		h.old, h.sibling, h.removed, h.added = like, true, nil, nil
	case old == emptyPolicy:
		h.removed, h.added = nil, b.cfg.Services
	}
	h.names, h.addrs, h.sum = h.old.names.Edit(), h.old.addrs.edit(), h.old.hostSum
	h.services()
	h.touch()
	h.build()
	changed := slices.Collect(maps.Keys(h.decls))
	h.ruled()
	p.names = h.names.Index()
	p.reserve(b.covered)
	p.addrs = h.addrs.finish(h.compareRules)
	p.addrs.unknown, p.addrs.inside = p.AllowsUnknown(), p.inside
	p.cluster = h.cluster()
	p.hostSum = h.sum
	known := func(*VirtualService) *compiledRules { return nil }
	if h.old != emptyPolicy && !h.sibling {
		known = b.knownRules(h.old, append(changed, p.ruled...))
	}
	b.meshRoutes(p, known)
	p.gateways = b.sortedNextHops()
	b.checkLoops(p)
	p.sum = p.digest(h.old)
	return p
}

var emptyPolicy = &Policy{class: &identityClass{}, names: hostname.NewIndex(maps.All(map[hostname.Pattern]*Host{})),
	vhosts: hostname.NewIndex(maps.All(map[hostname.Pattern]*meshVhost{})), addrs: newAddressTable(), cluster: newClusterTable()}

// visibilityChanged says whether the defaults by which services are visible,
// what the node lets them lead to, what is inside of its cluster, or which
// namespace is the root, are others than before.
func (b *builder) visibilityChanged() bool {
	if b.old == nil {
		return true
	}
	same := func(x, y *Visibility) bool {
		return x == y || x != nil && y != nil && x.Limited == y.Limited && slices.Equal(x.Namespaces, y.Namespaces)
	}
	was, now := &b.old.cfg.Mesh, &b.cfg.Mesh
	return !b.old.cfg.Cluster.Equal(&b.cfg.Cluster) || was.RootNamespace != now.RootNamespace || !slices.Equal(b.old.cfg.AllowedEndpoints, b.cfg.AllowedEndpoints) ||
		!same(was.DefaultServiceExport, now.DefaultServiceExport) || !same(was.DefaultDestinationRuleExport, now.DefaultDestinationRuleExport)
}

// hostEdit brings the hosts and addresses of a policy from one Config to the
// next.
type hostEdit struct {
	b           *builder
	scope       *identityClass
	policy, old *Policy
	names       *hostname.IndexEdit[*Host]
	addrs       *addressEdit
	sum         digest
	// gone are the services that no longer count, whole ones, whatever parts
	// of them were seen; decls are the services that declare each host that is
	// built anew.
	gone  map[*Service]bool
	decls map[hostname.Pattern][]*Service
	auth  *authz.Compiler

	destinations *destinationScope
	// removed and added are the services that are not those of old.
	removed, added []*Service
	// sibling says that old is of this Config, and of a class that sees the
	// same and answers otherwise what rules ask.
	sibling bool
}

// services finds the hosts that the services which came and went declare. A
// policy without a past has all services to come.
func (h *hostEdit) services() {
	for _, s := range h.removed {
		if !s.External {
			h.borrowers(s)
			continue
		}
		h.gone[s] = true
		for _, v := range h.b.oldView(h.old.class, s) {
			for _, p := range v.Hosts {
				h.affect(p)
			}
		}
	}
	var fresh []*Service
	for _, s := range h.added {
		if !s.External {
			h.borrowers(s)
			continue
		}
		fresh = append(fresh, h.b.view(h.scope, s)...)
	}
	for _, v := range fresh {
		for _, p := range v.Hosts {
			h.affect(p)
		}
	}
	for _, p := range h.old.ruled {
		h.affect(p)
	}
	for _, p := range h.affected() {
		h.decls[p] = slices.DeleteFunc(h.decls[p], func(s *Service) bool { return byRules(s) || h.gone[whole(s)] })
	}
	for _, v := range fresh {
		for _, p := range v.Hosts {
			h.decls[p] = append(h.decls[p], v)
		}
	}
	h.owners()
}

// affected lists the hosts that are built anew.
func (h *hostEdit) affected() []hostname.Pattern {
	out := make([]hostname.Pattern, 0, len(h.decls))
	for p := range h.decls {
		out = append(out, p)
	}
	return out
}

// affect has a host built anew.
func (h *hostEdit) affect(p hostname.Pattern) {
	if _, ok := h.decls[p]; ok {
		return
	}
	var decls []*Service
	if was, ok := h.old.names.Get(p); ok {
		decls = slices.Clone(was.services)
	}
	h.decls[p] = decls
}

// borrowers has the hosts built anew that take the endpoints of a Kubernetes
// Service over.
func (h *hostEdit) borrowers(kube *Service) {
	name, ns := kube.Ref.Name, kube.Ref.Namespace
	hosts := append([]hostname.Pattern{
		hostname.Pattern(name), hostname.Pattern(name + "." + ns), hostname.Pattern(name + "." + ns + ".svc"),
	}, kube.Hosts...)
	for _, p := range hosts {
		if _, ok := h.old.names.Get(p); ok {
			h.affect(p)
		}
	}
}

// touch has the hosts built anew whose verdict rules for TLS and TCP decide,
// before or now, and those that AuthorizationPolicies guard when these have
// changed.
func (h *hostEdit) touch() {
	if h.old == emptyPolicy {
		return
	}
	h.touchGuarded()
	h.touchDestinations()
	var patterns []hostname.Pattern
	for _, list := range [][]*meshVhost{h.old.vhostList, h.policy.vhostList} {
		for _, v := range list {
			if slices.ContainsFunc(v.own, hasL4) {
				patterns = append(patterns, v.pattern)
			}
		}
	}
	wild := map[hostname.Pattern]bool{}
	for _, p := range patterns {
		if p.IsWildcard() {
			wild[p] = true
		}
		h.affectOld(p)
		for i := 1; i <= len(p); i++ { // the hosts that cover it
			h.affectOld("*" + p[i:])
		}
	}
	if len(wild) == 0 {
		return
	}
	for p := range h.old.names.All() { // and those that it covers
		for i := 1; i <= len(p); i++ {
			if wild["*"+p[i:]] {
				h.affect(p)
				break
			}
		}
	}
}

// affectOld has a host built anew that there was before.
func (h *hostEdit) affectOld(p hostname.Pattern) {
	if _, ok := h.old.names.Get(p); ok {
		h.affect(p)
	}
}

func (h *hostEdit) touchGuarded() {
	now := h.b.cfg.Authorizations
	was := now
	if !h.sibling {
		if h.b.same().guards {
			return
		}
		was = h.b.old.cfg.Authorizations
	}
	guarded := map[[2]string]bool{}
	for _, a := range slices.Concat(was, now) {
		for _, t := range a.Targets {
			guarded[[2]string{a.Ref.Namespace, t.Name}] = true
		}
	}
	if len(guarded) == 0 {
		return
	}
	for p, host := range h.old.names.All() {
		if slices.ContainsFunc(host.services, func(s *Service) bool { return guarded[[2]string{s.Ref.Namespace, s.Ref.Name}] }) {
			h.affect(p)
		}
	}
}

// build builds the affected hosts anew.
func (h *hostEdit) build() {
	for p, services := range h.decls {
		if was, ok := h.names.Get(p); ok {
			h.sum.toggle(was.sum)
			for _, r := range was.rules {
				h.addrs.remove(r)
			}
		}
		if services = h.counting(p, services); len(services) == 0 {
			h.names.Delete(p)
			continue
		}
		if len(services) > 1 {
			slices.SortStableFunc(services, h.compare)
		}
		now := h.b.host(h, p, services)
		h.names.Set(p, now)
		h.sum.toggle(now.sum)
		for _, r := range now.rules {
			h.addrs.add(r)
		}
	}
}

// compare orders services that declare one host: those of the workload's own
// namespace first, then the oldest, then as they are in the Config.
func (h *hostEdit) compare(x, y *Service) int {
	own := func(s *Service) int {
		if s.Ref.Namespace == h.scope.home {
			return 0
		}
		return 1
	}
	age := func(s *Service) uint64 { return uint64(s.Created) - 1 } // unknown is the youngest
	return cmp.Or(own(x)-own(y), cmp.Compare(age(x), age(y)), h.b.rank(x)-h.b.rank(y))
}

// compareRules orders the rules for one address: by their services, then by
// the order of hosts and ports within one. A part of a service has one host
// only, which may be one that the Sidecar names.
func (h *hostEdit) compareRules(x, y addressRule) int {
	at := func(r addressRule) int { return slices.Index(whole(r.service).Hosts, r.rule.host.Pattern) }
	return cmp.Or(h.compare(x.service, y.service), at(x)-at(y),
		hostname.Compare(x.rule.host.Pattern, y.rule.host.Pattern), cmp.Compare(x.rule.Number, y.rule.Number))
}
