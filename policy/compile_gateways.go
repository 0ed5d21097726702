// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/match"
)

// server is a GatewayServer together with its Gateway.
type server struct {
	*GatewayServer
	gateway string // "namespace/name"
	// namespace is that of the proxy which serves the Gateway: what is
	// visible there counts.
	namespace string
	// isolated says that what others on the port have for its hosts, or for wider
	// ones, is not for it, as the Gateway API has it ("listener isolation").
	isolated bool
	topology *Topology // what the Gateway says of it
}

// gatewayPort is one port of a gateway as far as it is the same for whoever comes
// through it.
type gatewayPort struct {
	name      string // of the Gateways
	port      uint16
	bind      netip.Addr
	unix      string
	namespace string
	labels    map[string]string
	servers   []server
	// sni are the rules for TLS that is passed through, by the SNI that they
	// are for: the exact one counts, else the longest wildcard.
	sni *hostname.Index[*sniRule]
	// rules are the DestinationRules as the gateway sees them; see
	// destinationsBehind.
	rules *destinationScope
}

// sniRule is a rule for TLS that a server passes through.
type sniRule struct {
	pattern hostname.Pattern
	rule    *TLSRule
	match   *L4Match
	vs      *VirtualService
	gateway string
}

// socketPlace is where servers listen.
type socketPlace struct {
	at   netip.AddrPort
	unix string
}

func placeOfServer(s *GatewayServer) socketPlace {
	return socketPlace{netip.AddrPortFrom(s.Bind, s.Port), s.Unix}
}

// conflicts says which servers cannot share a port, when it is not known whose gateway
// the node is: those of Gateways that select the same nodes. Else listeners says it.
func (b *builder) conflicts() {
	if len(b.cfg.GatewaySelector) > 0 {
		return
	}
	type key struct {
		selector string
		socketPlace
	}
	var order []key
	together := map[key][]server{}
	for _, g := range b.cfg.Gateways {
		if g.Listener != "" {
			continue // the Gateway API has rules of its own for them
		}
		for i := range g.Servers {
			s := &g.Servers[i]
			k := key{fmt.Sprint(g.Selector), placeOfServer(s)}
			if together[k] == nil {
				order = append(order, k)
			}
			together[k] = append(together[k], serverOf(g, s, g.Ref.Namespace))
		}
	}
	for _, k := range order {
		b.merge(together[k])
	}
}

// listeners compiles the Gateways of this node, merged by address and port.
func (b *builder) listeners(out *Snapshot) []*GatewayListener {
	byAddress := map[socketPlace][]server{}
	for _, g := range b.cfg.Gateways {
		if !b.selects(g) {
			continue
		}
		for i := range g.Servers {
			s := &g.Servers[i]
			k := placeOfServer(s)
			byAddress[k] = append(byAddress[k], serverOf(g, s, g.Ref.Namespace))
		}
	}
	keys := slices.SortedFunc(maps.Keys(byAddress), func(x, y socketPlace) int {
		return cmp.Or(cmp.Compare(x.at.Port(), y.at.Port()), x.at.Addr().Compare(y.at.Addr()), cmp.Compare(x.unix, y.unix))
	})
	var all []*GatewayListener
	for _, k := range keys {
		d := b.newGatewayPort(byAddress[k], b.cfg.GatewaySelector)
		if d == nil {
			continue
		}
		d.bind, d.unix = k.at.Addr(), k.unix
		if l := shared(all, d); l != nil {
			b.warnf(d.servers[0].Ref, "port %d: bind %v and that of gateway %s exclude each other; skipping the server", d.port, d.bind, l.Name)
			continue
		}
		l := b.listener(b.gatewayScope(out, d.namespace), d, false)
		l.authorizer = b.auth.Visitors().Gateway(d.namespace, d.labels)
		l.Topology = b.topology(d)
		all = append(all, l)
	}
	return all
}

// topology is where the gateway of a port stands. Gateways that share a port stand at
// one place.
func (b *builder) topology(d *gatewayPort) Topology {
	var first *server
	for i := range d.servers {
		s := &d.servers[i]
		switch {
		case s.topology == nil:
		case first == nil:
			first = s
		case *s.topology != *first.topology:
			b.warnf(s.Ref, "%s: gateway %s says of its gatewayTopology what gateway %s, which has the port as well, does not; that of %s counts",
				placeOf(d.unix, d.port), s.gateway, first.gateway, first.gateway)
		}
	}
	if first == nil {
		return b.cfg.Mesh.Topology
	}
	return *first.topology
}

