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

// meshVhosts compiles the VirtualServices that act on workloads. Of several
// for one host the oldest counts.
func (b *builder) meshVhosts() (*hostname.Index[*meshVhost], []*meshVhost) {
	byHost := map[hostname.Pattern]*meshVhost{}
	for _, vs := range b.cfg.VirtualServices {
		if !slices.Contains(vs.Gateways, meshGateway) {
			continue
		}
		var v *meshVhost // the same for all hosts of vs
		for _, h := range vs.Hosts {
			if byHost[h] != nil {
				continue
			}
			if v == nil {
				v = b.meshVhost(vs)
			}
			named := *v
			named.pattern = h
			byHost[h] = &named
		}
	}
	list := slices.SortedFunc(maps.Values(byHost), func(x, y *meshVhost) int {
		return hostname.Compare(x.pattern, y.pattern)
	})
	return hostname.NewIndex(maps.All(byHost)), list
}

func (b *builder) meshVhost(vs *VirtualService) *meshVhost {
	build := func(port uint16) *Routes {
		return &Routes{Refs: []*Ref{&vs.Ref}, routes: b.routes(vs, meshGateway, port)}
	}
	v := &meshVhost{byPort: map[uint16]*Routes{}, other: build(0)}
	for _, n := range b.choices(vs) {
		// Only a request on one of the destination's own ports can choose
		// among them; all other requests go where v.other says.
		if rs := build(n); !rs.leadsLike(v.other) {
			v.byPort[n] = rs
		}
	}
	return v
}

// choices returns the ports of the destinations that leave theirs open.
func (b *builder) choices(vs *VirtualService) []uint16 {
	var out []uint16
	for _, rule := range vs.HTTP {
		for _, wd := range rule.Route {
			if wd.Destination.Port != 0 {
				continue
			}
			if ports := b.portsOf(wd.Destination.Host); len(ports) > 1 {
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
func (b *builder) routes(vs *VirtualService, gateway string, port uint16) []route {
	var out []route
	for _, rule := range vs.HTTP {
		destinations, total := b.destinations(rule, gateway, port)
		action := func(m *HTTPMatch) *HTTPAction {
			return &HTTPAction{Rule: rule, Match: m, Destinations: destinations, TotalWeight: total}
		}
		if len(rule.Matches) == 0 {
			return append(out, route{nil, action(nil)})
		}
		for _, m := range rule.Matches {
			if len(m.Gateways) > 0 && !slices.Contains(m.Gateways, gateway) {
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
	if c := b.matchers[m]; c != nil {
		return c
	}
	c, err := newMatcher(m)
	if err != nil {
		b.errorf(rule.Ref, "match: %v", err)
	}
	b.matchers[m] = c
	return c
}

// destinations compiles a rule's destinations. One alone takes everything
// whatever its weight; of several, those with weight 0 are dropped.
func (b *builder) destinations(rule *HTTPRule, gateway string, port uint16) ([]RouteDestination, uint32) {
	var out []RouteDestination
	total := uint32(0)
	for _, wd := range rule.Route {
		weight := wd.Weight
		if len(rule.Route) == 1 {
			weight = max(weight, 1)
		}
		if weight == 0 {
			continue
		}
		d := RouteDestination{Destination: wd.Destination, Weight: weight, Headers: wd.Headers}
		var external bool
		d.Upstream, external = b.upstream(wd.Destination, port)
		// Workloads reach what ServiceEntries open; a gateway is told by its
		// rules what it may reach.
		d.Denied = gateway == meshGateway && d.Upstream != nil && !external
		out = append(out, d)
		total += weight
	}
	return out, total
}

// upstream finds a destination: an allowed host, else a Kubernetes Service.
// It returns nil when there is none or it lacks the port, and whether it is
// an allowed host. An explicit port counts; else the only port, else the
// port of the request if the service has it, else the first.
func (b *builder) upstream(d Destination, request uint16) (*Upstream, bool) {
	allowed := false
	w := b.names.Walk(d.Host)
	for h, ok := w.Next(); ok; h, ok = w.Next() {
		allowed = true
		var ports []*HostPort
		for _, hp := range h.Ports {
			if hp.Protocol.Transport() == TCP {
				ports = append(ports, hp)
			}
		}
		if i := choosePort(len(ports), func(i int) uint16 { return ports[i].Number }, d.Port, request); i >= 0 {
			return ports[i].Upstream.WithName(d.Host), true
		}
	}
	if allowed {
		return nil, true
	}
	k := b.kube[d.Host]
	if k == nil {
		return nil, false
	}
	ports := tcpPorts(k)
	i := choosePort(len(ports), func(i int) uint16 { return ports[i].Number }, d.Port, request)
	if i < 0 {
		return nil, false
	}
	key := Destination{Host: d.Host, Port: ports[i].Number}
	u := b.upstreams[key]
	if u == nil {
		u = newUpstream(d.Host, k, ports[i], k.Endpoints)
		b.upstreams[key] = u
	}
	return u, false
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
func (b *builder) portsOf(host string) []uint16 {
	var out []uint16
	if h, ok := b.names.Lookup(host); ok {
		for _, hp := range h.Ports {
			if hp.Protocol.Transport() == TCP {
				out = append(out, hp.Number)
			}
		}
	} else if k := b.kube[host]; k != nil {
		for _, p := range tcpPorts(k) {
			out = append(out, p.Number)
		}
	}
	return out
}
