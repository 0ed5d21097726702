// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"

	"github.com/egressd/egressd/policy"
)

// ways adds what the forwarding core says of a flow that the kernel leaves to
// it, or what the rules that it meets would, on every way that they may send it:
// what is the flow for people. It is false when all of them end in a denial.
func (x *explainer) ways(kind, what string, f policy.Flow, r *policy.Request) bool {
	var d policy.Decision
	before := x.Verdict
	x.Route, d, x.draw = x.p.Routes(f, r)
	if x.port != nil && x.Verdict == policy.Proxy {
		x.Upstream = x.port.Upstream
	}
	if x.Route != nil {
		x.Action = &x.Route.Rule
		x.DeniedShare = x.Route.DeniedShare()
		x.rule(kind, what, x.Route)
	}
	if r != nil || d.Verdict == policy.Deny {
		x.take(d)
	}
	if d.Verdict != policy.Deny {
		return true
	}
	switch {
	case kind == "http":
		x.step("http: %s is refused (%s)", what, d.Reason)
	case kind == "tls" && before == policy.Inspect:
		x.step("kernel: connect() succeeds; the ClientHello of %s is dropped on its way, and the connection is reset: the client gets an error (ECONNABORTED) at once (%s)", what, d.Reason)
	default:
		x.step("proxy: refused (%s)", d.Reason)
	}
	x.nearest(d.Rule)
	return false
}

// rule adds what a rule does, and each way that a flow may go by it.
func (x *explainer) rule(kind, what string, r *policy.Route) {
	match := ""
	if r.Match != "" {
		match = " (" + r.Match + ")"
	}
	x.step("%s: %s is matched by %s%s", kind, what, r.Rule, match)
	for _, does := range r.Does {
		x.step("%s: %s", kind, does)
	}
	for i := range r.To {
		b := &r.To[i]
		x.step("%s: %s, %d of %d%s", kind, b.To, b.Weight, b.Of, outcome(b, len(r.To) > 1))
		for _, does := range b.Does {
			x.step("%s: there: %s", kind, does)
		}
		if b.Next != nil {
			x.rule(kind, "what goes there", b.Next)
		}
	}
}

// nowhere says that nobody is where the flow goes by itself.
func (x *explainer) nowhere() {
	if x.port == nil || x.Verdict == policy.Deny || x.Route != nil {
		return
	}
	if note := x.port.Upstream.Nowhere(); note != "" {
		x.step("upstream: %s", note)
	}
}

// outcome says what becomes of a flow at the end of a branch.
func outcome(b *policy.Branch, several bool) string {
	var out string
	switch {
	case b.Next != nil && len(b.Next.To) > 0:
		return ""
	case b.Reason == policy.ReasonNoDestination:
		out = ": no such service"
	case !b.Allowed:
		out = fmt.Sprintf(": denied (%s)", b.Reason)
	case several:
		out = ": allowed"
	}
	if several {
		out += fmt.Sprintf(", %.4g%% of all", 100*b.Share)
	}
	if b.Note != "" {
		out += "; " + b.Note
	}
	return out
}
