// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
)

// allow is the Decision that hp allows.
func allow(w Way, hp *HostPort) Decision {
	return Decision{Verdict: w.Verdict, To: w.To, Reason: ReasonAllowed, Rule: hp.Rule, Host: hp.Upstream.Match, Port: hp}
}

// deny is a denial with the nearest rule, which may be nil.
func deny(r Reason, near *Ref) Decision { return Decision{Verdict: Deny, Reason: r, Rule: near} }

// ruleOf returns hp's rule, nil for nil.
func ruleOf(hp *HostPort) *Ref {
	if hp == nil {
		return nil
	}
	return hp.Rule
}

// Decide decides a flow. It allocates nothing.
//
// Without f.Host the destination's address and port decide: what the address
// opens by itself (Static), and what the names open that it was learned for.
// With f.Host, that name must be allowed on the port for the protocol that
// the name was read from; the address must be one of the name's own unless
// the verdict is Proxy (the forwarding core dials its own answer). An
// f.Dst without a valid address leaves the address out of the question.
//
// Denials carry the most telling reason and the nearest rule.
func (p *Policy) Decide(f Flow) Decision {
	if f.Transport != TCP && f.Transport != UDP {
		return deny(ReasonSocketType, nil)
	}
	if f.Host != "" {
		return p.decideName(&f, false, nil)
	}
	c := p.candidates(&f)
	if c.first == nil {
		return p.miss(&f, &c)
	}
	d := allow(c.way, c.first)
	if c.first.authorizer != nil {
		facts := c.first.flowFacts(&f, c.firstName(), true, nil)
		d = d.marked(&facts)
	}
	return d
}

// miss is the answer for a flow that no rule allows by its address.
func (p *Policy) miss(f *Flow, c *candidates) Decision {
	switch {
	case c.refused.reason != "":
		return c.refused.decision()
	}
	if rule, open := p.opensRest(f); open {
		return passing(Direct, rule)
	}
	return p.missAddress(f)
}

// Candidates is what is known about a flow before its first byte was read.
type Candidates struct {
	// Decision is what Decide says about the flow without a name.
	Decision
	// HTTP and TLS say that rules of that kind may apply once the first bytes
	// are there; DecideHTTP or DecideTLS then has the last word.
	HTTP, TLS bool
	// Opaque is where the connection goes when its bytes are not to be read:
	// set when a TCP rule (or one without a protocol) covers the destination.
	Opaque *Upstream
}

// Candidates says what may apply to a TCP connection to f.Dst, whose address
// was learned for f.Names; f.Host is not looked at. One kind alone means that
// there is nothing to find out; several mean that the first bytes must tell.
func (p *Policy) Candidates(f Flow) Candidates {
	f.Host = ""
	c := p.candidates(&f)
	if c.first == nil {
		return p.passes(&f, p.miss(&f, &c))
	}
	out := Candidates{Decision: allow(c.way, c.first), HTTP: c.http != nil, TLS: c.tls != nil}
	hp, name := c.unread()
	if hp == nil {
		if !out.HTTP && !out.TLS { // an opaque flow that an authorizer denies
			out.Decision = c.refused.decision()
		}
		return p.passesOpaque(&f, out, &c)
	}
	d, u := p.opaque(&f, out.Decision, hp, name)
	if d.Verdict != Deny || !out.HTTP && !out.TLS {
		out.Decision, out.Opaque = d, u
	}
	return out
}

// opaque says where a connection goes whose bytes are not read; hp was found
// by name, or by the address when name is "".
func (p *Policy) opaque(f *Flow, d Decision, hp *HostPort, name string) (Decision, *Upstream) {
	if name == "" && !hp.host.Pattern.IsWildcard() {
		name = string(hp.host.Pattern)
	}
	d.Port = hp
	if hp.authorizer != nil || f.Trace != nil {
		facts := hp.flowFacts(f, name, true, nil)
		f.Trace.port(hp, &facts)
		d = d.marked(&facts)
	}
	return p.l4Target(f, d, hp.Upstream, name, false)
}

// named returns where a rule leads that was found by a name, "" for none.
func named(u *Upstream, name string) *Upstream {
	if name == "" {
		return u
	}
	return u.WithName(name)
}

// DecideTLS decides a TCP connection to f.Dst whose ClientHello carries sni
// (normalized, "" when absent), and says where it goes when it is allowed.
// When the name does not allow it, a TCP rule for the destination still may.
// A rule without a protocol may not: on an address that many share, TLS and
// HTTP are told apart by name, and only what is neither goes by address.
func (p *Policy) DecideTLS(f Flow, sni string) (Decision, *Upstream) {
	f.Transport, f.Host, f.HostFrom = TCP, sni, EvidenceSNI
	c := p.candidates(&f)
	var d Decision
	if sni == "" {
		d = deny(ReasonNoName, ruleOf(c.first))
	} else {
		d = p.decideName(&f, true, nil)
	}
	switch {
	case d.Verdict != Deny:
		if d.Port == nil {
			return d, dialledUpstream(f.Dst)
		}
		return p.l4Target(&f, d, d.Port.Upstream, sni, true)
	case d.byAuthorizer():
		return d, nil // whatever else is open there
	case c.opaque != nil:
		return p.opaque(&f, allow(Way{Verdict: Proxy}, c.opaque), c.opaque, c.opaqueName)
	case sni == "" && c.refused.reason == "":
		if rule, open := p.passesUnnamed(&f, &c); open {
			return passing(Proxy, rule), dialledUpstream(f.Dst)
		}
	}
	return d, nil
}

// byAuthorizer says whether an AuthorizationPolicy made the decision.
func (d *Decision) byAuthorizer() bool {
	return d.Reason == ReasonAuthorization || d.Reason == ReasonNoAllow
}

