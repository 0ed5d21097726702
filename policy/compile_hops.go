// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/authz"
	"github.com/egressd/egressd/policy/internal/match"
)

// gatewayPortKey is what a gateway port is known by: the Kubernetes Service that stands for
// it, if any, its Gateways, the namespace that they are in, and the port.
type gatewayPortKey struct {
	service   *Service
	gateways  string
	namespace string
	port      uint16
}

// gatewayPortOf returns the port of the gateway that a destination of vs stands for,
// nil when it stands for none; request is the port that a connection came in
// on, 0: any. A gateway is
//
//   - a Kubernetes Service whose selector has all labels of a Gateway's;
//   - where nothing declares the destination, the first of the Gateways that vs
//     is bound to with a server for the port and the hosts, or else the first,
//     when the destination is called like a Service. Gateways that this node
//     serves for others do not count.
//
// What it is not: a host that a ServiceEntry declares which may take the
// Service's place.
func (b *builder) gatewayPortOf(vs *VirtualService, d Destination, request uint16) *gatewayPort {
	if len(b.gateways) == 0 {
		return nil
	}
	k := b.index.kube[d.Host]
	namespace, ok := b.serviceNamespace(vs, d.Host)
	if k != nil {
		namespace, ok = k.Ref.Namespace, true
	}
	switch {
	case !ok || b.index.declaredBy(d.Host, func(by string) bool { return b.mayTake(namespace, vs, by) }):
		return nil
	case k != nil:
		return b.serviceGatewayPort(vs, k, d, request)
	}
	var all []*Gateway
	for _, name := range vs.Gateways {
		if g := b.gateways[name]; g != nil && !b.selects(g) {
			all = append(all, g)
		}
	}
	if len(all) == 0 {
		return nil
	}
	want := cmp.Or(d.Port, request)
	for _, g := range all {
		if want != 0 && gatewayServes(g, want, vs) {
			return b.gatewayPort(gatewayPortKey{namespace: namespace, port: want}, []*Gateway{g}, g.Selector)
		}
	}
	g := all[0]
	for i := range g.Servers {
		if gatewayServes(g, g.Servers[i].Port, vs) {
			return b.gatewayPort(gatewayPortKey{namespace: namespace, port: g.Servers[i].Port}, []*Gateway{g}, g.Selector)
		}
	}
	return b.gatewayPort(gatewayPortKey{namespace: namespace, port: want}, []*Gateway{g}, g.Selector)
}

// gatewayServes says whether g has a server on a port for hosts of vs.
func gatewayServes(g *Gateway, port uint16, vs *VirtualService) bool {
	for i := range g.Servers {
		if s := serverOf(g, &g.Servers[i], ""); s.Unix == "" && s.Port == port && len(s.common(vs.Ref.Namespace, vs.Hosts)) > 0 {
			return true
		}
	}
	return false
}

// serviceGatewayPort returns the gateway port that a port of a Kubernetes Service leads to:
// Gateways name the Service's port, or the one behind it.
func (b *builder) serviceGatewayPort(vs *VirtualService, k *Service, d Destination, request uint16) *gatewayPort {
	if len(k.Selector) == 0 {
		return nil
	}
	var all []*Gateway
	for _, g := range b.cfg.Gateways {
		// A Gateway without a selector is for all gateways; that a Service is
		// one, only the rule that leads there says.
		named := len(g.Selector) > 0 || slices.Contains(vs.Gateways, g.Key())
		if named && match.Labels(g.Selector, k.Selector) {
			all = append(all, g)
		}
	}
	if len(all) == 0 {
		return nil
	}
	ports := tcpPorts(k)
	number := cmp.Or(d.Port, request)
	if i := choosePort(len(ports), func(i int) uint16 { return ports[i].Number }, d.Port, request); i >= 0 {
		number = ports[i].Number
		has := func(n uint16) bool {
			return slices.ContainsFunc(all, func(g *Gateway) bool {
				return slices.ContainsFunc(g.Servers, func(s GatewayServer) bool { return s.Port == n })
			})
		}
		if t := ports[i].TargetPort; !has(number) && t != 0 && has(t) {
			number = t
		}
	}
	return b.gatewayPort(gatewayPortKey{service: k, namespace: k.Ref.Namespace, port: number}, all, k.Selector)
}

