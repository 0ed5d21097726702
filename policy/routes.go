// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/match"
)

// Routes are the HTTP rules of one host, in the order in which they are
// tried. They are immutable.
type Routes struct {
	// Refs are the VirtualServices that the rules come from: one for
	// workloads, one or more on a gateway.
	Refs   []*Ref
	routes []route
}

// route is one rule with one of its matches.
type route struct {
	match  *match.HTTPMatcher // nil matches everything
	action *HTTPAction
}

// find returns the action of the first rule that matches, or nil.
func (rs *Routes) find(r *Request) *HTTPAction {
	for i := range rs.routes {
		if rs.routes[i].match.Matches(r) {
			return rs.routes[i].action
		}
	}
	return nil
}

// decide fills in the answer that the rules give for r; hp may be nil.
func (rs *Routes) decide(r *Request, h *Host, hp *HostPort, t *Trace) HTTPDecision {
	a := rs.find(r)
	t.rules(rs, r, a)
	if a == nil {
		return HTTPDecision{Decision: deny(ReasonNoRoute, rs.Refs[0])}
	}
	return HTTPDecision{
		Decision: Decision{Verdict: Proxy, Reason: ReasonAllowed, Rule: &a.Rule.Ref, Host: h, Port: hp},
		Action:   a,
	}
}

// Pick chooses a destination: each has the share of its weight by the sum of
// the weights of all values of r. It is nil when the rule has no route
// (redirect, direct response).
func (a *HTTPAction) Pick(r uint64) *RouteDestination { return pick(a.Destinations, a.TotalWeight, r) }

