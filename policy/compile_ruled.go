// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// ruled opens the names that no ServiceEntry declares and a rule for TLS leads
// to one that is declared: in Istio a rule whose hosts cover a service counts
// for its port, whatever SNI it is for ("Egress using Wildcard Hosts" sends
// *.wikipedia.org to www.wikipedia.org by it). Connections to them go by the
// rules alone.
func (h *hostEdit) ruled() {
	open := map[hostname.Pattern]*Service{}
	var declared *hostname.Index[*Host]
	for _, v := range h.policy.vhostList {
		for _, vs := range v.own {
			if len(vs.TLS) > 0 && declared == nil {
				declared = h.names.Index()
				h.names = declared.Edit()
			}
			h.ruledBy(open, declared, v.pattern, vs)
		}
	}
	if len(open) == 0 {
		return
	}
	h.decls = map[hostname.Pattern][]*Service{}
	for p, s := range open {
		h.decls[p] = []*Service{s}
		h.policy.ruled = append(h.policy.ruled, p)
	}
	slices.SortFunc(h.policy.ruled, hostname.Compare)
	h.build()
}

// ruledBy adds what the rules for TLS of a VirtualService open under one of
// its hosts.
func (h *hostEdit) ruledBy(open map[hostname.Pattern]*Service, declared *hostname.Index[*Host], pattern hostname.Pattern, vs *VirtualService) {
	on := h.scope.sidecar.actsOn(vs)
	for _, r := range vs.TLS {
		for _, m := range r.Matches {
			if !h.scope.meets(m.Gateways, m.SourceNamespace, m.SourceLabels) {
				continue
			}
			for _, port := range covered(declared, pattern, m.Port) {
				if !on.has(port) {
					continue
				}
				for _, sni := range m.SNIHosts {
					if pattern.Covers(sni) && sni != "*" && !declares(declared, sni, port) {
						open[sni] = addPort(open[sni], vs, r, sni, port)
					}
				}
			}
		}
	}
}

// addPort adds a port to what a rule opens under a name; s may be nil.
func addPort(s *Service, vs *VirtualService, r *TLSRule, sni hostname.Pattern, port uint16) *Service {
	if s == nil {
		s = &Service{Ref: r.Ref, External: true, Hosts: []hostname.Pattern{sni}, Derived: &Derived{ByRules: true}}
		s.Ref.Kind, s.Ref.Namespace, s.Ref.Name = vs.Ref.Kind, vs.Ref.Namespace, vs.Ref.Name
	}
	if declaredPort(s, TCP, port) == nil {
		s.Ports = append(s.Ports, Port{Number: port, Protocol: ProtocolTLS})
	}
	return s
}

// covered lists the ports for TLS (port alone, unless it is 0) that declared
// hosts which a rule's host covers have.
func covered(declared *hostname.Index[*Host], pattern hostname.Pattern, port uint16) []uint16 {
	var out []uint16
	add := func(x *Host) {
		for _, hp := range x.Ports {
			if hp.Protocol.IsTLS() && (port == 0 || hp.Number == port) && !slices.Contains(out, hp.Number) {
				out = append(out, hp.Number)
			}
		}
	}
	if !pattern.IsWildcard() {
		if x, ok := declared.Get(pattern); ok {
			add(x)
		}
		return out
	}
	for p, x := range declared.All() {
		if pattern.Covers(p) {
			add(x)
		}
	}
	slices.Sort(out)
	return out
}

// declares says whether a declared host stands for all names of a pattern, or
// for the pattern itself with whatever ports.
func declares(declared *hostname.Index[*Host], p hostname.Pattern, port uint16) bool {
	if _, ok := declared.Get(p); ok {
		return true
	}
	for i := 1; i < len(p); i++ {
		if x, ok := declared.Get("*" + p[i:]); ok && x.Port(TCP, port) != nil {
			return true
		}
	}
	return false
}
