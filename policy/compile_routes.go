// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// meshGateway is the reserved gateway name that stands for all workloads.
const meshGateway = config.MeshGateway

// rules returns the VirtualServices that act on the workloads of a class, in
// order of precedence, as far as their Sidecar imports them: those of the
// workloads' own namespace, those that are exported to it by name, those that
// everybody sees; within each the oldest first. Age alone would let any
// namespace take a host from the one that has rules for it.
func (b *builder) rules(sc *identityClass) []*VirtualService {
	var out []*VirtualService
	for _, vs := range b.cfg.VirtualServices {
		if b.countsFor(sc, vs) {
			out = append(out, vs)
		}
	}
	nearestFirst(b.cfg, out, sc.identity.Namespace)
	return out
}

// countsFor says whether the rules of a VirtualService are for the workloads
// of a class.
func (b *builder) countsFor(sc *identityClass, vs *VirtualService) bool {
	return slices.Contains(vs.Gateways, meshGateway) && seesRules(b.cfg, vs, sc.identity.Namespace) && sc.sidecar.imports(vs)
}

// nearestFirst brings VirtualServices into the order of precedence that a namespace
// has them in, and leaves those that are as near as each other in theirs.
func nearestFirst(c *Config, all []*VirtualService, namespace string) {
	slices.SortStableFunc(all, func(x, y *VirtualService) int {
		return nearness(c, x, namespace) - nearness(c, y, namespace)
	})
}

// seesRules says whether a VirtualService is visible to a namespace.
func seesRules(c *Config, vs *VirtualService, namespace string) bool {
	return visible(vs.Export, namespace, inNamespace(c.Mesh.DefaultVirtualServiceExport, vs.Ref.Namespace))
}

// nearness is less for VirtualServices that come before others: for one's own
// that nobody else sees (0), one's own (1), and those of others, by name (2)
// or because everybody sees them (3). HTTPRoutes come after VirtualServices,
// whoever sees them.
func nearness(c *Config, vs *VirtualService, namespace string) int {
	v := effective(vs.Export, inNamespace(c.Mesh.DefaultVirtualServiceExport, vs.Ref.Namespace))
	switch {
	case vs.Ref.Namespace == namespace && vs.Ref.Kind == "VirtualService" && v.Limited && len(v.Namespaces) == 1:
		return 0
	case vs.Ref.Namespace == namespace:
		return 1
	case v.Limited:
		return 2
	}
	return 3
}

