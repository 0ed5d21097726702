// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/internal/cow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy/internal/match"
)

// index is what a Snapshot keeps for the next one to build on.
type index struct {
	cfg *Config
	// declared has the namespaces of the services that declare a host, and,
	// under the text of a prefix, which is no host, of those that name it.
	declared cow.Map[hostname.Pattern, []string]
	// partial counts the wildcards among them that begin within a label.
	partial int
	// overlaps counts the hosts and prefixes that a namespace declares and
	// another does, too: there the namespace of the workload matters.
	overlaps map[string]int
	// limited counts the services that are not visible to everybody, by the
	// namespaces that see them.
	limited map[string]int
	// opaque counts the ports whose flows only their address tells apart, by
	// number and namespace: names of two namespaces can have one address.
	opaque map[uint16]map[string]int
	// names are the names of Kubernetes Services that wildcards of other
	// namespaces cover, takers the namespaces that have such names.
	names  map[string]*Service
	takers []string
	// kube has the Kubernetes Services by host, borrow by namespace and name.
	kube     map[string]*Service
	borrow   map[[2]string]*Service
	matchers map[*HTTPMatch]*match.HTTPMatcher
	// projections are services as Sidecars let them be seen; oldProjections are those of
	// the snapshot before, while a new one is built.
	projections, oldProjections map[projection][]*Service
	// sidecars are those that mean something else in each namespace.
	sidecars map[sidecarIn]*Sidecar
}

var patternSeed = maphash.MakeSeed()

func hashPattern(p hostname.Pattern) uint64 { return maphash.String(patternSeed, string(p)) }

func newIndex(c *Config, old *index) *index {
	n := &index{
		cfg: c, declared: cow.New[hostname.Pattern, []string](hashPattern),
		overlaps: map[string]int{}, limited: map[string]int{}, opaque: map[uint16]map[string]int{},
		kube: map[string]*Service{}, borrow: map[[2]string]*Service{},
		matchers: map[*HTTPMatch]*match.HTTPMatcher{}, projections: map[projection][]*Service{}, sidecars: map[sidecarIn]*Sidecar{},
	}
	if old != nil {
		n.declared, n.overlaps, n.limited = old.declared, maps.Clone(old.overlaps), maps.Clone(old.limited)
		for port, by := range old.opaque {
			n.opaque[port] = maps.Clone(by)
		}
		n.oldProjections, n.partial = old.projections, old.partial
	}
	return n
}

// distinguished returns the namespaces whose workloads see other services, or
// see them in another order, than those of other namespaces.
func (n *index) distinguished() map[string]bool {
	out := map[string]bool{}
	for _, m := range []map[string]int{n.overlaps, n.limited} {
		for name := range m {
			out[name] = true
		}
	}
	maps.Copy(out, n.sharing())
	return out
}

// sharing returns the namespaces that have an opaque port which another has.
func (n *index) sharing() map[string]bool {
	out := map[string]bool{}
	for _, by := range n.opaque {
		if len(by) < 2 {
			continue
		}
		for name := range by {
			out[name] = true
		}
	}
	return out
}

// countPorts brings the opaque ports of a service to by more, or less.
func (n *index) countPorts(s *Service, by int) {
	for _, p := range s.Ports {
		if p.Protocol != ProtocolTCP && p.Protocol != ProtocolUnset {
			continue
		}
		m := n.opaque[p.Number]
		if m == nil {
			m = map[string]int{}
			n.opaque[p.Number] = m
		}
		if addCount(m, s.Ref.Namespace, by); len(m) == 0 {
			delete(n.opaque, p.Number)
		}
	}
}

// update brings the index from old, which may be nil, to the new services:
// removed and added are the external ones that differ.
func (n *index) update(old *index, removed, added []*Service) {
	edit := n.declared.Edit()
	for c, by := range netDeclarations(removed, added) {
		n.count(edit, c, by)
	}
	for _, list := range [...]struct {
		services []*Service
		by       int
	}{{removed, -1}, {added, 1}} {
		for _, s := range list.services {
			if s.External {
				n.countPorts(s, list.by)
			}
			if s.Export.Limited {
				for _, name := range s.Export.Namespaces {
					addCount(n.limited, name, list.by)
				}
			}
		}
	}
	n.declared = edit.Map()
	if len(removed)+len(added) == 0 && old != nil {
		n.kube, n.borrow, n.names, n.takers = old.kube, old.borrow, old.names, old.takers
		return
	}
	for _, s := range n.cfg.Services {
		if s.External {
			continue
		}
		n.borrow[[2]string{s.Ref.Namespace, s.Ref.Name}] = s
		for _, h := range s.Hosts {
			if _, ok := n.kube[string(h)]; !ok {
				n.kube[string(h)] = s
			}
		}
	}
	n.names = n.covered()
	n.takers = n.takersOf()
}

// sidecarIn is a Sidecar, and a namespace whose workloads it is for.
type sidecarIn struct {
	sidecar   *Sidecar
	namespace string
}

