// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"

	"github.com/egressd/egressd/internal/hostname"
)

// Rules of workloads may lead to the Service of an egress gateway, whose own
// rules lead on (istio.io, "Egress Gateways"). Here both act at one place: the
// request or connection goes on as the Gateway's, through what its servers
// and the VirtualServices bound to it say, and the rules of both act on it,
// those of the workload first.

// hops draws where a flow goes, and counts how often it has gone on as a
// Gateway: nothing else bounds that.
type hops struct {
	n     int
	draw  uint64
	trace *Trace
}

// takeHop says whether the flow may go on as a Gateway once more.
func (h *hops) takeHop() bool {
	h.n++
	return h.n <= maxHops
}

// next draws one of a rule's destinations; nil: it has none. The reason is that
// the flow may not go on as the Gateway that was drawn.
func (h *hops) next(rule *Ref, all []RouteDestination, total uint32) (*RouteDestination, Reason) {
	to := pick(all, total, h.draw)
	h.trace.draw(rule, all, total, to)
	if to != nil && to.Gateway != nil {
		h.draw /= uint64(total)
		if !h.takeHop() {
			return nil, ReasonGatewayLoop
		}
	}
	return to, ""
}

// follow goes on from a rule for a request, as one Gateway after the other
// until a rule leads elsewhere; f.Draw chooses among weighted destinations. The
// guards of the gateways and of the last destination may deny it.
func (d HTTPDecision) follow(f *Flow, r *Request) HTTPDecision {
	var mirrors []Mirrored
	if d = d.onward(f, &hops{draw: f.Draw, trace: f.Trace}, r, &mirrors); d.Verdict != Deny {
		d.Mirrors = mirrors
	}
	return d
}

// onward is follow from the hop that h has come to. The mirrors of the rules on
// the way are added to mirrors, unless that is nil.
func (d HTTPDecision) onward(f *Flow, h *hops, r *Request, mirrors *[]Mirrored) HTTPDecision {
	own := d.Port
	for d.Action != nil {
		a, before := d.Action, *h
		to, reason := h.next(&a.Rule.Ref, a.Destinations, a.TotalWeight)
		if mirrors != nil && len(a.mirrors) > 0 {
			*mirrors = append(*mirrors, d.mirrored(before, to, f, r)...)
		}
		if reason != "" {
			return HTTPDecision{Decision: deny(reason, &a.Rule.Ref)}
		}
		if d.To = to; to == nil || to.Gateway == nil {
			break
		}
		hop := Hop{a, d.To}
		next, ok := hop.apply(r)
		if !ok {
			return HTTPDecision{Decision: deny(ReasonMalformed, &a.Rule.Ref)}
		}
		if g := d.To.Gateway.authorizer; g != nil {
			facts := d.To.Gateway.facts(f, own, next.Host, next)
			f.Trace.gateway(d.To.Gateway, &facts)
			if no := refusedBy(g, &facts, false); no.reason != "" {
				return HTTPDecision{Decision: no.decision()}
			}
			d.Decision = d.Decision.markedBy(g, &facts)
		}
		inner := d.To.Gateway.enterHTTP(next, f.Trace)
		f.Trace.entry(nil, inner.Reason)
		if inner.Verdict == Deny {
			if inner.Rule == nil {
				inner.Rule = &a.Rule.Ref
			}
			return inner
		}
		inner.Host, inner.Port, inner.Via = d.Host, d.Port, d.Via
		inner.Audited, inner.DryRun = d.Audited, d.DryRun
		inner.Via[h.n-1] = hop
		d, r = inner, next
	}
	return d.through(f, own, r)
}

// Gateway is the name of the last Gateway that a request goes on through; "": none.
func (d *HTTPDecision) Gateway() string {
	name := ""
	for i := range d.Via {
		if to := d.Via[i].To; to != nil && to.Gateway != nil {
			name = to.Gateway.Name
		}
	}
	return name
}

// enterHTTP decides a request that goes on as the Gateway's. The server is the
// one for the request's host: TLS between workload and gateway has no meaning
// here.
func (l *GatewayListener) enterHTTP(r *Request, t *Trace) HTTPDecision {
	c := l.chain(r.Host)
	switch {
	case c == nil && l.IsTLS():
		return HTTPDecision{Decision: deny(ReasonNoRoute, nil)}
	case c == nil:
		return HTTPDecision{Decision: deny(ReasonGateway, nil)}
	case l.IsTLS() && c.server == nil:
		// Plain text does not pass through a server for TLS.
		return HTTPDecision{Decision: deny(ReasonGateway, nil)}
	case c.vhosts == nil && c.route == nil:
		return HTTPDecision{Decision: deny(ReasonNoRoute, nil)}
	case c.vhosts == nil:
		return HTTPDecision{
			Decision: Decision{Verdict: Proxy, Reason: ReasonAllowed, Rule: c.route.ref},
			Action:   c.route.action(),
		}
	}
	return c.decideHTTP(r, t)
}

// action is what the rule does with a request that nobody reads.
func (r *l4Route) action() *HTTPAction {
	return &HTTPAction{Rule: &HTTPRule{Ref: *r.ref}, Destinations: r.destinations, TotalWeight: r.total}
}

// enter finds the rule for a connection that goes on as the Gateway's, or says
// why there is none. name is its SNI, or the host by which it was allowed.
func (l *GatewayListener) enter(name string, tls bool) (*l4Route, Reason) {
	c := l.chain(name)
	switch {
	case c == nil && l.IsTLS():
		return nil, ReasonNoRoute
	case c == nil || c.vhosts != nil || l.IsTLS() && c.server == nil && !tls:
		return nil, ReasonGateway
	case c.route == nil:
		return nil, ReasonNoRoute
	}
	return c.route, ""
}

// apply is the request that the next rules see: with the path, authority and
// headers that the hop's rule gives it. It is false when the new authority is
// none.
func (h *Hop) apply(r *Request) (*Request, bool) {
	rule := h.Action.Rule
	ops := [...]*Headers{h.To.Headers, rule.Headers}
	if rule.Rewrite == nil && ops[0] == nil && ops[1] == nil {
		return r, true
	}
	out := *r
	authority := ""
	if rw := rule.Rewrite; rw != nil {
		out.Path = h.Action.RewritePath(r.Path)
		authority = rw.Authority
	}
	for _, o := range ops {
		if o == nil || noHeaderOps(&o.Request) {
			continue
		}
		out.Header = out.Header.Clone()
		if a := o.Request.Apply(&out.Header); a != "" {
			authority = a
		}
	}
	if authority == "" {
		return &out, true
	}
	host, err := hostname.Normalize(hostOf(authority))
	out.Authority, out.Host = authority, host
	return &out, err == nil
}

// hostOf is an authority without its port.
func hostOf(authority string) string {
	host := authority
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		host = authority[:i]
	}
	return strings.Trim(host, "[]")
}

func noHeaderOps(o *HeaderOps) bool { return len(o.Set)+len(o.Add)+len(o.Remove) == 0 }