func pick(all []RouteDestination, total uint32, r uint64) *RouteDestination {
	i := ByWeight(len(all), uint64(total), r, func(i int) uint64 { return uint64(all[i].Weight) })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// ByWeight is the index of the one of count that n picks: each has the share of
// its weight by total, the sum of the weights, of all values of n. It is -1
// when the sum is 0.
func ByWeight(count int, total, n uint64, weight func(int) uint64) int {
	if total == 0 {
		return -1
	}
	n %= total
	for i := range count {
		w := weight(i)
		if n < w {
			return i
		}
		n -= w
	}
	return -1 // cannot be: total is the sum
}

// meshVhost has the rules for workloads of the names for which one host
// pattern of VirtualServices is the closest.
type meshVhost struct {
	pattern hostname.Pattern
	// own are the VirtualServices that have the pattern, in order of
	// precedence; behind them in all are those with patterns that cover it, the
	// closest first.
	own, all []*VirtualService
	// http are the rules of those that have any for the workload: the first
	// that has one for the port counts, alone.
	http []*meshRules
	// tls and tcp are the rules of all of them, one list after the other.
	tls, tcp []l4Route
	// compiled are those of all, and sum is of what they say.
	compiled []*compiledRules
	sum      digest
}

// meshRules are the HTTP rules of one VirtualService for workloads. Where a
// destination leaves its port to the request, they differ by the port that the
// request came in on.
type meshRules struct {
	vs     *VirtualService
	on     portSet // the ports that the Sidecar imports vs for
	byPort map[uint16]*Routes
	other  *Routes // all other ports
}

// routes returns the HTTP rules for a port, nil when there are none: as in
// Istio, a VirtualService that yields no rule does not apply.
func (v *meshVhost) routes(port uint16) *Routes {
	_, rs := v.rules(port)
	return rs
}

// rules is routes with the VirtualService that they are of.
func (v *meshVhost) rules(port uint16) (*VirtualService, *Routes) {
	for _, c := range v.http {
		if rs := c.routes(port); rs != nil {
			return c.vs, rs
		}
	}
	return nil, nil
}

func (c *meshRules) routes(port uint16) *Routes {
	if !c.on.has(port) || len(c.vs.Ports) > 0 && !slices.Contains(c.vs.Ports, port) {
		return nil
	}
	rs := c.byPort[port]
	if rs == nil {
		rs = c.other
	}
	if !slices.ContainsFunc(rs.routes, func(r route) bool { return r.match == nil || r.match.Port == 0 || r.match.Port == port }) {
		return nil
	}
	return rs
}

// DecideHTTP decides one HTTP request on a connection to f.Dst, whose
// address was learned for f.Names. The request's host must be allowed on the
// port that was dialled; then the rules of the most specific VirtualService
// host on gateway "mesh" decide, the nearest when several have that host (see
// rules) that has a rule for the workload and the port. If there are rules but
// none matches, the answer is ReasonNoRoute.
//
// A Host that is an IP address must be the one that was dialled, and the
// address must be open by itself (a STATIC endpoint or one of `addresses`).
// When the host does not allow the request, a TCP rule for the destination
// still may; HTTP rules do not act on it then.
//
// AuthorizationPolicies have the last word, here for the first time with the
// whole request; what they deny no other rule allows.
func (p *Policy) DecideHTTP(f Flow, r *Request) HTTPDecision {
	d := p.decideHTTP(&f, r)
	d.Retries = p.class.retries
	return d
}

func (p *Policy) decideHTTP(f *Flow, r *Request) HTTPDecision {
	f.Transport, f.Host, f.HostFrom = TCP, r.Host, EvidenceHTTP
	d := p.decideHost(f, r)
	switch {
	case d.Verdict == Deny && d.byAuthorizer():
		return HTTPDecision{Decision: d}
	case d.Verdict == Deny:
		if c := p.candidates(f); c.opaque != nil {
			d, u := p.opaque(f, allow(Way{Verdict: Proxy}, c.opaque), c.opaque, c.opaqueName)
			return HTTPDecision{Decision: d, Upstream: u}
		}
		return HTTPDecision{Decision: d}
	case d.Port == nil:
		return HTTPDecision{Decision: d, Upstream: dialledUpstream(f.Dst)}
	}
	if d.Port.Protocol == ProtocolTCP { // bytes, whatever they look like
		d, u := p.l4Target(f, d, d.Port.Upstream, r.Host, false)
		return HTTPDecision{Decision: d, Upstream: u}
	}
	if rs := p.routesFor(f, d); rs != nil {
		out := rs.decide(r, d.Host, d.Port, f.Trace)
		out.Audited, out.DryRun = d.Audited, d.DryRun
		return out.follow(f, r)
	}
	u := d.Port.Upstream.WithName(r.Host)
	f.Trace.end(u)
	d, u = d.supported(u)
	return HTTPDecision{Decision: d, Upstream: u}
}

// through denies a request to a destination that the workload may not reach,
// or that an authorizer denies. That nobody declares the destination is for the
// forwarding core to answer: it denies nothing.
func (d HTTPDecision) through(f *Flow, own *HostPort, r *Request) HTTPDecision {
	to := d.To
	switch {
	case to == nil:
		return d
	case to.Denied:
		return HTTPDecision{Decision: deny(ReasonName, &d.Action.Rule.Ref)}
	}
	if no := to.refuses(f, own, f.Host, r); no.reason != "" {
		return HTTPDecision{Decision: no.decision()}
	}
	f.Trace.end(to.Upstream)
	if no, _ := d.Decision.supported(to.Upstream); no.Verdict == Deny {
		return HTTPDecision{Decision: no}
	}
	return d
}

// routesFor returns the HTTP rules for an allowed request, nil when it has none.
func (p *Policy) routesFor(f *Flow, d Decision) *Routes {
	if v, ok := p.vhosts.Lookup(f.Host); ok {
		return v.routes(d.Port.Number)
	}
	return nil
}

// decideHost decides by the request's host alone.
func (p *Policy) decideHost(f *Flow, r *Request) Decision {
	if f.Host == "" {
		c := p.candidates(f)
		if rule, open := p.passesUnnamed(f, &c); open && c.refused.reason == "" {
			return passing(Proxy, rule)
		}
		return deny(ReasonNoName, ruleOf(c.first))
	}
	a, ok := literal(f.Host)
	if !ok {
		return p.decideName(f, true, r)
	}
	var c candidates
	p.addrs.collect(&c, f)
	other := a.Unmap() != f.Dst.Addr().Unmap()
	switch {
	case c.refused.reason != "" && c.http == nil:
		return c.refused.decision()
	case other || c.first == nil:
		if rule, open := p.passesUnnamed(f, &c); open {
			return passing(Proxy, rule)
		}
		return deny(ReasonName, ruleOf(c.first))
	case c.http == nil:
		return deny(ReasonNotTLS, c.first.Rule)
	}
	d := allow(Way{Verdict: Proxy}, c.http)
	if hp := c.http; hp.authorizer != nil {
		// The name that the address stands for is what rules are about.
		facts := hp.flowFacts(f, hp.exactName(), true, r)
		f.Trace.port(hp, &facts)
		if no := refusedBy(hp.authorizer, &facts, false); no.reason != "" {
			return no.decision()
		}
		d = d.marked(&facts)
	}
	return d
}

// literal reads a host that is an IP address, in brackets or not. Names that
// cannot be one are not tried: the error of a try costs more than the decision.
func literal(host string) (netip.Addr, bool) {
	if last := host[len(host)-1]; (last < '0' || last > '9') && !strings.Contains(host, ":") {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return a, err == nil
}