// decideName decides a flow that carries a name. One that is proxied goes to
// the name's own address whatever it dialled; any other must have dialled one.
// r is the request of an HTTP flow when it is there.
func (p *Policy) decideName(f *Flow, proxied bool, r *Request) Decision {
	h, hp := p.find(f)
	if hp == nil || p.outside(hp, f.Dst.Addr()) {
		return p.unknownName(f, proxied)
	}
	if r := unfit(hp.Protocol, f.HostFrom); r != "" {
		return deny(r, hp.Rule)
	}
	if proxied && hp.authorizer == nil && f.Trace == nil { // most requests: nobody asks more
		d := allow(Way{Verdict: Proxy}, hp)
		d.Host = h
		return d
	}
	own := f.Dst.Addr().IsValid() && backs(h, f)
	facts := hp.flowFacts(f, f.Host, own, r)
	if proxied {
		f.Trace.port(hp, &facts)
		if r := refusedBy(hp.authorizer, &facts, false); r.reason != "" {
			return r.decision()
		}
	}
	if !proxied {
		f.Trace.kernelPort(hp, f.Host, f.Dst.Addr())
	}
	w := Way{Verdict: Proxy}
	switch {
	case proxied:
	case f.Dst.Addr().IsValid():
		w = p.wayAt(hp, f)
	case hp.authorizer == nil:
		w = Way{Verdict: hp.Verdict}
	default:
		w = hp.wayOf(f.Host, netip.Addr{})
	}
	switch {
	case w.Verdict == Deny:
		return hp.refusal(f.Host, f.Dst.Addr()).decision()
	case w.Verdict != Proxy && f.Dst.Addr().IsValid() && !own:
		return deny(ReasonNoRule, hp.Rule)
	}
	d := allow(w, hp)
	d.Host = h
	if hp.authorizer != nil {
		d = d.marked(&facts)
	}
	return d
}

// wayAt is what the kernel does with a flow of hp's: by the address that was
// learned for its name, or else by the address itself.
func (p *Policy) wayAt(hp *HostPort, f *Flow) Way {
	if !slices.Contains(f.Names, f.Host) {
		var c candidates
		if p.addrs.collect(&c, f); c.first != nil {
			return c.way
		}
	}
	return hp.wayOf(f.Host, f.Dst.Addr())
}

// find returns the rule for f.Host on f's port. The port is the service's;
// who dials a STATIC endpoint itself dials the endpoint's port instead.
func (p *Policy) find(f *Flow) (*Host, *HostPort) {
	if h, hp := p.LookupPort(f.Host, f.Transport, f.Dst.Port()); hp != nil {
		return h, hp
	}
	w := p.walk(f.Host)
	for h, ok := w.Next(); ok; h, ok = w.Next() {
		for _, hp := range h.Ports {
			if hp.Protocol.Transport() == f.Transport && hp.Upstream.hasEndpoint(f) {
				return h, hp
			}
		}
	}
	return nil, nil
}

// hasEndpoint says whether f.Dst is one of the fixed endpoints of a STATIC
// service.
func (u *Upstream) hasEndpoint(f *Flow) bool {
	if u.Resolution != ResolutionStatic {
		return false
	}
	for _, e := range u.Endpoints {
		if e.Addr.Port() == f.Dst.Port() && e.Addr.Addr() == f.Dst.Addr().Unmap() {
			return true
		}
	}
	return false
}

// unfit returns the reason why a flow of the kind that shows a name in this
// way must not use a port of protocol pr; "" when it may.
func unfit(pr Protocol, e Evidence) Reason {
	switch {
	case e == EvidenceSNI && pr.IsHTTP():
		return ReasonNotHTTP
	case e == EvidenceHTTP && pr.IsTLS():
		return ReasonNotTLS
	}
	return ""
}

// backs says whether f's address is one of the host's own.
func backs(h *Host, f *Flow) bool {
	if slices.Contains(f.Names, f.Host) {
		return true
	}
	a := f.Dst.Addr().Unmap()
	for _, l := range h.Literal {
		if l.Contains(a) {
			return true
		}
	}
	return false
}

// missAddress says why no rule allows f's address on its port.
func (p *Policy) missAddress(f *Flow) Decision {
	var near *Ref
	for _, n := range f.Names {
		r, rule := p.missPort(n, f)
		if r == ReasonTransport {
			return deny(r, rule)
		}
		if r != "" && near == nil {
			near = rule
		}
	}
	r, hp := p.addrs.miss(f.Transport, f.Dst)
	switch {
	case r == ReasonTransport:
		return deny(r, hp.Rule)
	case near != nil:
		return deny(ReasonPort, near)
	case r != "":
		return deny(r, hp.Rule)
	case len(f.Names) > 0:
		return deny(ReasonName, nil)
	}
	return deny(ReasonNoRule, nil)
}

// missName says why no rule allows f.Host on f's port. When the name is not
// allowed at all, the nearest rule is one for the address.
func (p *Policy) missName(f *Flow) Decision {
	if r, rule := p.missPort(f.Host, f); r != "" {
		return deny(r, rule)
	}
	c := p.candidates(f)
	return deny(ReasonName, ruleOf(c.first))
}

// missPort returns ReasonTransport or ReasonPort with the nearest rule when
// name is allowed, but not on f's port; "" when it is not allowed at all.
func (p *Policy) missPort(name string, f *Flow) (Reason, *Ref) {
	if _, hp := p.LookupPort(name, f.Transport.Other(), f.Dst.Port()); hp != nil {
		return ReasonTransport, hp.Rule
	}
	h, ok := p.lookup(name)
	if !ok {
		return "", nil
	}
	return ReasonPort, h.Rule
}
