// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/match"
)

// l4Route is one match of a rule for TLS or TCP, and where it leads.
type l4Route struct {
	match        *L4Match // nil matches everything
	ref          *Ref
	destinations []RouteDestination
	total        uint32
	// on are the ports that the VirtualService is for; of a gateway's rule all.
	on portSet
}

// about says whether the route is about a port.
func (r *l4Route) about(port uint16) bool {
	return r.on.has(port) && (r.match == nil || r.match.Port == 0 || r.match.Port == port)
}

// meets says whether what a match of a rule for workloads asks of them holds.
func (sc *identityClass) meets(gateways []string, namespace string, labels map[string]string) bool {
	if len(gateways) > 0 && !slices.Contains(gateways, meshGateway) {
		return false
	}
	return (namespace == "" || namespace == sc.identity.Namespace) && match.Labels(labels, sc.identity.Labels)
}

func (b *builder) tlsRoutes(at place) []l4Route {
	var out []l4Route
	for _, r := range at.vs.TLS {
		out = b.l4Routes(out, at, &r.Ref, r.Matches, r.Route)
	}
	return out
}

func (b *builder) tcpRoutes(at place) []l4Route {
	var out []l4Route
	for _, r := range at.vs.TCP {
		out = b.l4Routes(out, at, &r.Ref, r.Matches, r.Route)
	}
	return out
}

// l4Routes adds a rule. Its destinations that name no port take that of the
// match, else the one that was dialled: then there is a route for each port
// that they have.
func (b *builder) l4Routes(out []l4Route, at place, ref *Ref, matches []*L4Match, list []*WeightedDestination) []l4Route {
	on := at.p.class.sidecar.actsOn(at.vs)
	add := func(m *L4Match, port uint16) {
		at.port = port
		to, total := b.destinations(at, list)
		out = append(out, l4Route{m, ref, to, total, on})
	}
	for _, m := range matches {
		if !at.p.class.meets(m.Gateways, m.SourceNamespace, m.SourceLabels) {
			continue
		}
		if m.Port == 0 {
			for _, n := range b.choices(at, list) {
				own := *m
				own.Port = n
				add(&own, n)
			}
		}
		add(m, m.Port)
	}
	if len(matches) == 0 {
		for _, n := range b.choices(at, list) {
			add(&L4Match{Port: n}, n)
		}
		add(nil, 0)
	}
	return out
}

// matches says whether the route is for a connection to dst that carries sni;
// TCP rules don't look at that.
func (r *l4Route) matches(dst netip.AddrPort, sni string) bool {
	if !r.about(dst.Port()) {
		return false
	}
	m := r.match
	if m == nil {
		return true
	}
	if len(m.SNIHosts) > 0 && !slices.ContainsFunc(m.SNIHosts, func(h hostname.Pattern) bool { return h.Matches(sni) }) {
		return false
	}
	a := dst.Addr().Unmap().WithZone("")
	return len(m.Subnets) == 0 || slices.ContainsFunc(m.Subnets, func(n netip.Prefix) bool { return n.Contains(a) })
}

// routesL4 says whether a rule for TLS or TCP may choose where connections to
// a port of a host go, so that the forwarding core must see them.
func (b *builder) routesL4(p *Policy, pattern hostname.Pattern, hp *HostPort) bool {
	if hp.Protocol.Transport() != TCP || hp.Protocol.IsHTTP() {
		return false
	}
	if !pattern.IsWildcard() {
		// Connections that hp allows have this name; only the rules of the
		// most specific host are asked.
		v, ok := p.vhosts.Lookup(string(pattern))
		return ok && p.class.routesPort(v.all, hp) && !b.leadsHome(p, v.all, hp)
	}
	for _, v := range p.vhostList {
		if v.pattern.Overlaps(pattern) && p.class.routesPort(v.own, hp) {
			return true
		}
	}
	return false
}

func hasL4(vs *VirtualService) bool { return len(vs.TLS)+len(vs.TCP) > 0 }

// routesPort says whether one of the VirtualServices has rules for a port:
// those for TLS are for TLS, those for TCP for what is neither HTTP nor TLS,
// and where no protocol is declared both may be.
func (sc *identityClass) routesPort(all []*VirtualService, hp *HostPort) bool {
	about := func(m *L4Match) bool {
		return (m.Port == 0 || m.Port == hp.Number) && sc.meets(m.Gateways, m.SourceNamespace, m.SourceLabels)
	}
	has := func(vs *VirtualService) bool {
		return hp.Protocol != ProtocolTCP && slices.ContainsFunc(vs.TLS, func(r *TLSRule) bool { return slices.ContainsFunc(r.Matches, about) }) ||
			!hp.Protocol.IsTLS() && slices.ContainsFunc(vs.TCP, func(r *TCPRule) bool {
				return len(r.Matches) == 0 || slices.ContainsFunc(r.Matches, about)
			})
	}
	return slices.ContainsFunc(all, func(vs *VirtualService) bool { return has(vs) && sc.sidecar.actsOn(vs).has(hp.Number) })
}