// shared returns a listener on the same port with one of its addresses:
// two sockets cannot both have it. Sockets of paths have none.
func shared(all []*GatewayListener, d *gatewayPort) *GatewayListener {
	covers := func(x, y netip.Addr) bool {
		return !x.IsValid() || x.IsUnspecified() && (x.Is6() || y.Is4())
	}
	for _, l := range all {
		if d.port != 0 && l.Port == d.port && (covers(l.Bind, d.bind) || covers(d.bind, l.Bind)) {
			return l
		}
	}
	return nil
}

func serverOf(g *Gateway, s *GatewayServer, namespace string) server {
	return server{s, g.Key(), namespace, g.Listener != "", g.Topology}
}

// selects says whether g is for this node's gateway: its selector is empty,
// or the node carries all of its labels. A node without labels has no gateway.
func (b *builder) selects(g *Gateway) bool {
	return len(b.cfg.GatewaySelector) > 0 && match.Labels(g.Selector, b.cfg.GatewaySelector)
}

// newGatewayPort merges servers that share a port; nil when none is left.
func (b *builder) newGatewayPort(servers []server, labels map[string]string) *gatewayPort {
	servers = b.merge(servers)
	if len(servers) == 0 {
		return nil
	}
	d := &gatewayPort{port: servers[0].Port, namespace: servers[0].namespace, labels: labels, servers: servers}
	var names []string
	for _, s := range servers {
		names = append(names, s.gateway)
	}
	slices.Sort(names)
	d.name = strings.Join(slices.Compact(names), ",")
	d.sni = b.sniRules(servers)
	return d
}

// merge leaves out the servers that cannot share a port with the others
// before them, as Istio does: plain text with TLS, plain text but HTTP, and
// one SNI twice.
func (b *builder) merge(servers []server) []server {
	var kept []server
	known := map[hostname.Pattern]string{} // whose they are
	for _, s := range servers {
		if len(kept) > 0 {
			first := kept[0]
			if first.Protocol.IsTLS() != s.Protocol.IsTLS() || !s.Protocol.IsTLS() && !(first.Protocol.IsHTTP() && s.Protocol.IsHTTP()) {
				b.warnf(s.Ref, "skipping server on gateway %s: %s for %s has a conflict with the server for %s of gateway %s; TLS, HTTP and other plain text share no port, and what is not HTTP shares it with nobody: give the server a port of its own",
					s.gateway, placeOf(s.Unix, s.Port), s.Protocol, first.Protocol, first.gateway)
				continue
			}
		}
		if s.Protocol.IsTLS() {
			if s.TLS.Mode == ServerAutoPassthrough {
				b.warnf(s.Ref, "skipping server on gateway %s: AUTO_PASSTHROUGH is between the clusters of a mesh", s.gateway)
				continue
			}
			twice := func(h hostname.Pattern) bool { return known[h] != "" }
			if i := slices.IndexFunc(s.Hosts, twice); i >= 0 {
				b.warnf(s.Ref, "skipping server on gateway %s, duplicate host names: [%s]; gateway %s has a server with TLS for it on %s already, and none of this one's hosts is served",
					s.gateway, s.Hosts[i], known[s.Hosts[i]], placeOf(s.Unix, s.Port))
				continue
			}
			for _, h := range s.Hosts {
				known[h] = s.gateway
			}
		}
		kept = append(kept, s)
	}
	return kept
}

// bound says whether the rules of vs are for a server: it names the Gateway,
// and is visible to the namespace of the proxy.
func (b *builder) bound(vs *VirtualService, s *server) bool {
	return slices.Contains(vs.Gateways, s.gateway) && visible(vs.Export, s.namespace, inNamespace(b.cfg.Mesh.DefaultVirtualServiceExport, vs.Ref.Namespace))
}

// rulesAt is every VirtualService in the order of precedence that a namespace
// has them in; see Config.nearness.
func (b *builder) rulesAt(namespace string) []*VirtualService {
	all, ok := b.nearest[namespace]
	if !ok {
		all = slices.Clone(b.cfg.VirtualServices)
		nearestFirst(b.cfg, all, namespace)
		b.nearest[namespace] = all
	}
	return all
}

// sniRules finds the rules of servers that pass TLS through. Of several for
// one SNI the first counts.
func (b *builder) sniRules(servers []server) *hostname.Index[*sniRule] {
	all := map[hostname.Pattern]*sniRule{}
	for _, vs := range b.rulesAt(servers[0].namespace) {
		if len(vs.TLS) == 0 {
			continue
		}
		for i := range servers {
			s := &servers[i]
			if !s.Protocol.IsTLS() || s.Terminates() || !b.bound(vs, s) {
				continue
			}
			for _, r := range vs.TLS {
				for _, m := range r.Matches {
					if m.Port != 0 && m.Port != s.Port || len(m.Gateways) > 0 && !slices.Contains(m.Gateways, s.gateway) {
						continue
					}
					for _, p := range s.common(vs.Ref.Namespace, m.SNIHosts) {
						if all[p] == nil {
							all[p] = &sniRule{p, r, m, vs, s.gateway}
						}
					}
				}
			}
		}
	}
	return hostname.NewIndex(maps.All(all))
}