// localized returns a Sidecar for the workloads of a namespace, whose own "."
// is theirs. It is made once, so that it is the same in the next snapshot; old
// is the index before, or nil.
func (n *index) localized(old *index, sc *Sidecar, namespace string) sidecarScope {
	if sc == nil {
		return sidecarScope{}
	}
	own := func(sh SidecarHost) bool { return sh.Namespace == "." }
	if !slices.ContainsFunc(sc.Egress, func(e SidecarEgress) bool { return slices.ContainsFunc(e.Hosts, own) }) {
		return sidecarScope{Sidecar: sc}
	}
	k := sidecarIn{sc, namespace}
	out := n.sidecars[k]
	if out == nil && old != nil {
		out = old.sidecars[k]
	}
	if out == nil {
		one := *sc
		one.Egress = slices.Clone(sc.Egress)
		for i := range one.Egress {
			e := &one.Egress[i]
			e.Hosts = slices.Clone(e.Hosts)
			for j := range e.Hosts {
				if own(e.Hosts[j]) {
					e.Hosts[j].Namespace = namespace
				}
			}
		}
		out = &one
	}
	n.sidecars[k] = out
	return sidecarScope{out, namespace}
}

// projection is a service as a Sidecar lets it be seen.
type projection struct {
	sidecar sidecarScope
	service *Service
}

// projected returns what a Sidecar shows of a service: the service itself, parts
// of it, or nothing. Parts are made once, so that the same part of the same
// service is the same pointer in the next snapshot.
func (n *index) projected(sc sidecarScope, s *Service) []*Service {
	if !sc.limits() {
		return []*Service{s}
	}
	k := projection{sc, s}
	p, ok := n.projections[k]
	if !ok {
		if p, ok = n.oldProjections[k]; !ok {
			p = sc.narrow(s)
		}
		n.projections[k] = p
	}
	return p
}

// wasProjected returns what a Sidecar showed of a service in the snapshot before,
// and false where that is not known.
func (n *index) wasProjected(sc sidecarScope, s *Service) ([]*Service, bool) {
	p, ok := n.oldProjections[projection{sc, s}]
	return p, ok && sc.Sidecar != nil
}

// declaration is a host or prefix that a namespace declares.
type declaration struct {
	host      hostname.Pattern
	namespace string
}

// netDeclarations counts the claims that came, less those that went; what a service
// and the version of it before both declare is none.
func netDeclarations(removed, added []*Service) map[declaration]int {
	out := map[declaration]int{}
	add := func(list []*Service, by int) {
		for _, s := range list {
			if !s.External {
				continue
			}
			for _, h := range declarationsOf(s) {
				c := declaration{h, s.Ref.Namespace}
				if out[c] += by; out[c] == 0 {
					delete(out, c)
				}
			}
		}
	}
	add(removed, -1)
	add(added, 1)
	return out
}

// count brings the declarations of a host to by more of a namespace, or less.
func (n *index) count(edit *cow.Edit[hostname.Pattern, []string], c declaration, by int) {
	before, _ := edit.Get(c.host)
	after := slices.Clone(before)
	for ; by > 0; by-- {
		after = append(after, c.namespace)
	}
	for ; by < 0; by++ {
		if i := slices.Index(after, c.namespace); i >= 0 {
			after = slices.Delete(after, i, i+1)
		}
	}
	for _, name := range overlapping(before) {
		addCount(n.overlaps, name, -1)
	}
	for _, name := range overlapping(after) {
		addCount(n.overlaps, name, 1)
	}
	if isPartial(c.host) {
		n.partial += len(after) - len(before)
	}
	if len(after) == 0 {
		edit.Delete(c.host)
	} else {
		edit.Set(c.host, after)
	}
}

// declaredBy says whether a ServiceEntry of one of the namespaces that may has a
// host that matches a name.
func (n *index) declaredBy(host string, may func(namespace string) bool) bool {
	if by, _ := n.declared.Get(hostname.Pattern(host)); slices.ContainsFunc(by, may) {
		return true
	}
	for i := 1; i < len(host); i++ {
		if by, _ := n.declared.Get(hostname.Pattern("*" + host[i:])); slices.ContainsFunc(by, may) {
			return true
		}
	}
	return false
}

// declarationsOf lists what a service declares: its hosts, and the prefixes that it
// names.
func declarationsOf(s *Service) []hostname.Pattern {
	if len(s.Addresses)+len(s.Endpoints) == 0 {
		return s.Hosts
	}
	out := slices.Clone(s.Hosts)
	for _, a := range s.Addresses {
		out = append(out, hostname.Pattern(ipguard.Plain(a).String()))
	}
	for _, e := range s.Endpoints {
		if a := e.Addr.Unmap(); a.IsValid() {
			out = append(out, hostname.Pattern(netip.PrefixFrom(a, a.BitLen()).String()))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// overlapping returns the different namespaces of a list when there are
// several.
func overlapping(list []string) []string {
	if len(list) < 2 {
		return nil
	}
	names := slices.Compact(slices.Sorted(slices.Values(list)))
	if len(names) < 2 {
		return nil
	}
	return names
}

func addCount(m map[string]int, name string, by int) {
	if m[name] += by; m[name] == 0 {
		delete(m, name)
	}
}
