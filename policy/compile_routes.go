// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// meshGateway is the reserved gateway name that stands for all workloads.
const meshGateway = "mesh"

// rules returns the VirtualServices that act on the workloads of a scope.
func (b *builder) rules(sc *scope) []*VirtualService {
	var out []*VirtualService
	for _, vs := range b.cfg.VirtualServices {
		fallback := b.cfg.Mesh.DefaultVirtualServiceExport.in(vs.Ref.Namespace)
		if slices.Contains(vs.Gateways, meshGateway) && vs.Export.sees(sc.identity.Namespace, fallback) {
			out = append(out, vs)
		}
	}
	return out
}

// meshHosts finds the VirtualService that counts for each host: of several
// the oldest.
func meshHosts(rules []*VirtualService) (*hostname.Index[*meshVhost], []*meshVhost) {
	byHost := map[hostname.Pattern]*meshVhost{}
	for _, vs := range rules {
		for _, h := range vs.Hosts {
			if byHost[h] == nil {
				byHost[h] = &meshVhost{pattern: h, vs: vs}
			}
		}
	}
	list := slices.SortedFunc(maps.Values(byHost), func(x, y *meshVhost) int {
		return hostname.Compare(x.pattern, y.pattern)
	})
	return hostname.NewIndex(maps.All(byHost)), list
}

// meshRoutes compiles the rules of a policy whose hosts are known.
func (b *builder) meshRoutes(p *Policy) {
	type compiled struct {
		byPort   map[uint16]*Routes
		other    *Routes
		tls, tcp []l4Route
	}
	done := map[*VirtualService]*compiled{}
	for _, v := range p.vhostList {
		c := done[v.vs]
		if c == nil {
			c = &compiled{tls: b.tlsRoutes(p, v.vs), tcp: b.tcpRoutes(p, v.vs)}
			c.byPort, c.other = b.httpRoutes(p, v.vs)
			done[v.vs] = c
		}
		v.byPort, v.other, v.tls, v.tcp = c.byPort, c.other, c.tls, c.tcp
	}
}

// httpRoutes compiles the HTTP rules of vs; nil when it has none.
func (b *builder) httpRoutes(p *Policy, vs *VirtualService) (map[uint16]*Routes, *Routes) {
	if len(vs.HTTP) == 0 {
		return nil, nil
	}
	build := func(port uint16) *Routes {
		return &Routes{Refs: []*Ref{&vs.Ref}, routes: b.routes(p, vs, meshGateway, port)}
	}
	byPort, other := map[uint16]*Routes{}, build(0)
	for _, n := range b.choices(p, vs) {
		// Only a request on one of the destination's own ports can choose
		// among them; all other requests go where other says.
		if rs := build(n); !rs.leadsLike(other) {
			byPort[n] = rs
		}
	}
	return byPort, other
}