// l4Target is where an allowed connection to hp goes under a name: by the
// first rule that matches, or to the host's own upstream.
func (p *Policy) l4Target(f *Flow, d Decision, u *Upstream, name string, tls bool) (Decision, *Upstream) {
	if d.Port.routed {
		routes, complete := p.l4Rules(d.Port, name, tls)
		r := firstL4(routes, d.Port, f.Dst.Addr(), name, tls)
		f.Trace.l4(routes, r, complete, tls)
		if r != nil {
			return r.follow(f, d, name, tls)
		}
		if complete {
			return deny(ReasonNoRoute, routes[0].ref), nil
		}
	} else if f.Trace != nil {
		p.leadsHome(f, d, name, tls)
	}
	u = named(u, name)
	f.Trace.end(u)
	return d.unruled(u)
}

// leadsHome follows rules that need not be followed, because they lead to where
// the connection goes anyway, for those who ask.
func (p *Policy) leadsHome(f *Flow, d Decision, name string, tls bool) {
	routes, complete := p.l4Rules(d.Port, name, tls)
	if r := firstL4(routes, d.Port, f.Dst.Addr(), name, tls); r != nil {
		f.Trace.l4(routes, r, complete, tls)
		r.follow(f, d, name, tls)
	}
}

// l4Rules are the rules for connections to a port of hp under a name: for TLS
// those for TLS that are about the port, of which one has to match as soon as
// there is one (Istio builds no other filter chain then); for everything else,
// and for TLS where no protocol is declared and no such rule exists, those for
// TCP.
func (p *Policy) l4Rules(hp *HostPort, name string, tls bool) (routes []l4Route, complete bool) {
	if name == "" {
		return nil, false
	}
	v, ok := p.vhosts.Lookup(name)
	if !ok {
		return nil, false
	}
	if tls {
		if slices.ContainsFunc(v.tls, func(r l4Route) bool { return r.about(hp.Number) }) {
			return v.tls, true
		}
	}
	if hp.Protocol.IsTLS() {
		return nil, false
	}
	return v.tcp, false
}

// firstL4 is the first of the rules that matches; nil when none does.
func firstL4(routes []l4Route, hp *HostPort, dst netip.Addr, name string, tls bool) *l4Route {
	if !tls {
		name = ""
	}
	for i := range routes {
		if r := &routes[i]; r.matches(netip.AddrPortFrom(dst, hp.Number), name) {
			return r
		}
	}
	return nil
}

// unruled is the answer when no rule matches: u, unless only rules open the
// port.
func (d Decision) unruled(u *Upstream) (Decision, *Upstream) {
	if d.Port.ruled {
		return deny(ReasonNoRoute, d.Port.Rule), nil
	}
	return d.supported(u)
}

// follow goes where the rule leads, as one Gateway after the other.
func (r *l4Route) follow(f *Flow, d Decision, name string, tls bool) (Decision, *Upstream) {
	h := hops{draw: f.Draw, trace: f.Trace}
	for {
		to, reason := h.next(r.ref, r.destinations, r.total)
		switch {
		case reason != "":
			return deny(reason, r.ref), nil
		case to == nil || to.Upstream == nil && to.Gateway == nil:
			return deny(ReasonNoRoute, r.ref), nil
		case to.Denied:
			return deny(ReasonName, r.ref), nil
		case to.Gateway == nil:
			if no := to.refuses(f, d.Port, name, nil); no.reason != "" {
				return no.decision(), nil
			}
			d.Rule = r.ref
			f.Trace.end(to.Upstream)
			return d.supported(to.Upstream)
		}
		if g := to.Gateway.authorizer; g != nil {
			facts := to.Gateway.facts(f, d.Port, name, nil)
			f.Trace.gateway(to.Gateway, &facts)
			if no := refusedBy(g, &facts, false); no.reason != "" {
				return no.decision(), nil
			}
			d = d.markedBy(g, &facts)
		}
		next, reason := to.Gateway.enter(name, tls)
		f.Trace.entry(next, reason)
		if next == nil {
			return deny(reason, r.ref), nil
		}
		r, d.Through = next, to.Gateway
	}
}