// gatewayPort makes one of the servers that Gateways have on a port.
func (b *builder) gatewayPort(k gatewayPortKey, gateways []*Gateway, labels map[string]string) *gatewayPort {
	for _, g := range gateways {
		k.gateways += g.Key() + ","
	}
	if d, ok := b.gatewayPorts[k]; ok {
		return d
	}
	var servers []server
	for _, g := range gateways {
		for i := range g.Servers {
			if s := &g.Servers[i]; s.Port == k.port {
				servers = append(servers, serverOf(g, s, k.namespace))
			}
		}
	}
	d := b.newGatewayPort(servers, labels)
	if d == nil {
		// Nothing listens there: who comes is refused.
		g := gateways[0]
		d = &gatewayPort{name: g.Key(), port: k.port, namespace: k.namespace, labels: labels}
	}
	b.gatewayPorts[k] = d
	return d
}

// nextHop compiles a gateway port for the policy that is being compiled. Its rules may
// lead back to it.
func (b *builder) nextHop(p *Policy, d *gatewayPort) *GatewayListener {
	if l := b.nextHops[d]; l != nil {
		return l
	}
	l := &GatewayListener{Name: d.name, Port: d.port, labels: d.labels, namespace: d.namespace}
	l.authorizer = b.authScope(p.class).Gateway(d.namespace, d.labels)
	b.nextHops[d] = l
	if len(d.servers) > 0 {
		l.Protocol = d.servers[0].Protocol
		b.fill(l, p, d, true)
	}
	return l
}

// destinationsBehind finds the DestinationRules that count for what leaves the
// gateway.
func (b *builder) destinationsBehind(d *gatewayPort) *destinationScope {
	if d.rules == nil {
		d.rules = b.destinationScope(&identityClass{identity: Identity{Namespace: d.namespace, Labels: d.labels}})
	}
	return d.rules
}

// sortedNextHops lists the gateway ports of the policy that is being compiled.
func (b *builder) sortedNextHops() []*GatewayListener {
	return slices.SortedFunc(maps.Values(b.nextHops), func(x, y *GatewayListener) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.namespace, y.namespace), cmp.Compare(x.Port, y.Port))
	})
}

// serviceNamespace returns the namespace of the Service that a name could be
// of: "name", "name.namespace", "name.namespace.svc" or the latter with a
// domain. Without "svc" only a namespace that the rule is about counts.
func (b *builder) serviceNamespace(vs *VirtualService, host string) (string, bool) {
	_, rest, dotted := strings.Cut(host, ".")
	if !dotted {
		return vs.Ref.Namespace, host != ""
	}
	namespace, rest, more := strings.Cut(rest, ".")
	if more {
		return namespace, rest == "svc" || strings.HasPrefix(rest, "svc.")
	}
	known := namespace == vs.Ref.Namespace || namespace == b.rootNamespace() || slices.ContainsFunc(vs.Gateways, func(g string) bool {
		return strings.HasPrefix(g, namespace+"/")
	})
	return namespace, known
}

// leadsHome says whether the rules for TLS and TCP lead connections to a port
// of a host that is named exactly to that very port, directly or by Gateways
// that pass TLS through: then nothing above the connection acts on it, and the
// kernel can let it go straight there.
func (b *builder) leadsHome(p *Policy, all []*VirtualService, hp *HostPort) bool {
	if !hp.Protocol.IsTLS() {
		return false // rules for TCP count
	}
	name := string(hp.host.Pattern)
	for _, vs := range all {
		if !p.class.sidecar.actsOn(vs).has(hp.Number) {
			continue
		}
		for _, r := range vs.TLS {
			for _, m := range r.Matches {
				if !p.class.meets(m.Gateways, m.SourceNamespace, m.SourceLabels) || m.Port != 0 && m.Port != hp.Number {
					continue
				}
				if !slices.ContainsFunc(m.SNIHosts, func(h hostname.Pattern) bool { return h.Matches(name) }) {
					continue
				}
				return len(m.Subnets) == 0 && b.routesHome(p, vs, r, m.Port, hp)
			}
		}
	}
	return false // no rule matches, which denies
}

