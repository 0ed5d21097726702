// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// gatewayVhosts fills in c's virtual hosts: the VirtualServices bound to each
// server, the nearest first (see rulesAt), rules that match everything last. A
// virtual host has the more specific of the server's and the VirtualService's
// host. A VirtualService that has no rule for the Gateway and the port makes
// none: requests find the next one's (istio pilot/pkg/networking/core/route
// BuildHTTPRoutesForVirtualService).
func (b *builder) gatewayVhosts(at place, c *gatewayChain, servers []server) {
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
	for _, vs := range b.rulesAt(servers[0].namespace) {
		done := map[bound]bool{}
		for i := range servers {
			s := &servers[i]
			if !b.bound(vs, s) {
				continue
			}
			at.gateway, at.vs = s.gateway, vs
			rules := b.routes(at)
			if len(rules) == 0 {
				continue
			}
			for _, p := range s.common(vs.Ref.Namespace, vs.Hosts) {
				if done[bound{p, s.gateway}] {
					continue
				}
				done[bound{p, s.gateway}] = true
				rs := vhost(p).routes
				if !slices.Contains(rs.Refs, &vs.Ref) {
					rs.Refs = append(rs.Refs, &vs.Ref)
				}
				rs.routes = append(rs.routes, rules...)
			}
		}
	}
	for _, v := range byHost {
		sortCatchAll(v.routes.routes)
	}
	for _, s := range servers {
		for _, h := range s.Hosts {
			// Without a rule nothing is found, whatever wider hosts have.
			if s.isolated && byHost[h] == nil {
				vhost(h).routes.Refs = []*Ref{&s.Ref}
			}
		}
	}
	// A server that only redirects does so for its hosts whatever rules
	// there are, and for hosts without any.
	for _, s := range servers {
		if s.HTTPSRedirect {
			redirectHosts(s, vhost, byHost)
		}
	}
	c.vhosts = hostname.NewIndex(maps.All(byHost))
	c.vhostList = slices.SortedFunc(maps.Values(byHost), func(x, y *gatewayVhost) int {
		return hostname.Compare(x.pattern, y.pattern)
	})
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

// sortCatchAll moves the rules that match everything behind all others, as
// Istio does when several VirtualServices share a host of a gateway.
func sortCatchAll(all []route) {
	slices.SortStableFunc(all, func(a, b route) int {
		am, bm := a.match.MatchesAll(), b.match.MatchesAll()
		switch {
		case am == bm:
			return 0
		case am:
			return 1
		}
		return -1
	})
}
