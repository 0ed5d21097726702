// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/policy/internal/match"
)

// Route is the rule that acts on a flow, and all ways that it may send it.
type Route struct {
	Rule Ref `json:"rule"`
	// Name and Timeout are those of an HTTP rule.
	Name    string        `json:"-"`
	Timeout time.Duration `json:"-"`
	// Redirects and Responds say that an HTTP rule answers itself, with a redirect or
	// with a response of its own.
	Redirects bool `json:"-"`
	Responds  bool `json:"-"`
	// Match are the conditions that hold; "": it matches everything.
	Match string `json:"match,omitempty"`
	// Does is what happens to the flow whichever way it goes.
	Does []string `json:"does,omitempty"`
	// To are the destinations; none: the rule answers itself.
	To []Branch `json:"to,omitempty"`
}

// Branch is one destination of a rule, with what becomes of flows that it takes.
type Branch struct {
	To string `json:"to"`
	// Host and Subset are of the service that To describes.
	Host   string `json:"-"`
	Subset string `json:"-"`
	// IdleTimeout and MaxDuration are what DestinationRules say of connections there, as
	// Upstream has them.
	IdleTimeout time.Duration `json:"-"`
	MaxDuration time.Duration `json:"-"`
	// Gateway is the name of the Gateway that the flow goes on through; "": none.
	Gateway string `json:"-"`
	// Weight of Of is its share of what comes to the rule; Share is that of all
	// flows, from 0 to 1.
	Weight uint32  `json:"weight"`
	Of     uint32  `json:"of"`
	Share  float64 `json:"share"`
	// Does is what happens to the flow on this way.
	Does []string `json:"does,omitempty"`
	// Next is the rule of the gateway that the flow goes on as.
	Next *Route `json:"next,omitempty"`
	// Allowed, Reason and Near are the answer where nothing is next; Near is the
	// nearest rule of a denial.
	Allowed bool   `json:"allowed"`
	Reason  Reason `json:"reason,omitempty"`
	Near    *Ref   `json:"near,omitempty"`
	// Note is what else there is to say, such as that nobody is there.
	Note string `json:"note,omitempty"`
}

// DeniedShare is how much of what the rule takes is denied, from 0 to 1.
func (r *Route) DeniedShare() float64 {
	var out float64
	r.leaves(func(b *Branch) {
		if !b.Allowed {
			out += b.Share
		}
	})
	return out
}

// leaves calls f for every way to its end.
func (r *Route) leaves(f func(*Branch)) {
	for i := range r.To {
		if b := &r.To[i]; b.Next != nil && len(b.Next.To) > 0 {
			b.Next.leaves(f)
		} else {
			f(b)
		}
	}
}

// Routes explores every way that rules may send a flow, by deciding it with
// every draw that makes a difference: as DecideHTTP does with r, as DecideTLS
// does with a name from the SNI, else as Candidates does. The Route is nil when
// no rule chooses. The decision is that of a way which is allowed, if there is
// one, and f.Draw = draw leads there. A request to a destination that nobody
// declares is told as denied (ReasonNoDestination): nothing leaves.
func (p *Policy) Routes(f Flow, r *Request) (route *Route, d Decision, draw uint64) {
	e := explorer{p: p, f: f, r: r}
	route = e.explore(0, 1, 0, 1)
	d, _ = e.decide(e.draw, nil)
	return route, d, e.draw
}

type explorer struct {
	p *Policy
	f Flow
	r *Request
	// draw leads to a destination, which is allowed if found says so.
	draw  uint64
	found bool
	// mirrors are those of the request that was decided last.
	mirrors []Mirrored
}

// decide decides with a draw.
func (e *explorer) decide(draw uint64, t *Trace) (Decision, *Upstream) {
	f := e.f
	f.Draw, f.Trace = draw, t
	switch {
	case e.r != nil:
		d := e.p.DecideHTTP(f, e.r)
		e.mirrors = d.Mirrors
		if d.Verdict != Deny && d.To != nil && d.To.Gateway == nil && d.To.Upstream == nil {
			return deny(ReasonNoDestination, &d.Action.Rule.Ref), nil
		}
		if d.To != nil {
			return d.Decision, d.To.Upstream
		}
		return d.Decision, d.Upstream
	case f.HostFrom == EvidenceSNI:
		return e.p.DecideTLS(f, f.Host)
	}
	c := e.p.Candidates(f)
	return c.Decision, c.Opaque
}

// explore finds the rule that the draws so far lead to: depth of them, which
// draw makes, within the share of all flows. scale is what the next draw is
// multiplied by.
func (e *explorer) explore(draw, scale uint64, depth int, share float64) *Route {
	var t Trace
	e.decide(draw, &t)
	mirrors := e.mirrors
	rule, at := t.drawn(depth)
	if rule == nil {
		return nil
	}
	out := &Route{Rule: *rule.rule}
	a, l4 := t.chosen(at)
	if a != nil {
		out.Name, out.Timeout = a.Rule.Name, a.Rule.Timeout
		out.Redirects, out.Responds = a.Rule.Redirect != nil, a.Rule.DirectResponse != nil
		out.Match, out.Does = a.conditions(), append(a.Rule.Describe(), a.copies(mirrors)...)
		if said := e.p.DefaultRetries(); said != "" && a.Rule.Retries == nil && slices.ContainsFunc(rule.all, func(d RouteDestination) bool { return d.Gateway == nil }) {
			out.Does = append(out.Does, said)
		}
	} else if l4 != nil {
		out.Match = l4.conditions()
	}
	offset := uint64(0)
	for i := range rule.all {
		to := &rule.all[i]
		b := Branch{To: to.Describe(), Weight: to.Weight, Of: rule.total, Does: to.Headers.Describe(),
			Share: share * float64(to.Weight) / float64(rule.total)}
		high, low := bits.Mul64(offset, scale)
		next, carry := bits.Add64(draw, low, 0)
		offset += uint64(to.Weight)
		if to.Upstream != nil {
			b.Host, b.Subset = to.Upstream.Host, to.Upstream.Subset
			b.IdleTimeout, b.MaxDuration = to.Upstream.IdleTimeout(), to.Upstream.MaxDuration()
		}
		if to.Gateway != nil {
			b.Gateway = to.Gateway.Name
		}
		if high != 0 || carry != 0 {
			continue // no draw of 64 bits leads there
		}
		e.branch(&b, to, next, scale*uint64(rule.total), depth)
		if b.Reason == ReasonNoDestination && a != nil {
			b.Note = fmt.Sprintf("nobody declares it, answered with %d", cmp.Or(a.Rule.UnknownStatus, 503))
		}
		out.To = append(out.To, b)
	}
	return out
}

