// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy/internal/authz"
)

// Account is why a flow or request is decided as it is: raw material for
// people, in no stable wording but for the verdict and the reason.
type Account struct {
	Allowed bool    `json:"allowed"`
	Verdict Verdict `json:"verdict"`
	Reason  Reason  `json:"reason"`
	// Class says why the verdict is the one it is and not a faster or closer
	// one.
	Class string `json:"class,omitempty"`
	// Rule allows the flow or, on a denial, is the nearest that the decision
	// itself met; Action is the rule of a VirtualService that acts on it.
	Rule   *Ref `json:"rule,omitempty"`
	Action *Ref `json:"action,omitempty"`
	// Considered are all objects and rules that are about the destination,
	// with what came of each, in the order in which they are asked.
	Considered []Considered `json:"considered,omitempty"`
	// Nearest is what comes closest to a denied flow.
	Nearest *Considered `json:"nearest,omitempty"`
}

// Considered is one object or rule, and why it counts or does not.
type Considered struct {
	Rule Ref    `json:"rule"`
	Won  bool   `json:"won"`
	Why  string `json:"why"`
}

func (c Considered) String() string {
	what := "does not count"
	if c.Won {
		what = "counts"
	}
	return fmt.Sprintf("%v %s: %s", c.Rule, what, c.Why)
}

// Why explains what DecideHTTP says when r is not nil, what DecideTLS says for
// a TCP flow with a name from its SNI, and else what Decide says, or the
// forwarding core before the first byte when it is left to that. It looks at
// every object of the configuration: it is for people who ask, not for flows.
func (p *Policy) Why(f Flow, r *Request) Account {
	if r != nil {
		f.Transport, f.Host, f.HostFrom = TCP, r.Host, EvidenceHTTP
	}
	var trace Trace
	f.Trace = &trace
	w := why{p: p, f: f, r: r, names: f.Names}
	if f.Host != "" {
		w.names = []string{f.Host}
	}
	w.decide()
	w.Allowed = w.d.Verdict != Deny
	w.Verdict, w.Reason, w.Rule = w.d.Verdict, w.d.Reason, w.d.Rule
	w.class()
	w.services()
	names := w.names
	if len(names) == 0 && w.d.Port != nil && !w.d.Port.host.Pattern.IsWildcard() {
		names = []string{string(w.d.Port.host.Pattern)} // by which rules for TCP are found
	}
	for _, name := range names {
		w.virtualServices(name)
	}
	w.way(&trace)
	wins := func(c Considered) bool { return c.Won }
	switch {
	case !w.Allowed:
		w.nearest()
	case w.Rule != nil && !slices.ContainsFunc(w.Considered, wins):
		w.say(*w.Rule, true, "allows it")
	}
	return w.Account
}

// why gathers an Account.
type why struct {
	Account
	p     *Policy
	f     Flow
	r     *Request
	names []string
	d     Decision
	http  HTTPDecision
	// hidden is the first object that would count if it were visible.
	hidden *Considered
}

func (w *why) say(rule Ref, won bool, format string, args ...any) {
	w.Considered = append(w.Considered, Considered{rule, won, quote.Text(fmt.Sprintf(format, quote.Args(args)...))})
}

// decide asks for the decision itself.
func (w *why) decide() {
	switch {
	case w.r != nil:
		w.http = w.p.DecideHTTP(w.f, w.r)
		w.d = w.http.Decision
		if a := w.http.Action; a != nil {
			w.Action = &a.Rule.Ref
			if to := w.http.To; to != nil && to.Upstream == nil && to.Gateway == nil {
				w.d = deny(ReasonNoDestination, w.Action)
				w.say(*w.Action, false, "its destination %s is unknown", to.Destination.Host)
			}
		}
	case w.f.Transport == TCP && w.f.HostFrom == EvidenceSNI && w.f.Host != "":
		d, _ := w.p.DecideTLS(w.f, w.f.Host)
		w.d = d
		f := w.f
		f.Trace = nil
		if k := w.p.Decide(f); d.Verdict != Deny && k.Verdict != Deny {
			w.d.Verdict = k.Verdict // the kernel's, which comes first
		}
	default:
		w.d = w.p.Decide(w.f)
		if w.d.Verdict == Proxy && w.f.Host == "" && w.f.Transport == TCP {
			*w.f.Trace = Trace{}
			if c := w.p.Candidates(w.f); c.Verdict == Deny {
				w.d = c.Decision
			}
		}
	}
}

// class says what the verdict comes from.
func (w *why) class() {
	hp := w.d.Port
	if hp == nil {
		if w.Allowed {
			w.Class = "no rule matches; outboundTrafficPolicy ALLOW_ANY allows it"
		}
		return
	}
	switch pr := hp.Protocol; {
	case w.Verdict == Direct && hp.Protocol.Transport() == UDP:
		w.Class = "UDP: address and port decide"
	case w.Verdict == Direct && hp.Protocol != ProtocolTCP:
		w.Class = "outboundTrafficPolicy ALLOW_ANY allows unknown names, so the ClientHello is not read"
	case w.Verdict == Direct:
		w.Class = "the protocol is TCP: address and port decide, nothing is read"
	case w.Verdict == Inspect:
		w.Class = "the protocol is TLS: the kernel reads the ClientHello, and its SNI must be an allowed name of the address"
	case pr.IsHTTP():
		w.Class = fmt.Sprintf("the protocol is %v: requests are read one by one", pr)
	case pr == ProtocolUnset:
		w.Class = "the port has no protocol: the first bytes of a connection decide"
	case hp.routed:
		w.Class = "rules for TLS or TCP choose where connections go"
	case hp.Upstream.unsupported():
		w.Class = "a DestinationRule asks for something that egressd does not support, and only the forwarding core can report that"
	case w.asks(hp):
		w.Class = "AuthorizationPolicies ask for what only the forwarding core can read"
	case hp.sniVerdict == Proxy && pr.IsTLS():
		w.Class = "outboundTrafficPolicy ALLOW_ANY allows unknown names, but AuthorizationPolicies deny some, so each name is read"
	default:
		w.Class = hp.Upstream.whyProxy(pr)
	}
}

