// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/ipguard"
)

func comparePrefix(x, y netip.Prefix) int {
	return cmp.Or(x.Addr().Compare(y.Addr()), cmp.Compare(x.Bits(), y.Bits()))
}

// host builds what a policy has for a host that services declare, in order of
// precedence. Those of one namespace count: what another one's author writes
// about a host changes neither its answers nor its ports.
func (b *builder) host(e *hostEdit, pattern hostname.Pattern, services []*Service) *Host {
	if h := b.shared(e, pattern, services); h != nil {
		return h
	}
	h := &Host{Pattern: pattern, Rule: &services[0].Ref, services: services}
	guards := map[*HostPort][]*AuthorizationPolicy{}
	for _, s := range services {
		if !h.joins(s) {
			continue
		}
		endpoints := b.endpoints(s, pattern)
		closed := b.closedTo(e.scope, s)
		part := s == services[0] // whether it has one in the host
		for i := range s.Ports {
			hp := h.open(b.consent, s, &s.Ports[i], endpoints, closed)
			if hp == nil {
				continue
			}
			part = true
			if list := b.auth.Of(s); len(list) > 0 {
				guards[hp] = append(guards[hp], list...)
			}
		}
		if part {
			h.AllowPrivate = h.AllowPrivate || s.AllowPrivate
			h.answer(b.consent, s, endpoints, closed)
		}
	}
	slices.SortFunc(h.Ports, func(x, y *HostPort) int {
		return cmp.Or(cmp.Compare(x.Number, y.Number), cmp.Compare(x.Protocol.Transport(), y.Protocol.Transport()))
	})
	slices.SortFunc(h.Answers, netip.Addr.Compare)
	h.Answers = slices.Compact(h.Answers)
	slices.SortFunc(h.Literal, comparePrefix)
	h.Literal = slices.Compact(h.Literal)
	reaches := make(map[*HostPort]*reach, len(h.Ports))
	for _, hp := range h.Ports {
		e.destinations.direct(hp.Upstream, pattern, hp.Rule.Namespace)
		hp.routed, hp.sniVerdict = hp.ruled || b.routesL4(e.policy, pattern, hp), e.policy.sniVerdict
		if hp.authorizer = e.auth.Guard(guards[hp]); hp.authorizer != nil {
			h.guarded = true
		}
		reaches[hp] = newReach(hp.Upstream)
		hp.settle(h, reaches[hp])
	}
	for i := range h.rules {
		r := &h.rules[i]
		r.way, r.name = r.rule.static(reaches[r.rule], r.prefix, r.port)
	}
	h.sum = h.digest()
	return h
}

// joins says whether a service that declares the host counts beside the first
// one: it is of the same namespace, and its queries are answered alike (by
// egressd or by the servers), or it is the same object, written twice.
func (h *Host) joins(s *Service) bool {
	first := h.services[0]
	same := s.Ref.Kind == first.Ref.Kind && s.Ref.Name == first.Ref.Name
	return s.Ref.Namespace == first.Ref.Namespace && (same || hasAnswers(s) == hasAnswers(first))
}

// hasAnswers says whether egressd answers queries for the service's hosts itself.
func hasAnswers(s *Service) bool {
	return s.Resolution == ResolutionStatic || slices.ContainsFunc(s.Addresses, func(a netip.Prefix) bool { return ipguard.Plain(a).IsSingleIP() })
}

