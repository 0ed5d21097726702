// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"regexp"
	"time"

	"github.com/egressd/egressd/policy/internal/match"
)

// HTTPDecision is the answer for one request. When Verdict is Deny nothing
// else but Reason and Rule (near miss) is set. Otherwise Action says what to
// do; a nil Action means: forward to Upstream as it is.
type HTTPDecision struct {
	Decision
	Action *HTTPAction
	// Upstream is the default upstream of the host (nil Action).
	Upstream *Upstream
	// Retries are for rules that say nothing of them, and where there is no
	// rule; nil: the safe default.
	Retries *Retries
	// Via are the rules that led to Gateways as which the request went on at
	// this place, in the order in which they act, before Action. The zero
	// value is none.
	Via [maxHops]Hop
	// Mirrors are where copies of the request may go, in the order of the rules.
	Mirrors []Mirrored
	// To is the one of Action's destinations that was drawn; on the ingress side,
	// where nothing depends on it, the forwarding core draws.
	To *RouteDestination
}

// maxHops is how many times a request or connection goes on as a Gateway.
const maxHops = 2

// Hop is a rule by which a request went on as a Gateway, and the destination
// that stands for it.
type Hop struct {
	Action *HTTPAction
	To     *RouteDestination
}

// Hops returns the hops of the decision, in the order in which they act on a
// request; on the response they act in reverse.
func (d *HTTPDecision) Hops() []Hop {
	n := 0
	for n < len(d.Via) && d.Via[n].Action != nil {
		n++
	}
	return d.Via[:n]
}

// Request is r as the rules before Action have changed it: what Action acts on.
func (d *HTTPDecision) Request(r *Request) *Request { return d.RequestAt(len(d.Hops()), r) }

// RequestAt is r as the first n of Hops have changed it.
func (d *HTTPDecision) RequestAt(n int, r *Request) *Request {
	for _, h := range d.Hops()[:n] {
		r, _ = h.apply(r) // it was good when the request was decided
	}
	return r
}

// Destination is where the request goes by Action, which r draws unless it is
// drawn already; see HTTPAction.Pick.
func (d *HTTPDecision) Destination(r uint64) *RouteDestination {
	if d.To != nil {
		return d.To
	}
	return d.Action.Pick(r)
}

// Nowhere says that the destination which was drawn is one that nobody declares: a
// request is answered with that, and one that is under way there is allowed no more.
func (d *HTTPDecision) Nowhere() bool {
	return d.To != nil && d.To.Upstream == nil && d.To.Gateway == nil && !d.To.Denied
}

// Timeout is the smallest of the timeouts of the rules that act on the
// request; 0: none.
func (d *HTTPDecision) Timeout() time.Duration {
	var out time.Duration
	take := func(a *HTTPAction) {
		if a != nil && a.Rule.Timeout > 0 && (out == 0 || a.Rule.Timeout < out) {
			out = a.Rule.Timeout
		}
	}
	for i := range d.Via {
		take(d.Via[i].Action)
	}
	take(d.Action)
	return out
}

// RetryPolicy is that of the last rule that says something of retries: with
// several rules there is still one upstream, and what the last rule retries is
// what the others would see. If no rule does, it is the mesh's default; nil:
// the safe one.
func (d *HTTPDecision) RetryPolicy() *Retries {
	if d.Action != nil && d.Action.Rule.Retries != nil {
		return d.Action.Rule.Retries
	}
	for i := len(d.Via) - 1; i >= 0; i-- {
		if a := d.Via[i].Action; a != nil && a.Rule.Retries != nil {
			return a.Rule.Retries
		}
	}
	return d.Retries
}

// HTTPAction is a compiled HTTPRule together with the match that won.
type HTTPAction struct {
	Rule  *HTTPRule
	Match *HTTPMatch // nil when the rule matches everything
	// Destinations are compiled, weight 0 dropped, in the rule's order.
	Destinations []RouteDestination
	TotalWeight  uint32
	// rewrite is the compiled expression of the rule's rewrite, if any.
	rewrite *regexp.Regexp
	// mirrors are the rule's, without those that are switched off; cors is its
	// CORS policy, nil for none.
	mirrors []mirror
	cors    *match.CORSFilter
}

// RouteDestination is one compiled destination. Upstream nil: the host is
// unknown (503 NC in Istio).
type RouteDestination struct {
	// Destination is what the rule names.
	Destination Destination
	Upstream    *Upstream
	Weight      uint32
	Headers     *Headers
	// Denied says that the workload may not reach the destination.
	Denied bool
	// authorizers are those on the way there.
	authorizers []destinationAuthorizer
	// Gateway is set when the destination is a gateway as which the request
	// goes on at this place; Upstream is nil then.
	Gateway *GatewayListener
}

// refuses says which of the authorizers denies a flow that is allowed as own.
func (d *RouteDestination) refuses(f *Flow, own *HostPort, name string, r *Request) refusal {
	for i := range d.authorizers {
		if no := d.authorizers[i].refuses(f, own, name, r); no.reason != "" {
			return no
		}
	}
	return refusal{}
}

// RewritePath returns the path (without query) that goes upstream by the
// action's rewrite.
func (a *HTTPAction) RewritePath(path string) string {
	rw := a.Rule.Rewrite
	switch {
	case rw == nil:
		return path
	case rw.RegexMatch != "":
		re := a.rewrite
		if re == nil { // an action that was not compiled here
			var err error
			if re, err = regexp.Compile(rw.RegexMatch); err != nil {
				return path
			}
		}
		return re.ReplaceAllString(path, match.RegexTemplate(rw.RegexRewrite))
	case rw.URI != "":
		return a.Match.ReplacePrefix(path, rw.URI)
	}
	return path
}

// StatPrefix is that of the last match on the way that has one.
func (d *HTTPDecision) StatPrefix() string {
	of := func(a *HTTPAction) string {
		if a == nil || a.Match == nil {
			return ""
		}
		return a.Match.StatPrefix
	}
	out := of(d.Action)
	for i := len(d.Via) - 1; out == "" && i >= 0; i-- {
		out = of(d.Via[i].Action)
	}
	return out
}