// choices returns the ports of the destinations that leave theirs open.
func (b *builder) choices(p *Policy, vs *VirtualService) []uint16 {
	var out []uint16
	for _, rule := range vs.HTTP {
		for _, wd := range rule.Route {
			if wd.Destination.Port != 0 {
				continue
			}
			if ports := b.portsOf(p, wd.Destination.Host); len(ports) > 1 {
				out = append(out, ports...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// leadsLike says whether two compilations of the same rules have the same
// destinations.
func (rs *Routes) leadsLike(o *Routes) bool {
	for i := range rs.routes {
		x, y := rs.routes[i].action.Destinations, o.routes[i].action.Destinations
		for j := range x {
			u, w := x[j].Upstream, y[j].Upstream
			if (u == nil) != (w == nil) || u != nil && u.Port != w.Port {
				return false
			}
		}
	}
	return true
}

// routes compiles the rules of vs for one gateway and for requests that come
// in on a port (0: any). What follows a rule that matches everything is
// unreachable, and is left out as Istio does.
func (b *builder) routes(p *Policy, vs *VirtualService, gateway string, port uint16) []route {
	var out []route
	for _, rule := range vs.HTTP {
		destinations, total := b.destinations(p, rule.Route, gateway, port)
		action := func(m *HTTPMatch) *HTTPAction {
			return &HTTPAction{Rule: rule, Match: m, Destinations: destinations, TotalWeight: total}
		}
		if len(rule.Matches) == 0 {
			return append(out, route{nil, action(nil)})
		}
		for _, m := range rule.Matches {
			if !p.scope.meets(gateway, m.Gateways, m.SourceNamespace, m.SourceLabels) {
				continue
			}
			r := route{b.matcher(rule, m), action(m)}
			out = append(out, r)
			if r.match.matchesAll() {
				return out
			}
		}
	}
	return out
}

// matcher compiles m once, however many gateways and ports it serves.
func (b *builder) matcher(rule *HTTPRule, m *HTTPMatch) *matcher {
	if c := b.base.matchers[m]; c != nil {
		return c
	}
	if b.old != nil && b.old.matchers[m] != nil {
		b.base.matchers[m] = b.old.matchers[m]
		return b.old.matchers[m]
	}
	c, err := newMatcher(m)
	if err != nil {
		b.errorf(rule.Ref, "match: %v", err)
	}
	b.base.matchers[m] = c
	return c
}

// destinations compiles a rule's destinations. One alone takes everything
// whatever its weight; of several, those with weight 0 are dropped.
func (b *builder) destinations(p *Policy, list []*WeightedDestination, gateway string, port uint16) ([]RouteDestination, uint32) {
	var out []RouteDestination
	total := uint32(0)
	for _, wd := range list {
		weight := wd.Weight
		if len(list) == 1 {
			weight = max(weight, 1)
		}
		if weight == 0 {
			continue
		}
		d := RouteDestination{Destination: wd.Destination, Weight: weight, Headers: wd.Headers}
		var hp *HostPort
		d.Upstream, hp = b.upstream(p, wd.Destination, port)
		// Workloads reach what ServiceEntries open; a gateway is told by its
		// rules what it may reach.
		d.Denied = gateway == meshGateway && d.Upstream != nil && hp == nil
		if gateway == meshGateway && hp != nil && hp.guard != nil {
			d.gates = append(d.gates, gate{hp.guard, hp, wd.Destination.Host})
		}
		out = append(out, d)
		total += weight
	}
	return out, total
}

// upstream finds a destination: an allowed host, else a Kubernetes Service.
// It returns nil when there is none or it lacks the port, and the port of the
// host if it is an allowed one. An explicit port counts; else the only port, else the
// port of the request if the service has it, else the first.
func (b *builder) upstream(p *Policy, d Destination, request uint16) (*Upstream, *HostPort) {
	allowed := false
	w := p.names.Walk(d.Host)
	for h, ok := w.Next(); ok; h, ok = w.Next() {
		allowed = true
		var ports []*HostPort
		for _, hp := range h.Ports {
			if hp.Protocol.Transport() == TCP {
				ports = append(ports, hp)
			}
		}
		if i := choosePort(len(ports), func(i int) uint16 { return ports[i].Number }, d.Port, request); i >= 0 {
			return b.subset(p, ports[i].Upstream, h.Pattern, d).WithName(d.Host), ports[i]
		}
	}
	if allowed {
		return nil, nil
	}
	k := b.base.kube[d.Host]
	if k == nil {
		return nil, nil
	}
	ports := tcpPorts(k)
	i := choosePort(len(ports), func(i int) uint16 { return ports[i].Number }, d.Port, request)
	if i < 0 {
		return nil, nil
	}
	key := Destination{Host: d.Host, Port: ports[i].Number}
	u := b.upstreams[key]
	if u == nil {
		u = newUpstream(d.Host, k, ports[i], k.Endpoints)
		b.upstreams[key] = u
	}
	own := *u // DestinationRules differ by who asks
	b.destinationScope(p.scope).direct(&own, hostname.Pattern(d.Host), k.Ref.Namespace)
	return b.subset(p, &own, hostname.Pattern(d.Host), d), nil
}

// subset returns the part of u that a destination asks for; nil when no
// DestinationRule says what that is.
func (b *builder) subset(p *Policy, u *Upstream, host hostname.Pattern, d Destination) *Upstream {
	if d.Subset == "" {
		return u
	}
	return b.destinationScope(p.scope).subset(u, host, u.Rule.Namespace, d.Subset)
}

// choosePort returns the index of the port to use, or -1.
func choosePort(n int, number func(int) uint16, explicit, request uint16) int {
	if n == 0 {
		return -1
	}
	want := cmp.Or(explicit, request)
	for i := range n {
		if number(i) == want {
			return i
		}
	}
	if explicit != 0 {
		return -1
	}
	return 0
}

// tcpPorts returns a service's ports that HTTP can go to.
func tcpPorts(s *Service) []*Port {
	var out []*Port
	for i := range s.Ports {
		if s.Ports[i].Protocol.Transport() == TCP {
			out = append(out, &s.Ports[i])
		}
	}
	return out
}

// portsOf returns the numbers of the ports that a destination host has.
func (b *builder) portsOf(p *Policy, host string) []uint16 {
	var out []uint16
	if h, ok := p.names.Lookup(host); ok {
		for _, hp := range h.Ports {
			if hp.Protocol.Transport() == TCP {
				out = append(out, hp.Number)
			}
		}
	} else if k := b.base.kube[host]; k != nil {
		for _, p := range tcpPorts(k) {
			out = append(out, p.Number)
		}
	}
	return out
}