// answer adds the addresses that s itself names for h, and says which of
// them egressd answers queries with: the single addresses of `addresses` if
// there are any, else the endpoints of a STATIC service. What needs the node's
// consent and has none is no address of h.
func (h *Host) answer(consent Consent, s *Service, endpoints []Endpoint, closed []netip.Prefix) {
	vip := false
	for _, a := range s.Addresses {
		a = ipguard.Plain(a)
		parts := ipguard.Without(a, closed)
		for _, part := range parts {
			h.Literal = append(h.Literal, consent.Literal(part, s.Ports)...)
		}
		if a.IsSingleIP() {
			vip = true
			if len(parts) == 0 {
				continue
			}
			if len(s.Ports) == 0 || slices.ContainsFunc(s.Ports, func(p Port) bool { return consent.Address(a.Addr(), p.Number) }) {
				h.Answers = append(h.Answers, a.Addr())
			}
		}
	}
	for _, e := range endpoints {
		a := e.Addr.Unmap()
		refused := func(p Port) bool { return !consent.Address(a, endpointPort(p, e)) }
		if !a.IsValid() || within(closed, a) || len(s.Ports) > 0 && !slices.ContainsFunc(s.Ports, func(p Port) bool { return !refused(p) }) {
			continue
		}
		if !slices.ContainsFunc(s.Ports, refused) {
			h.Literal = append(h.Literal, netip.PrefixFrom(a, a.BitLen()))
		}
		if s.Resolution == ResolutionStatic && !vip {
			h.Answers = append(h.Answers, a)
		}
	}
	h.Own = h.Own || vip || s.Resolution == ResolutionStatic
}

// endpoints returns s's endpoints for one of its hosts. A STATIC service
// without any takes those of the Kubernetes Service of the host's name in its
// namespace (this is how a ServiceEntry takes a headless Service over).
func (b *builder) endpoints(s *Service, pattern hostname.Pattern) []Endpoint {
	if s.Resolution != ResolutionStatic || len(s.Endpoints) > 0 {
		return s.Endpoints
	}
	k := b.index.borrow[[2]string{s.Ref.Namespace, kubeName(string(pattern), s.Ref.Namespace)}]
	if k == nil {
		return nil
	}
	out := make([]Endpoint, len(k.Endpoints))
	for i, e := range k.Endpoints {
		out[i] = Endpoint{Addr: e.Addr, Weight: e.Weight, Labels: e.Labels, Ports: map[string]uint16{}}
		for _, p := range s.Ports {
			out[i].Ports[p.Name] = borrowedPort(p, k, e)
		}
	}
	return out
}

// borrowedPort returns where an endpoint of the Kubernetes Service k serves
// port p of a ServiceEntry: by the port's name, by the ServiceEntry's
// targetPort, or by the Service's port of the same number.
func borrowedPort(p Port, k *Service, e Endpoint) uint16 {
	if n := e.Ports[p.Name]; n != 0 && p.Name != "" {
		return n
	}
	if p.TargetPort != 0 {
		return p.TargetPort
	}
	for _, kp := range k.Ports {
		if kp.Number == p.Number && kp.Protocol.Transport() == p.Protocol.Transport() {
			return endpointPort(kp, e)
		}
	}
	return p.Number
}

// kubeName returns the name of the Kubernetes Service in namespace that host
// stands for: "name", "name.namespace", "name.namespace.svc" or the latter
// with a domain; "" for other hosts.
func kubeName(host, namespace string) string {
	name, rest, dotted := strings.Cut(host, ".")
	if !dotted || rest == namespace || rest == namespace+".svc" || strings.HasPrefix(rest, namespace+".svc.") {
		return name
	}
	return ""
}

// endpointPort returns the port that an endpoint serves p on: its own for
// p's name, else the target port, else the service port.
func endpointPort(p Port, e Endpoint) uint16 {
	return cmp.Or(e.Ports[p.Name], p.TargetPort, p.Number)
}

