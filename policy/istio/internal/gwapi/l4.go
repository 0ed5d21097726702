// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"slices"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// L4Route is a TLSRoute or a TCPRoute as it was read.
type L4Route struct {
	check.Checker
	Ref     policy.Ref
	Created meta.Time        // zero: unknown
	Node    *strictyaml.Node // its spec
	V       *gateway.TLSRouteSpec
}

// The kinds of routes of connections. A TLSRoute has hostnames.
const (
	TLSRoute = "TLSRoute"
	TCPRoute = "TCPRoute"
)

// TLSOf writes a TCPRoute as a route without hostnames.
func TLSOf(in *gateway.TCPRouteSpec) *gateway.TLSRouteSpec {
	out := &gateway.TLSRouteSpec{CommonRouteSpec: in.CommonRouteSpec}
	for _, r := range in.Rules {
		out.Rules = append(out.Rules, gateway.TLSRouteRule(r))
	}
	return out
}

// l4Routes translates TLSRoutes and TCPRoutes, each into a VirtualService for each
// of its listeners. The oldest one counts where several have one name, or a port.
func (t *translator) l4Routes(routes []L4Route) (out []*policy.VirtualService) {
	slices.SortStableFunc(routes, func(a, b L4Route) int { return older(a.Created, b.Created, a.Ref, b.Ref) })
	for i := range routes {
		d := &routes[i]
		r := &route{d.Checker, d.Ref, d.Ref.Kind, d.Node, d.V.ParentRefs}
		names := r.hostnames(d.V.Hostnames)
		to := t.l4Backends(r, d.V.Rules)
		_, listeners := r.find(t)
		for _, l := range listeners {
			hosts := l.parent.has(names, len(d.V.Hostnames) == 0)
			if len(hosts) == 0 {
				r.noHost(l.parent)
				continue
			}
			vs := &policy.VirtualService{Ref: d.Ref, Hosts: hosts, Gateways: []string{l.key()}, Export: policy.Visibility{Everybody: true}}
			if r.kind == TLSRoute && !l.ends() {
				vs.TLS = []*policy.TLSRule{{Ref: d.Ref, Matches: []*policy.L4Match{{SNIHosts: hosts}}, Route: to}}
			} else {
				vs.TCP = []*policy.TCPRule{{Ref: d.Ref, Route: to}}
			}
			out = append(out, vs)
		}
	}
	return out
}

// l4Backends translates the backends of a route's one rule.
func (t *translator) l4Backends(r *route, rules []gateway.TLSRouteRule) (out []*policy.WeightedDestination) {
	if len(rules) != 1 {
		r.Errorf(r.node.At("rules"), "a %s has one rule, not %d", r.kind, len(rules))
		return nil
	}
	at := r.node.At("rules", 0, "backendRefs")
	if len(rules[0].BackendRefs) == 0 {
		r.Errorf(at, "backendRefs: at least one is required")
	}
	for i, b := range rules[0].BackendRefs {
		bn := at.At(i)
		w := &policy.WeightedDestination{Destination: t.backend(r, bn, b.BackendObjectReference), Weight: r.backendWeight(bn, b.Weight)}
		t.origins[w] = strictyaml.Passage{Reporter: &r.Reporter, Node: bn.At("name")}
		out = append(out, w)
	}
	return out
}

// noHost says that a route and its parent have no name in common.
func (r *route) noHost(p *parent) {
	r.Warnf(r.node.At("hostnames"), "none of the hostnames is a host of %s: the route is not acted on for it", p.name)
}

// common are the hosts that hosts and names have in common: the more specific of
// two, each once.
func common(hosts, names []hostname.Pattern) (out []hostname.Pattern) {
	for _, name := range names {
		for _, h := range hosts {
			switch {
			case h.Covers(name):
			case name.Covers(h):
				name = h
			default:
				continue
			}
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}