// disputed lists the namespaces whose VirtualServices have a host for
// workloads that those of another namespace have as well: there it matters
// who asks.
func (b *builder) disputed() []string {
	first := map[hostname.Pattern]string{}
	found := map[string]bool{}
	for _, vs := range b.cfg.VirtualServices {
		if !slices.Contains(vs.Gateways, meshGateway) {
			continue
		}
		for _, h := range vs.Hosts {
			ns, ok := first[h]
			if !ok {
				first[h] = vs.Ref.Namespace
			} else if ns != vs.Ref.Namespace {
				found[ns], found[vs.Ref.Namespace] = true, true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// takersOf lists the namespaces whose ServiceEntries declare the host of a
// Kubernetes Service of another, or cover it: for their own workloads they have
// its place.
func (n *index) takersOf() []string {
	found := map[string]bool{}
	add := func(k *Service, by []string) {
		for _, namespace := range by {
			if namespace != k.Ref.Namespace {
				found[namespace] = true
			}
		}
	}
	for _, k := range n.kube {
		for _, name := range k.Names() {
			by, _ := n.declared.Get(name)
			add(k, by)
		}
	}
	for name, k := range n.names {
		_, parent, _ := strings.Cut(name, ".")
		add(k, n.covering(parent))
		if n.partial > 0 {
			add(k, n.coveringPart(name))
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// meshHosts finds the VirtualServices that count for each host: those that
// have the host, and behind them those that have one which covers it.
func meshHosts(rules []*VirtualService) (*hostname.Index[*meshVhost], []*meshVhost) {
	byHost := map[hostname.Pattern]*meshVhost{}
	for _, vs := range rules {
		for _, h := range vs.Hosts {
			v := byHost[h]
			if v == nil {
				v = &meshVhost{pattern: h}
				byHost[h] = v
			}
			if !slices.Contains(v.own, vs) {
				v.own = append(v.own, vs)
			}
		}
	}
	for p, v := range byHost {
		// Whatever matches a name covers what matches it more closely, so that
		// one list is right for all names that v is the closest for.
		v.all = slices.Clone(v.own)
		for i := 1; i <= len(p); i++ {
			wild := byHost["*"+p[i:]]
			if wild == nil || wild == v {
				continue
			}
			for _, vs := range wild.own {
				if !slices.Contains(v.all, vs) {
					v.all = append(v.all, vs)
				}
			}
		}
	}
	list := slices.SortedFunc(maps.Values(byHost), func(x, y *meshVhost) int {
		return hostname.Compare(x.pattern, y.pattern)
	})
	return hostname.NewIndex(maps.All(byHost)), list
}

// compiledRules are the rules of a VirtualService as the workloads of a policy
// meet them.
type compiledRules struct {
	http     *meshRules // nil: none is for the workload
	tls, tcp []l4Route
}

// leadsOn says whether a rule leads to a gateway.
func (c *compiledRules) leadsOn() bool {
	on := func(all []RouteDestination) bool {
		return slices.ContainsFunc(all, func(d RouteDestination) bool { return d.Gateway != nil })
	}
	if c.http != nil {
		for _, rs := range append(slices.Collect(maps.Values(c.http.byPort)), c.http.other) {
			if slices.ContainsFunc(rs.routes, func(r route) bool { return on(r.action.Destinations) }) {
				return true
			}
		}
	}
	l4 := func(r l4Route) bool { return on(r.destinations) }
	return slices.ContainsFunc(c.tls, l4) || slices.ContainsFunc(c.tcp, l4)
}

// meshRoutes compiles the rules of a policy whose hosts are known. What is as
// it was is taken from known.
func (b *builder) meshRoutes(p *Policy, known func(*VirtualService) *compiledRules) {
	p.compiled = map[*VirtualService]*compiledRules{}
	compile := func(vs *VirtualService) *compiledRules {
		c := p.compiled[vs]
		if c == nil {
			c = known(vs)
		}
		if c == nil {
			at := place{p: p, gateway: meshGateway, vs: vs, workload: true, rules: b.destinationScope(p.class)}
			c = &compiledRules{tls: b.tlsRoutes(at), tcp: b.tcpRoutes(at)}
			on := p.class.sidecar.actsOn(vs)
			if byPort, other := b.httpRoutes(at); other != nil && len(other.routes) > 0 {
				c.http = &meshRules{vs: vs, on: on, byPort: byPort, other: other}
			}
		}
		p.compiled[vs] = c
		return c
	}
	for _, v := range p.vhostList {
		for _, vs := range v.all {
			c := compile(vs)
			v.compiled = append(v.compiled, c)
			if c.http != nil {
				v.http = append(v.http, c.http)
			}
			v.tls, v.tcp = append(v.tls, c.tls...), append(v.tcp, c.tcp...)
		}
	}
}

// place is where rules are compiled for.
type place struct {
	// p has the hosts that can be destinations.
	p *Policy
	// gateway is "mesh", or "namespace/name" of one of the Gateways of the port.
	gateway     string
	gatewayPort *gatewayPort
	vs          *VirtualService
	// port is the one that connections come in on; 0: any.
	port uint16
	// workload says that it is a workload whose connections come here, at
	// once or from one Gateway to the next: destinations must be allowed.
	workload bool
	// http says that it is HTTP that comes to the destinations.
	http bool
	// rules are the DestinationRules that count for what leaves the place.
	rules *destinationScope
}

// meets says whether what a match asks of who sends a request and of the
// gateway holds. Who sends it is, on a gateway, the gateway: it has the labels
// and the namespace of its proxy, and of a match that names the gateway
// nothing else is asked (istio pilot/pkg/networking/core/route sourceMatchHTTP).
func (at *place) meets(m *HTTPMatch) bool {
	switch {
	case at.gateway == meshGateway:
		return at.p.class.meets(m.Gateways, m.SourceNamespace, m.SourceLabels)
	case len(m.Gateways) > 0:
		return slices.Contains(m.Gateways, at.gateway)
	}
	return (m.SourceNamespace == "" || m.SourceNamespace == at.gatewayPort.namespace) && match.Labels(m.SourceLabels, at.gatewayPort.labels)
}

// httpRoutes compiles the HTTP rules of a VirtualService; nil when it has none.
func (b *builder) httpRoutes(at place) (map[uint16]*Routes, *Routes) {
	if len(at.vs.HTTP) == 0 {
		return nil, nil
	}
	build := func(port uint16) *Routes {
		at.port = port
		return &Routes{Refs: []*Ref{&at.vs.Ref}, routes: b.routes(at)}
	}
	byPort, other := map[uint16]*Routes{}, build(0)
	var all []*WeightedDestination
	for _, rule := range at.vs.HTTP {
		all = append(append(all, rule.Route...), mirrored(rule)...)
	}
	for _, n := range b.choices(at, all) {
		// Only a request on one of the destination's own ports can choose
		// among them; all other requests go where other says.
		if rs := build(n); !rs.leadsLike(other) {
			byPort[n] = rs
		}
	}
	return byPort, other
}

// choices returns the ports of the destinations that leave theirs open.
func (b *builder) choices(at place, all []*WeightedDestination) []uint16 {
	var out []uint16
	for _, wd := range all {
		if wd.Destination.Port != 0 {
			continue
		}
		if ports := b.portsOf(at, wd.Destination.Host); len(ports) > 1 {
			out = append(out, ports...)
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
			if (u == nil) != (w == nil) || u != nil && u.Port != w.Port || x[j].Gateway != y[j].Gateway {
				return false
			}
		}
		if !sameMirrors(rs.routes[i].action, o.routes[i].action) {
			return false
		}
	}
	return true
}

// routes compiles the rules of a VirtualService. What follows a rule that
// matches everything is unreachable, and is left out as Istio does.
func (b *builder) routes(at place) []route {
	var out []route
	at.http = true
	for _, rule := range at.vs.HTTP {
		destinations, total := b.destinations(at, rule.Route)
		mirrors, cors := b.mirrors(at, rule), b.cors(rule)
		action := func(m *HTTPMatch) *HTTPAction {
			return &HTTPAction{
				Rule: rule, Match: m, Destinations: destinations, TotalWeight: total, rewrite: b.rewrite(rule), mirrors: mirrors, cors: cors,
			}
		}
		if len(rule.Matches) == 0 {
			return append(out, route{nil, action(nil)})
		}
		for _, m := range rule.Matches {
			if !at.meets(m) {
				continue
			}
			match := b.matcher(rule, m)
			if at.gateway != meshGateway && m.Port != 0 {
				// A gateway's port is known here, and no condition any more.
				if m.Port != at.port {
					continue
				}
				anyPort := *match
				anyPort.Port = 0
				match = &anyPort
			}
			r := route{match, action(m)}
			out = append(out, r)
			if r.match.MatchesAll() {
				return out
			}
		}
	}
	return out
}

// rewrite compiles the expression of a rule's rewrite once; nil: there is none.
func (b *builder) rewrite(rule *HTTPRule) *regexp.Regexp {
	if rule.Rewrite == nil || rule.Rewrite.RegexMatch == "" {
		return nil
	}
	re, ok := b.rewrites[rule]
	if !ok {
		re, _ = regexp.Compile(rule.Rewrite.RegexMatch) // validated
		b.rewrites[rule] = re
	}
	return re
}

// matcher compiles m once, however many gateways and ports it serves.
func (b *builder) matcher(rule *HTTPRule, m *HTTPMatch) *match.HTTPMatcher {
	if c := b.index.matchers[m]; c != nil {
		return c
	}
	if b.old != nil && b.old.matchers[m] != nil {
		b.index.matchers[m] = b.old.matchers[m]
		return b.old.matchers[m]
	}
	c, err := match.NewHTTPMatcher(m)
	if err != nil {
		b.errorf(rule.Ref, "match: %v", err)
	}
	b.index.matchers[m] = c
	return c
}

// destinations compiles a rule's destinations. One alone takes everything
// whatever its weight; of several, those with weight 0 are dropped.
func (b *builder) destinations(at place, list []*WeightedDestination) ([]RouteDestination, uint32) {
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
		total += weight
		if at.workload {
			if door := b.gatewayPortOf(at.vs, wd.Destination, at.port); door != nil {
				d.Gateway = b.nextHop(at.p, door)
				out = append(out, d)
				continue
			}
		}
		b.lead(at, &d)
		out = append(out, d)
	}
	return out, total
}

// lead finds where a destination that is no gateway leads, and what guards it.
func (b *builder) lead(at place, d *RouteDestination) {
	var hp *HostPort
	d.Upstream, hp = b.upstream(at, d.Destination)
	// Workloads reach what ServiceEntries open, by whatever gateway; one
	// that serves others is told by its rules what it may reach.
	d.Denied = at.workload && d.Upstream != nil && hp == nil
	if at.workload && hp != nil && hp.authorizer != nil {
		d.authorizers = append(d.authorizers, destinationAuthorizer{hp.authorizer, hp, d.Destination.Host})
	}
}

// upstream finds a destination: an allowed host, or one that rules may lead to
// (see imported), else a Kubernetes Service.
// It returns nil when there is none or it lacks the port, and the port of the
// host if it is an allowed one. An explicit port counts; else the only port,
// else that of the request if the service has it; else there is none (Istio's
// cluster is not found then, which is a 503).
func (b *builder) upstream(at place, d Destination) (*Upstream, *HostPort) {
	hosts := b.destinationPorts(at, d.Host)
	for _, ports := range hosts {
		if i := choosePort(len(ports), func(i int) uint16 { return ports[i].Number }, d.Port, at.port); i >= 0 {
			hp := ports[i]
			return at.speaks(at.traffic(hp.Upstream, hp.host.Pattern, hp.Rule.Namespace, d).WithName(d.Host)), hp
		}
	}
	if len(hosts) > 0 {
		return nil, nil
	}
	k := b.index.kube[d.Host]
	if k == nil {
		return nil, nil
	}
	ports := tcpPorts(k)
	i := choosePort(len(ports), func(i int) uint16 { return ports[i].Number }, d.Port, at.port)
	if i < 0 {
		return nil, nil
	}
	key := Destination{Host: d.Host, Port: ports[i].Number}
	u := b.upstreams[key]
	if u == nil {
		u = newUpstream(b.consent, d.Host, k, ports[i], k.Endpoints)
		b.upstreams[key] = u
	}
	return at.speaks(at.traffic(u, hostname.Pattern(d.Host), k.Ref.Namespace, d)), nil
}

// speaks returns u, or nil where HTTP would go to a port for TLS in plain
// text: no DestinationRule says that TLS is to be originated.
func (at *place) speaks(u *Upstream) *Upstream {
	if u != nil && at.http && u.Protocol.IsTLS() && (u.Traffic == nil || u.Traffic.TLS == nil || u.Traffic.TLS.Mode == TLSDisable) {
		return nil
	}
	return u
}

// traffic returns u with what the DestinationRules of the place say of it, and
// with the part of its endpoints that the destination asks for; nil when no
// DestinationRule says which part that is.
func (at *place) traffic(u *Upstream, host hostname.Pattern, namespace string, d Destination) *Upstream {
	if d.Subset != "" {
		return at.rules.subset(u, host, namespace, d.Subset)
	}
	own := *u // DestinationRules differ by who asks
	own.travels(nil)
	own.TrafficRule = nil
	at.rules.direct(&own, host, namespace)
	if own.Traffic == nil && u.Traffic == nil {
		return u
	}
	return &own
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
	if explicit != 0 || n > 1 {
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
func (b *builder) portsOf(at place, host string) []uint16 {
	var out []uint16
	if hosts := b.destinationPorts(at, host); len(hosts) > 0 {
		for _, hp := range hosts[0] {
			out = append(out, hp.Number)
		}
	} else if k := b.index.kube[host]; k != nil {
		for _, p := range tcpPorts(k) {
			out = append(out, p.Number)
		}
	}
	return out
}

// takes returns the namespaces whose ServiceEntries a destination may be: what
// names a Kubernetes Service is that Service for all but those who may say
// otherwise (see mayTake).
func (b *builder) takes(at place, name string) func(namespace string) bool {
	k := b.index.kube[name]
	return func(namespace string) bool {
		return k == nil || namespace == at.p.class.home || b.mayTake(k.Ref.Namespace, at.vs, namespace)
	}
}

// mayTake says whether a ServiceEntry of a namespace has precedence over a
// Kubernetes Service of another, for a rule that leads there: when it is of
// the Service's namespace, of the rule's, or of the root namespace. As in
// Istio, where Services come before the ServiceEntries of other namespaces,
// nobody takes a Service from its owner and its clients by declaring its name.
func (b *builder) mayTake(service string, vs *VirtualService, namespace string) bool {
	return namespace == service || namespace == vs.Ref.Namespace || namespace == b.rootNamespace()
}