// open adds port p of s to h. When another service opened the same port
// before, that one has its way; two STATIC services of one protocol share
// the port and put their endpoints together. It returns the port if s has a
// part in it.
func (h *Host) open(consent Consent, s *Service, p *Port, endpoints []Endpoint, closed []netip.Prefix) *HostPort {
	hp := h.Port(p.Protocol.Transport(), p.Number)
	switch {
	case hp == nil:
		hp = &HostPort{Number: p.Number, Protocol: p.Protocol, Rule: &s.Ref, host: h, ruled: byRules(s)}
		hp.Upstream = newUpstream(consent, string(h.Pattern), s, p, endpoints)
		hp.Upstream.Match = h
		h.Ports = append(h.Ports, hp)
	case s.Resolution == ResolutionStatic && hp.Upstream.Resolution == ResolutionStatic && hp.Protocol == p.Protocol:
		more := newUpstream(consent, "", s, p, endpoints)
		hp.Upstream.refused = cmp.Or(hp.Upstream.refused, more.refused)
		for i, e := range more.Endpoints {
			if !slices.ContainsFunc(hp.Upstream.Endpoints, func(o UpstreamEndpoint) bool { return o.Addr == e.Addr && o.Unix == e.Unix }) {
				hp.Upstream.Endpoints = append(hp.Upstream.Endpoints, e)
				hp.Upstream.labels = append(hp.Upstream.labels, more.labels[i])
			}
		}
	default:
		return nil
	}
	rule := func(prefix netip.Prefix, port uint16, refused bool) {
		h.rules = append(h.rules, addressRule{prefix: prefix, port: port, rule: hp, service: s, refused: refused})
	}
	for _, a := range s.Addresses {
		for _, part := range ipguard.Without(ipguard.Plain(a), closed) {
			open, refused := consent.Divide(part, p.Number)
			for _, prefix := range open {
				rule(prefix, p.Number, false)
			}
			for _, prefix := range refused {
				rule(prefix, p.Number, true)
			}
		}
	}
	if s.Resolution != ResolutionStatic {
		return hp
	}
	for _, e := range endpoints {
		if !e.Addr.IsValid() || within(closed, e.Addr.Unmap()) {
			continue
		}
		a := e.Addr.Unmap()
		prefix, n := netip.PrefixFrom(a, a.BitLen()), endpointPort(*p, e)
		refused := !consent.Address(a, n)
		rule(prefix, p.Number, refused)
		if n != p.Number {
			rule(prefix, n, refused)
		}
	}
	return hp
}

// newUpstream builds where connections to a service's port go. Endpoints that
// need the node's consent and have none are left out.
func newUpstream(consent Consent, host string, s *Service, p *Port, endpoints []Endpoint) *Upstream {
	u := &Upstream{
		Host: host, Port: p.Number, Protocol: p.Protocol, Resolution: s.Resolution,
		TargetPort: cmp.Or(p.TargetPort, p.Number), Rule: &s.Ref,
		virtual: s.Resolution != ResolutionNone && len(s.Addresses) > 0,
		sans:    s.SubjectAltNames,
	}
	if s.Resolution == ResolutionNone {
		return u
	}
	add := func(e UpstreamEndpoint, labels map[string]string) {
		if !consent.Endpoint(e) {
			u.refused = cmp.Or(u.refused, e.place())
			return
		}
		u.Endpoints, u.labels = append(u.Endpoints, e), append(u.labels, labels)
	}
	for _, e := range endpoints {
		n := endpointPort(*p, e)
		switch {
		case e.Unix != "":
			add(UpstreamEndpoint{Unix: e.Unix, Weight: max(e.Weight, 1), Locality: e.Locality}, e.Labels)
		case e.Addr.IsValid():
			add(UpstreamEndpoint{Addr: netip.AddrPortFrom(e.Addr.Unmap(), n), Weight: max(e.Weight, 1), Locality: e.Locality}, e.Labels)
		default:
			if a, ok := literal(e.Host); ok {
				add(UpstreamEndpoint{Addr: netip.AddrPortFrom(a.Unmap(), n), Weight: max(e.Weight, 1), Locality: e.Locality}, e.Labels)
				continue
			}
			u.Names = append(u.Names, UpstreamName{e.Host, n, max(e.Weight, 1), e.Locality})
			u.nameLabels = append(u.nameLabels, e.Labels)
		}
	}
	// A wildcard is not a name to resolve; WithName puts the request's in. Nor
	// is an address, which has endpoints of its own.
	if len(endpoints) == 0 && s.Resolution != ResolutionStatic && host[0] != '*' {
		if a, ok := literal(host); ok {
			add(UpstreamEndpoint{Addr: netip.AddrPortFrom(a.Unmap(), u.TargetPort), Weight: 1}, nil)
		} else {
			u.Names = []UpstreamName{{host, u.TargetPort, 1, ""}}
		}
	}
	return u
}