// asks says whether what guards the port leaves something open that the kernel
// cannot know.
func (w *why) asks(hp *HostPort) bool {
	if hp.authorizer == nil {
		return false
	}
	name := w.f.Host
	if name == "" {
		name = hp.exactName()
	}
	f := hp.kernelFacts(name, netip.Prefix{})
	return hp.authorizer.Access(&f) == authz.Undecided
}

// whyProxy says why the kernel alone cannot send connections to u.
func (u *Upstream) whyProxy(pr Protocol) string {
	is := func(e UpstreamEndpoint) bool {
		_, kernel := kernelEndpoints([]UpstreamEndpoint{e}, e.Addr.Addr().Is4())
		return !kernel
	}
	switch {
	case u.Transport() != "":
		return "a DestinationRule says how the connection is made: " + u.how()
	case len(u.Names) > 0 && (len(u.Endpoints) > 0 || u.Names[0].Name != u.Host):
		return "the service's endpoints are names, which are resolved for each connection"
	case len(u.Endpoints) > MaxEndpoints:
		return fmt.Sprintf("the service has more than %d endpoints", MaxEndpoints)
	case slices.ContainsFunc(u.Endpoints, is):
		return "an endpoint is an address that means another thing in the workload's network namespace"
	case u.virtual && len(u.Endpoints) == 0:
		return "the service's own addresses stand for its name, which is resolved for each connection"
	case u.Resolution == ResolutionStatic && len(u.Endpoints) == 0:
		return "the service has no endpoint"
	case pr.IsTLS():
		return "the address may belong to several names"
	}
	return "the service has no endpoint of the address family"
}

// nearest finds what comes closest to a denied flow: what would allow it if it
// were visible, else what the decision met, else the host with the most
// similar name.
func (w *why) nearest() {
	final := w.d.byAuthorizer() || w.d.Reason == ReasonNotSupported || w.d.Reason == ReasonEndpoint // no other rule would help
	if w.hidden != nil && !final {
		w.Nearest = w.hidden
		return
	}
	if w.Rule != nil {
		w.Nearest = &Considered{Rule: *w.Rule, Why: w.about(*w.Rule)}
		return
	}
	for _, name := range w.names {
		if h, ok := w.p.names.Get(hostname.Pattern("*." + name)); ok {
			w.Nearest = &Considered{Rule: *h.Rule, Why: fmt.Sprintf("host %s stands for the names below %s, not for %s itself; list that as well", h.Pattern, name, name)}
			return
		}
	}
	best, distance := (*Host)(nil), maxDistance+1
	parent, shared := (*Host)(nil), 0
	for _, name := range w.names {
		for pattern, h := range w.p.names.All() {
			text := strings.TrimPrefix(string(pattern), "*.")
			if d := editDistance(name, text, min(distance, maxDistance)); d < distance || d == distance && best != nil && hostname.Compare(pattern, best.Pattern) < 0 {
				best, distance = h, d
			}
			if n := commonLabels(name, text); n > shared || n == shared && parent != nil && hostname.Compare(pattern, parent.Pattern) < 0 {
				parent, shared = h, n
			}
		}
	}
	switch {
	case best != nil && distance <= maxDistance:
		w.Nearest = &Considered{Rule: *best.Rule, Why: fmt.Sprintf("host %s differs by %d", best.Pattern, distance)}
	case parent != nil && shared >= 2:
		w.Nearest = &Considered{Rule: *parent.Rule, Why: fmt.Sprintf("host %s is of the same domain", parent.Pattern)}
	}
}

// about is what was said of a rule: why it does not count, else how it denies.
func (w *why) about(rule Ref) string {
	said := fmt.Sprintf("the decision is %s", w.Reason)
	for _, c := range w.Considered {
		switch {
		case c.Rule != rule:
		case !c.Won:
			return c.Why
		default:
			said = c.Why
		}
	}
	return said
}

// maxDistance is how many letters a name may differ in and be taken for a
// slip.
const maxDistance = 3

// editDistance is the number of letters to insert, delete or replace to make
// b of a, or limit+1 when it is more than limit.
func editDistance(a, b string, limit int) int {
	if limit < 0 || len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, least := row[0], i+1
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j]+1, before+1)
			least = min(least, row[j+1])
		}
		if least > limit {
			return limit + 1
		}
	}
	return min(row[len(b)], limit+1)
}

// commonLabels counts the labels at the end that two names share.
func commonLabels(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	n := 0
	for n < len(x) && n < len(y) && x[len(x)-1-n] == y[len(y)-1-n] {
		n++
	}
	return n
}
