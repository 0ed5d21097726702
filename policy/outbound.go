// SPDX-License-Identifier: Apache-2.0

package policy

import "net/netip"

// AllowsUnknown says whether destinations that no rule names are open
// (outboundTrafficPolicy ALLOW_ANY). The kernel then lets pass what its tables
// do not know, and the DNS proxy answers for every name; it learns nothing for
// names that Lookup does not have. What rules and AuthorizationPolicies deny
// stays denied where it can be recognized: by its name, or by an address that
// is known to be the name's.
func (p *Policy) AllowsUnknown() bool { return p.class.outbound == AllowAny }

// DecideQuery says whether a normalized name may be asked for in DNS. Host is
// nil when no rule names it and unknown names pass: nothing is to be learned
// then. A name to which AuthorizationPolicies leave no port is denied.
func (p *Policy) DecideQuery(name string) Decision {
	h, ok := p.lookup(name)
	switch {
	case !ok && p.AllowsUnknown():
		return passing(Direct, p.class.outboundRule)
	case !ok:
		return deny(ReasonName, nil)
	case h.guarded && !p.opens(name):
		return p.closed(name).decision()
	}
	return Decision{Verdict: Direct, Reason: ReasonAllowed, Rule: h.Rule, Host: h}
}

// closed says why no port of a guarded name is open.
func (p *Policy) closed(name string) refusal {
	w := p.walk(name)
	for h, ok := w.Next(); ok; h, ok = w.Next() {
		for _, hp := range h.Ports {
			if hp.authorizer == nil {
				continue
			}
			if r := hp.refusal(name, netip.Addr{}); r.reason != "" {
				return r
			}
		}
	}
	return refusal{reason: ReasonName}
}

// passing is the Decision for what no rule names and is open; rule is what says
// so, nil for none.
func passing(v Verdict, rule *Ref) Decision {
	return Decision{Verdict: v, Reason: ReasonAllowed, Rule: rule}
}

// passesUnnamed is opensRest for a flow that shows no name, or one that no rule
// has: inside of the cluster it passes where no rule speaks of its address and
// port. A name of one's own choice opens nothing.
func (p *Policy) passesUnnamed(f *Flow, c *candidates) (rule *Ref, open bool) {
	if c.first != nil {
		return p.class.outboundRule, p.AllowsUnknown()
	}
	return p.opensRest(f)
}

// dialledUpstream is exactly the address that was dialled; nil for none.
func dialledUpstream(dst netip.AddrPort) *Upstream {
	if !dst.Addr().IsValid() {
		return nil
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	return &Upstream{
		Host: dst.Addr().String(), Port: dst.Port(), TargetPort: dst.Port(), Protocol: ProtocolTCP,
		Resolution: ResolutionStatic, Endpoints: []UpstreamEndpoint{{Addr: dst, Weight: 1}},
	}
}

// passes are the Candidates of a flow that no rule is for.
func (p *Policy) passes(f *Flow, d Decision) Candidates {
	if d.Verdict == Deny {
		return Candidates{Decision: d}
	}
	return Candidates{Decision: d, Opaque: dialledUpstream(f.Dst)}
}

// passesOpaque lets a flow pass that is neither of what rules at its address
// are about, under ALLOW_ANY and when no authorizer has anything against it.
func (p *Policy) passesOpaque(f *Flow, out Candidates, c *candidates) Candidates {
	if out.Verdict != Deny && p.AllowsUnknown() && c.refused.reason == "" {
		out.Opaque = dialledUpstream(f.Dst)
	}
	return out
}

// unknownName is the answer for a flow whose name has no rule for its port.
func (p *Policy) unknownName(f *Flow, proxied bool) Decision {
	c := p.candidates(f)
	rule, open := p.passesUnnamed(f, &c)
	if !open {
		return p.missName(f)
	}
	w := Way{Verdict: Direct}
	switch {
	case c.refused.reason != "": // a name of one's own choice opens nothing
		return c.refused.decision()
	case c.first != nil:
		w = c.way // others have rules at this address
	}
	if proxied || w.Verdict == Inspect {
		w = Way{Verdict: Proxy}
	}
	d := passing(w.Verdict, rule)
	d.To = w.To
	return d
}

// sniVerdict says what the kernel does where the ClientHello must carry a name.
// Where unknown names pass, nothing has to be proved, unless an
// AuthorizationPolicy denies one.
func (b *builder) sniVerdict(sc *identityClass) Verdict {
	switch {
	case sc.outbound != AllowAny:
		return Inspect
	case b.auth.Guards(len(b.gateways) > 0):
		return Proxy
	}
	return Direct
}
