// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
)

// A mirror is a destination of its own: it is decided as a route's is, and
// opens nothing that the workload may not reach. What is denied of it denies
// the copy alone. Where it is an egress gateway the copy goes on as a request
// does that a rule leads there, but what goes on so is not copied again.

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
	// Way is how a copy goes on as a gateway's, with the rules that the request
	// has passed before, in Via. It is nil where the mirror is no gateway, or no
	// copy may go there.
	Way *HTTPDecision
	// Answered says that a gateway's rule answers a copy itself: it goes nowhere.
	Answered bool
	of       *mirror
	// Percent is the share of the requests, more than 0 to 100.
	Percent float64
	// Refused is the reason why no copy may go there, "" when one may, and Rule
	// the rule that says so.
	Refused Reason
	Rule    *Ref
}

// mirrored decides about the mirrors of d.Action for r, which it has not changed
// yet. at is the hop that the request has come to, and to where it goes from
// there. f is a workload's flow, nil for a visitor's.
func (d *HTTPDecision) mirrored(at hops, to *RouteDestination, f *Flow, r *Request) (out []Mirrored) {
	a, own := d.Action, d.Port
	for i := range a.mirrors {
		m := &a.mirrors[i]
		x := Mirrored{Action: a, hop: at.n, To: &m.to, Percent: m.percent, Rule: &a.Rule.Ref, of: m}
		switch {
		case m.to.Gateway != nil && f == nil:
			x.Refused = ReasonNotSupported // visitors' rules lead to none
		case m.to.Gateway != nil:
			x.goOn(*d, at, to, f, r)
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

// goOn decides about copies that go on as a gateway's, as about a request whose
// rule has that one destination. The copy has what the request's own destination
// does to headers, as all copies have.
func (x *Mirrored) goOn(d HTTPDecision, at hops, to *RouteDestination, f *Flow, r *Request) {
	a, only, quiet := d.Action, x.of.to, *f
	quiet.Trace, at.trace = nil, nil
	if to != nil {
		only.Headers = to.Headers
	}
	d.Action = &HTTPAction{Rule: a.Rule, Match: a.Match, Destinations: []RouteDestination{only}, TotalWeight: 1, rewrite: a.rewrite}
	way := d.onward(&quiet, &at, r, nil)
	if way.Verdict == Deny {
		x.Refused, x.Rule = way.Reason, cmp.Or(way.Rule, x.Rule)
		return
	}
	x.Way = &way
	if x.Answered = x.answered(r); !x.Answered && way.To != nil {
		x.To = way.To
	}
}

// answered says whether one of the gateways' rules answers the copy of r, which
// the mirror's rule has not changed yet.
func (x *Mirrored) answered(r *Request) bool {
	for _, h := range x.Way.Hops()[x.hop:] {
		// The first is the mirror's own rule, which let the request itself pass.
		if _, is := h.Action.Preflight(r); is {
			return true
		}
		r, _ = h.apply(r) // it was good when the copy was decided
	}
	last := x.Way.Action
	_, is := last.Preflight(r)
	return is || last.Rule.Redirect != nil || last.Rule.DirectResponse != nil
}

// Beyond are the rules of gateways that act on the copy alone, in their order.
func (x *Mirrored) Beyond() (out []*HTTPAction) {
	if x.Way == nil {
		return nil
	}
	for _, h := range x.Way.Hops()[x.hop+1:] {
		out = append(out, h.Action)
	}
	return append(out, x.Way.Action)
}

// Gateway is the name of the last Gateway that a copy goes on through; "": none.
func (x *Mirrored) Gateway() string {
	if x.Way == nil {
		return ""
	}
	return x.Way.Gateway()
}

// Leads says whether o sends copies the same way as x does.
func (x *Mirrored) Leads(o *Mirrored) bool {
	return x.To.Destination == o.To.Destination && x.Gateway() == o.Gateway()
}

// copies says what becomes of copies where the rule itself does not say it:
// which mirrors get none, and where copies go on that gateways get. decided are
// the mirrors of a request, none when it is denied.
func (a *HTTPAction) copies(decided []Mirrored) (out []string) {
	for i := range a.mirrors {
		to := &a.mirrors[i].to
		reason, why := to.Upstream.Refusal(), "it can't be reached as it has to be"
		switch {
		case to.Gateway != nil:
			for j := range decided {
				if decided[j].of == &a.mirrors[i] {
					out = append(out, decided[j].describe())
				}
			}
			continue
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

// describe says what becomes of copies for an egress gateway.
func (x *Mirrored) describe() string {
	at, door := x.of.to.Destination.Describe(), x.of.to.Gateway
	switch {
	case x.Refused != "":
		return fmt.Sprintf("no copy goes to %s: as one of gateway %s it is denied (%s)", at, door.Name, x.Refused)
	case x.Answered:
		return fmt.Sprintf("no copy goes to %s: a rule of gateway %s answers it", at, x.Gateway())
	case x.To.Upstream == nil:
		return fmt.Sprintf("no copy goes to %s: gateway %s has it go to %s, and nobody declares that (%s)", at, x.Gateway(), x.To.Destination.Describe(), ReasonNoDestination)
	}
	return fmt.Sprintf("copies to %s go on through gateway %s to %s port %d", at, x.Gateway(), x.To.Upstream.Host, x.To.Upstream.Port)
}

// Copied is the request that a mirror gets: with what the rules on the way to
// it change, but for the name of its host. to is the destination that the
// request itself goes to. It is nil when a rule has made it one that can't be sent.
func (d *HTTPDecision) Copied(m *Mirrored, to *RouteDestination, r *Request) *Request {
	end, action := m.hop+1, m.Action
	if m.Way != nil {
		d, to, end, action = m.Way, m.Way.To, maxHops+1, m.Way.Action
	}
	for i, h := range d.Hops() {
		next, ok := h.apply(r)
		if !ok {
			return nil
		}
		if r = next; i+1 == end {
			return r
		}
	}
	if to == nil {
		to = &RouteDestination{}
	}
	last := Hop{action, to}
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