// DefaultRetries says how often requests are tried again that no rule says it
// of; "": the mesh says nothing either, and it is done where it is safe.
func (p *Policy) DefaultRetries() string {
	if p.class.retries == nil {
		return ""
	}
	return p.class.retries.Describe() + ", the mesh's default (defaultHttpRetryPolicy)"
}

// imported says that a destination is visible to rules that lead there alone;
// "" when it is to all.
func (p *Policy) imported(u *Upstream) string {
	if u == nil || u.Match == nil || p.class.sidecar.Sidecar == nil {
		return ""
	}
	if h, _ := p.names.Get(u.Match.Pattern); h == u.Match {
		return ""
	}
	sc := p.class.sidecar.Ref
	return fmt.Sprintf("Sidecar %s/%s does not show it: it is imported with the rule, and nothing but the rule leads there", sc.Namespace, sc.Name)
}

// branch fills in what becomes of flows that a draw leads to a destination.
func (e *explorer) branch(b *Branch, to *RouteDestination, draw, scale uint64, depth int) {
	if to.Gateway != nil {
		if b.Next = e.explore(draw, scale, depth+1, b.Share); b.Next != nil && len(b.Next.To) > 0 {
			return
		}
	}
	d, u := e.decide(draw, nil)
	b.Allowed = d.Verdict != Deny
	if !b.Allowed {
		b.Reason, b.Near = d.Reason, d.Rule
		b.Note = to.lacks()
	} else {
		notes := slices.DeleteFunc([]string{e.p.imported(u), u.Nowhere()}, func(s string) bool { return s == "" })
		b.Note = strings.Join(notes, "; ")
	}
	if !e.found && (b.Allowed || e.draw == 0) {
		e.draw, e.found = draw, b.Allowed
	}
}

// lacks says why nothing goes to the destination by itself; "" when something
// might.
func (d *RouteDestination) lacks() string {
	switch {
	case d.Gateway != nil:
		return ""
	case d.Upstream == nil:
		return "nobody declares it"
	case d.Denied:
		return "not allowed for the workload"
	}
	return d.Upstream.Unsupported()
}

// Nowhere says that there is nothing to dial; "" when there is.
func (u *Upstream) Nowhere() string {
	if u == nil || u.Resolution != ResolutionStatic || len(u.Endpoints)+len(u.Names) > 0 {
		return ""
	}
	return fmt.Sprintf("%s is STATIC and has no endpoint: nothing can be reached, every connection fails", u.Host)
}

// drawn is the draw that comes after n others, and its place in the trace; nil:
// there is none.
func (t *Trace) drawn(n int) (*metDraw, int) {
	for i, m := range t.met {
		if d, ok := m.(metDraw); ok {
			if n == 0 {
				return &d, i
			}
			n--
		}
	}
	return nil, 0
}

// chosen is the rule that a draw is of: the last that was found before it.
func (t *Trace) chosen(at int) (*HTTPAction, *l4Route) {
	for i := at - 1; i >= 0; i-- {
		switch m := t.met[i].(type) {
		case metRules:
			return m.won, nil
		case metL4:
			return nil, m.won
		case metEntry:
			if m.route != nil {
				return nil, m.route
			}
		}
	}
	return nil, nil
}

// conditions are what a match asks for, in words of the goldens; "" for nothing.
func (a *HTTPAction) conditions() string {
	m := a.Match
	if m == nil {
		return ""
	}
	c, err := match.NewHTTPMatcher(m)
	if err != nil {
		return "" // it is validated
	}
	return joined(c.Text(m), scopeText(m.Gateways, m.SourceNamespace, m.SourceLabels))
}

func (r *l4Route) conditions() string {
	if r.match == nil {
		return ""
	}
	m := r.match
	return joined(l4MatchText(m), scopeText(m.Gateways, m.SourceNamespace, m.SourceLabels))
}

// joined leaves out what matches everything.
func joined(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" && p != "any" {
			out = append(out, p)
		}
	}
	return strings.Join(out, " ")
}

// scopeText is what a match asks of the workload and the gateway.
func scopeText(gateways []string, namespace string, labels map[string]string) string {
	var out []string
	if len(gateways) > 0 {
		out = append(out, fmt.Sprintf("gateways %v", gateways))
	}
	if namespace != "" {
		out = append(out, "sourceNamespace "+namespace)
	}
	if len(labels) > 0 {
		out = append(out, fmt.Sprintf("sourceLabels %v", labels))
	}
	return strings.Join(out, " ")
}