// listener compiles what a gateway port does with what comes through. Its
// destinations are the hosts of p; those of workloads must be allowed.
func (b *builder) listener(p *Policy, d *gatewayPort, workload bool) *GatewayListener {
	l := &GatewayListener{
		Name: d.name, Port: d.port, Bind: d.bind, Unix: d.unix, Protocol: d.servers[0].Protocol,
		labels: d.labels, namespace: d.namespace, retries: b.cfg.Mesh.Retries,
	}
	b.fill(l, p, d, workload)
	return l
}

// fill compiles the rules of l, which rules may lead to already.
func (b *builder) fill(l *GatewayListener, p *Policy, d *gatewayPort, workload bool) {
	for _, s := range d.servers {
		l.Servers = append(l.Servers, s.GatewayServer)
	}
	at := place{p: p, gatewayPort: d, port: d.port, workload: workload, rules: b.destinationsBehind(d)}
	if !l.IsTLS() {
		l.plain = b.chain(at, d.servers)
		return
	}
	bySNI := map[hostname.Pattern]*gatewayChain{}
	for i := range d.servers {
		s := &d.servers[i]
		if !s.Terminates() {
			continue
		}
		c := b.chain(at, d.servers[i:i+1])
		c.server = s.GatewayServer
		for _, h := range s.Hosts {
			if bySNI[h] == nil {
				bySNI[h] = c
				c.sni = append(c.sni, h)
			}
		}
		l.chains = append(l.chains, c)
	}
	for _, pattern := range slices.SortedFunc(maps.Keys(maps.Collect(d.sni.All())), hostname.Compare) {
		if bySNI[pattern] != nil {
			continue
		}
		r, _ := d.sni.Get(pattern)
		at.gateway, at.vs = r.gateway, r.vs
		to, total := b.destinations(at, r.rule.Route)
		c := &gatewayChain{sni: []hostname.Pattern{pattern}, route: &l4Route{match: r.match, ref: &r.rule.Ref, destinations: to, total: total}}
		bySNI[pattern] = c
		l.chains = append(l.chains, c)
	}
	l.bySNI = hostname.NewIndex(maps.All(bySNI))
}

// chain compiles the rules for servers whose plain text is read, or goes on
// as it comes.
func (b *builder) chain(at place, servers []server) *gatewayChain {
	c := &gatewayChain{}
	if servers[0].ServesHTTP() {
		b.gatewayVhosts(at, c, servers)
		return c
	}
	// Istio makes one route of the first VirtualService that has one.
	for _, vs := range b.rulesAt(servers[0].namespace) {
		for i := range servers {
			s := &servers[i]
			if !b.bound(vs, s) || len(s.common(vs.Ref.Namespace, vs.Hosts)) == 0 {
				continue
			}
			at.gateway, at.vs = s.gateway, vs
			if c.route = b.gatewayTCP(at); c.route != nil {
				return c
			}
		}
	}
	return c
}

// gatewayTCP compiles the first rule for TCP that is for a port of a gateway;
// nothing else is looked at there.
func (b *builder) gatewayTCP(at place) *l4Route {
	for _, r := range at.vs.TCP {
		here := func(m *L4Match) bool {
			return (m.Port == 0 || m.Port == at.port) && (len(m.Gateways) == 0 || slices.Contains(m.Gateways, at.gateway))
		}
		if len(r.Matches) == 0 || slices.ContainsFunc(r.Matches, here) {
			to, total := b.destinations(at, r.Route)
			return &l4Route{ref: &r.Ref, destinations: to, total: total}
		}
	}
	return nil
}

// common returns what the server's hosts have in common with those of a
// VirtualService in a namespace: the more specific of two.
func (s *server) common(namespace string, hosts []hostname.Pattern) []hostname.Pattern {
	var out []hostname.Pattern
	for i, sh := range s.Hosts {
		if ns := s.HostNamespaces[i]; ns != "*" && ns != namespace {
			continue
		}
		for _, h := range hosts {
			switch {
			case sh.Covers(h):
				out = append(out, h)
			case h.Covers(sh):
				out = append(out, sh)
			}
		}
	}
	return out
}
