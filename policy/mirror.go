// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
)

// A mirror is a destination of its own: it is decided as a route's is, and
// opens nothing that the workload may not reach. What is denied of it denies
// the copy alone.

// mirror is a compiled Mirror that is not switched off.
type mirror struct {
	to      RouteDestination
	percent float64
}

// Mirrored is where a copy of a request may go.
type Mirrored struct {
	// Action is the rule that asks for it; hop is its place on the way.
	Action *HTTPAction
	hop    int
	// To is the destination; its Upstream is nil when nobody declares it.
	To *RouteDestination
	// Percent is the share of the requests, more than 0 to 100.
	Percent float64
	// Refused is the reason why no copy may go there, "" when one may, and Rule
	// the rule that says so.
	Refused Reason
	Rule    *Ref
}

// mirrored decides about the mirrors of a rule for r, which it has not changed
// yet. f and own are those of a workload's flow.
func (a *HTTPAction) mirrored(hop int, f *Flow, own *HostPort, r *Request) (out []Mirrored) {
	for i := range a.mirrors {
		m := &a.mirrors[i]
		x := Mirrored{Action: a, hop: hop, To: &m.to, Percent: m.percent, Rule: &a.Rule.Ref}
		switch {
		case m.to.Gateway != nil:
			x.Refused = ReasonNotSupported
		case m.to.Denied:
			x.Refused = ReasonName
		case m.to.Upstream.Refusal() != "":
			x.Refused, x.Rule = m.to.Upstream.Refusal(), cmp.Or(m.to.Upstream.TrafficRule, x.Rule)
		case f != nil && len(m.to.authorizers) > 0:
			quiet := *f
			quiet.Trace = nil // it is about the request, and not about copies
			if no := m.to.refuses(&quiet, own, f.Host, r); no.reason != "" {
				x.Refused, x.Rule = no.reason, cmp.Or(no.rule, x.Rule)
			}
		}
		out = append(out, x)
	}
	return out
}

// unsent says of which mirrors it is known that they get no copies.
func (a *HTTPAction) unsent() (out []string) {
	for i := range a.mirrors {
		to := &a.mirrors[i].to
		reason, why := to.Upstream.Refusal(), "it can't be reached as it has to be"
		switch {
		case to.Gateway != nil:
			reason, why = ReasonNotSupported, "it is a gateway"
		case to.Denied:
			reason, why = ReasonName, "the workload may not reach it"
		case to.Upstream == nil:
			reason, why = ReasonNoDestination, "nobody declares it"
		case reason == "":
			continue
		}
		out = append(out, fmt.Sprintf("no copy goes to %s: %s (%s)", to.Destination.Describe(), why, reason))
	}
	return out
}

// Copied is the request that a mirror gets: with what the rules on the way to
// it change, but for the name of its host. to is the destination that the
// request itself goes to. It is nil when a rule has made it one that can't be sent.
func (d *HTTPDecision) Copied(m *Mirrored, to *RouteDestination, r *Request) *Request {
	for i, h := range d.Hops() {
		next, ok := h.apply(r)
		if !ok {
			return nil
		}
		r = next
		if i == m.hop {
			return r
		}
	}
	if to == nil {
		to = &RouteDestination{}
	}
	last := Hop{m.Action, to}
	out, ok := last.apply(r)
	if !ok {
		return nil
	}
	return out
}

// mirrors compiles the mirrors of a rule.
func (b *builder) mirrors(at place, rule *HTTPRule) (out []mirror) {
	for _, m := range rule.Mirrors {
		if m.Percent <= 0 || len(rule.Route) == 0 {
			continue
		}
		x := mirror{to: RouteDestination{Destination: m.Destination, Weight: 1}, percent: m.Percent}
		if at.workload {
			if door := b.gatewayPortOf(at.vs, m.Destination, at.port); door != nil {
				x.to.Gateway = b.nextHop(at.p, door)
				out = append(out, x)
				continue
			}
		}
		b.lead(at, &x.to)
		out = append(out, x)
	}
	return out
}

// mirrored are the destinations of a rule's mirrors, as those of routes.
func mirrored(rule *HTTPRule) (out []*WeightedDestination) {
	for i := range rule.Mirrors {
		out = append(out, &WeightedDestination{Destination: rule.Mirrors[i].Destination, Weight: 1})
	}
	return out
}

// sameMirrors says whether the mirrors of a rule lead to the same ports.
func sameMirrors(x, y *HTTPAction) bool {
	for i := range x.mirrors {
		u, w := x.mirrors[i].to.Upstream, y.mirrors[i].to.Upstream
		if (u == nil) != (w == nil) || u != nil && u.Port != w.Port || x.mirrors[i].to.Gateway != y.mirrors[i].to.Gateway {
			return false
		}
	}
	return true
}
