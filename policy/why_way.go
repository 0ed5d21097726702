// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
)

// way goes where the flow goes, or would go if nobody denied it, and says what
// the AuthorizationPolicies and DestinationRules on the way come to.
func (w *why) way() {
	for _, o := range w.owners() {
		w.guard(fmt.Sprintf("%s %s/%s", o.port.Rule.Kind, o.port.Rule.Namespace, o.port.Rule.Name), o.port.guard, w.facts(o, w.r))
		switch {
		case o.port.Protocol.Transport() != TCP, w.Allowed && o.port != w.d.Port:
		case w.r != nil && o.port.Protocol != ProtocolTCP:
			w.httpWay(o)
		default:
			w.l4Way(o)
		}
	}
}

// tell is say unless it is said already.
func (w *why) tell(rule Ref, won bool, format string, args ...any) {
	c := Considered{rule, won, fmt.Sprintf(format, args...)}
	if !slices.Contains(w.Considered, c) {
		w.Considered = append(w.Considered, c)
	}
}

// httpWay follows the rules for the request.
func (w *why) httpWay(o owner) {
	v, ok := w.p.vhosts.Lookup(w.r.Host)
	var rs *Routes
	if ok {
		rs = v.routes(o.port.Number)
	}
	if rs == nil {
		w.traffic(o.port.Upstream)
		return
	}
	a, r, draw := rs.find(w.r), w.r, w.f.Draw
	for hops := 0; a != nil && hops <= maxHops; hops++ {
		if !a.draws {
			for i := range a.Destinations {
				w.destination(o, &a.Destinations[i], r)
			}
			return
		}
		to := a.Pick(draw)
		if to == nil || to.Gateway == nil {
			w.destination(o, to, r)
			return
		}
		draw /= uint64(a.TotalWeight)
		next, ok := (&Hop{a, to}).apply(r)
		if !ok {
			return
		}
		w.gateway(o, to.Gateway, next.Host, next)
		in := to.Gateway.enterHTTP(next)
		a, r = in.Action, next
	}
}

// l4Way follows the rules for TLS and TCP.
func (w *why) l4Way(o owner) {
	tls := w.f.HostFrom == EvidenceSNI || o.port.Protocol.IsTLS()
	routes, _ := w.p.l4Rules(o.port, o.name, tls)
	r := firstL4(routes, o.port, w.f.Dst.Addr(), o.name, tls)
	if r == nil || !o.port.routed && !o.port.Protocol.IsTLS() { // what leads home is told as well
		w.traffic(o.port.Upstream)
		return
	}
	draw := w.f.Draw
	for range maxHops + 1 {
		to := pick(r.destinations, r.total, draw)
		if to == nil || to.Gateway == nil {
			w.destination(o, to, nil)
			return
		}
		draw /= uint64(r.total)
		w.gateway(o, to.Gateway, o.name, nil)
		if r, _ = to.Gateway.enter(o.name, tls); r == nil {
			return
		}
	}
}

// gateway says what guards a gateway that the flow goes on as.
func (w *why) gateway(o owner, l *GatewayListener, name string, r *Request) {
	o.name = name
	facts := w.facts(o, r)
	facts.atGateway(l.Port)
	if r != nil && l.IsTLS() {
		facts.sniIs = never
	}
	w.guard(fmt.Sprintf("gateway %s port %d", l.Name, l.Port), l.guard, facts)
}

// destination says what guards one that a rule leads to, and how it is dialled.
func (w *why) destination(o owner, to *RouteDestination, r *Request) {
	if to == nil {
		return
	}
	for i := range to.gates {
		g := &to.gates[i]
		if g.port == o.port && g.host == o.name && r == w.r {
			continue // said already
		}
		facts := w.facts(owner{o.port, g.host}, r)
		facts.port = g.port.Number
		if g.port != o.port || g.host != o.name {
			facts.dstIs = never
		}
		w.guard(fmt.Sprintf("%s %s/%s", g.port.Rule.Kind, g.port.Rule.Namespace, g.port.Rule.Name), g.guard, facts)
	}
	w.traffic(to.Upstream)
}

// traffic says which DestinationRule counts for an upstream.
func (w *why) traffic(u *Upstream) {
	if u == nil || u.TrafficRule == nil {
		return
	}
	of := fmt.Sprintf("%s port %d", u.Host, u.Port)
	if u.Subset != "" {
		of += fmt.Sprintf(" subset %q", u.Subset)
	}
	if no := u.Unsupported(); no != "" && !u.unreachable() {
		w.tell(*u.TrafficRule, true, "is for %s: %s, which egressd does not do", of, no)
		return
	}
	w.tell(*u.TrafficRule, true, "is for %s", of)
}
