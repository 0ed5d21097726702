// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// server is a GatewayServer together with its Gateway's "namespace/name".
type server struct {
	*GatewayServer
	gateway string
}

// listeners compiles the Gateways of this node, merged by address and port.
// Their destinations are the hosts of p.
func (b *builder) listeners(p *Policy) []*GatewayListener {
	byAddress := map[netip.AddrPort][]server{}
	for _, g := range b.cfg.Gateways {
		if !b.selects(g) {
			continue
		}
		for i := range g.Servers {
			s := &g.Servers[i]
			k := netip.AddrPortFrom(s.Bind, s.Port)
			byAddress[k] = append(byAddress[k], server{s, g.Ref.Namespace + "/" + g.Ref.Name})
		}
	}
	keys := slices.SortedFunc(maps.Keys(byAddress), func(x, y netip.AddrPort) int {
		return cmp.Or(cmp.Compare(x.Port(), y.Port()), x.Addr().Compare(y.Addr()))
	})
	var out []*GatewayListener
	for _, k := range keys {
		servers := byAddress[k]
		l := &GatewayListener{Port: k.Port(), Bind: k.Addr(), Protocol: servers[0].Protocol, retries: b.cfg.Mesh.Retries}
		for _, s := range servers {
			l.Servers = append(l.Servers, s.GatewayServer)
		}
		b.gatewayVhosts(p, l, servers)
		out = append(out, l)
	}
	return out
}

// selects says whether g is for this node's gateway: its selector is empty,
// or the node carries all of its labels. A node without labels has no gateway.
func (b *builder) selects(g *Gateway) bool {
	if len(b.cfg.GatewaySelector) == 0 {
		return false
	}
	for k, v := range g.Selector {
		if have, ok := b.cfg.GatewaySelector[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// gatewayVhosts fills in l's virtual hosts: the VirtualServices bound to each
// server, oldest first, rules that match everything last. A virtual host has
// the more specific of the server's and the VirtualService's host.
func (b *builder) gatewayVhosts(from *Policy, l *GatewayListener, servers []server) {
	byHost := map[hostname.Pattern]*gatewayVhost{}
	vhost := func(p hostname.Pattern) *gatewayVhost {
		if byHost[p] == nil {
			byHost[p] = &gatewayVhost{pattern: p, routes: &Routes{}}
		}
		return byHost[p]
	}
	type bound struct {
		host    hostname.Pattern
		gateway string
	}
	for _, vs := range b.cfg.VirtualServices {
		done := map[bound]bool{}
		for _, s := range servers {
			if !slices.Contains(vs.Gateways, s.gateway) {
				continue
			}
			for _, p := range s.meet(vs) {
				if done[bound{p, s.gateway}] {
					continue
				}
				done[bound{p, s.gateway}] = true
				rs := vhost(p).routes
				if !slices.Contains(rs.Refs, &vs.Ref) {
					rs.Refs = append(rs.Refs, &vs.Ref)
				}
				rs.routes = append(rs.routes, b.routes(from, vs, s.gateway, l.Port)...)
			}
		}
	}
	for _, v := range byHost {
		sortCatchAll(v.routes.routes)
	}
	// A server that only redirects does so for its hosts whatever rules
	// there are, and for hosts without any.
	for _, s := range servers {
		if s.HTTPSRedirect {
			redirectHosts(s, vhost, byHost)
		}
	}
	l.vhosts = hostname.NewIndex(maps.All(byHost))
	l.vhostList = slices.SortedFunc(maps.Values(byHost), func(x, y *gatewayVhost) int {
		return hostname.Compare(x.pattern, y.pattern)
	})
}

// meet returns the hosts that the server and vs have in common.
func (s *server) meet(vs *VirtualService) []hostname.Pattern {
	var out []hostname.Pattern
	for i, sh := range s.Hosts {
		if ns := s.HostNamespaces[i]; ns != "*" && ns != vs.Ref.Namespace {
			continue
		}
		for _, vh := range vs.Hosts {
			switch {
			case sh.Covers(vh):
				out = append(out, vh)
			case vh.Covers(sh):
				out = append(out, sh)
			}
		}
	}
	return out
}

// redirectHosts makes all virtual hosts of s answer with a redirect to https.
func redirectHosts(s server, vhost func(hostname.Pattern) *gatewayVhost, all map[hostname.Pattern]*gatewayVhost) {
	action := &HTTPAction{Rule: &HTTPRule{
		Ref: s.Ref, Name: "https-redirect", Redirect: &Redirect{Scheme: "https", Code: 301},
	}}
	set := func(v *gatewayVhost) {
		if len(v.routes.Refs) == 0 {
			v.routes.Refs = []*Ref{&s.Ref}
		}
		v.routes.routes = []route{{nil, action}}
	}
	for _, h := range s.Hosts {
		set(vhost(h))
		for p, v := range all {
			if h.Covers(p) {
				set(v)
			}
		}
	}
}