// routesHome follows the one destination of a rule.
func (b *builder) routesHome(p *Policy, vs *VirtualService, r *TLSRule, port uint16, hp *HostPort) bool {
	name, as := string(hp.host.Pattern), *hp.Upstream
	for h := (hops{}); ; {
		if len(r.Route) != 1 {
			return false
		}
		to := r.Route[0].Destination
		if to.Host == name {
			return cmp.Or(to.Port, port, hp.Number) == hp.Number && to.Subset == "" && !as.unsupported() && !as.steered() && !hp.Upstream.unsupported() && hp.Upstream.Transport() == ""
		}
		d := b.gatewayPortOf(vs, to, port)
		if d == nil || d.sni == nil || !d.servers[0].Protocol.IsTLS() || b.watches(p, d, hp) || !h.takeHop() {
			return false
		}
		next, ok := d.sni.Lookup(name)
		if !ok || d.terminates(next.pattern) {
			return false
		}
		vs, r, port = next.vs, next.rule, d.port
		as.travels(nil)
		b.destinationsBehind(d).direct(&as, hp.host.Pattern, hp.Rule.Namespace)
	}
}

// watches says whether the forwarding core must ask AuthorizationPolicies
// about connections to hp that go on as the gateway's: unless those allow all
// of them, and mark none.
func (b *builder) watches(p *Policy, d *gatewayPort, hp *HostPort) bool {
	g := b.authScope(p.class).Gateway(d.namespace, d.labels)
	if g == nil {
		return false
	}
	f := hp.kernelFacts(hp.exactName(), netip.Prefix{})
	f.AtGateway(d.port)
	return g.Access(&f) != authz.AllowAll || !g.MarksNone()
}

// terminates says whether a server that reads TLS has the SNI pattern, or a
// more specific one that could come in between.
func (d *gatewayPort) terminates(p hostname.Pattern) bool {
	return slices.ContainsFunc(d.servers, func(s server) bool {
		return s.Terminates() && slices.ContainsFunc(s.Hosts, p.Overlaps)
	})
}

// checkLoops refuses rules of a Gateway that lead back to where they are.
// Longer circles are left to the bound on hops.
func (b *builder) checkLoops(p *Policy) {
	for _, l := range p.gateways {
		back := func(ref *Ref, all []RouteDestination) {
			if slices.ContainsFunc(all, func(d RouteDestination) bool { return d.Gateway == l }) {
				b.errorf(*ref, "the rule leads from gateway %s port %d to the same gateway and port; match.gateways says which rule is for which", l.Name, l.Port)
			}
		}
		for _, c := range l.all() {
			for _, v := range c.vhostList {
				for _, r := range v.routes.routes {
					back(&r.action.Rule.Ref, r.action.Destinations)
				}
			}
			if c.route != nil {
				back(c.route.ref, c.route.destinations)
			}
		}
	}
}

// all lists the chains of the listener.
func (l *GatewayListener) all() []*gatewayChain {
	if l.plain != nil {
		return []*gatewayChain{l.plain}
	}
	return l.chains
}

// gatewayScope returns the hosts that a gateway of a namespace can lead to:
// all that are visible there, whatever Sidecars say to workloads.
func (b *builder) gatewayScope(out *Snapshot, namespace string) *Policy {
	sc := b.classWith(Identity{Namespace: namespace}, sidecarScope{}, b.selectors)
	if p := out.byKey(sc.key); p != nil {
		return p
	}
	if p := out.gateways[sc.key]; p != nil {
		return p
	}
	p := b.policy(sc, b.was.gateways[sc.key], nil)
	if out.gateways == nil {
		out.gateways = map[string]*Policy{}
	}
	out.gateways[sc.key] = p
	return p
}
