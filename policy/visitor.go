// SPDX-License-Identifier: Apache-2.0

package policy

import "github.com/egressd/egressd/policy/internal/authz"

// nobody is a visitor of whom nothing is known.
var nobody Visitor

// admit decides a request of a visitor: the rules find its way, and AuthorizationPolicies
// say whether it may go it. They are asked first, as in Istio, so that who is denied
// learns nothing of the rules.
func (l *GatewayListener) admit(r *Request, c *gatewayChain) HTTPDecision {
	if l.authorizer == nil {
		return c.decideHTTP(r, nil)
	}
	facts := l.visit(r.Visitor)
	facts.PrincipalIs = authz.Known
	facts.Host, facts.HostIs = r.Host, authz.Known
	facts.Request, facts.RequestIs = r, authz.Known
	if no := refusedBy(l.authorizer, &facts, false); no.reason != "" {
		return HTTPDecision{Decision: no.decision()}
	}
	d := c.decideHTTP(r, nil)
	if d.Verdict != Deny {
		d.Decision = d.markedBy(l.authorizer, &facts)
	}
	return d
}

// admitConn is admit for a connection of which no request is read. A client
// certificate is not there yet.
func (l *GatewayListener) admitConn(v *Visitor, sni string, r *l4Route, draw uint64) (Decision, *Upstream) {
	if l.authorizer == nil {
		return r.decide(draw)
	}
	facts := l.visit(v)
	facts.SNI = sni
	if !l.IsTLS() {
		facts.PrincipalIs = authz.Known // there is none
	}
	if no := refusedBy(l.authorizer, &facts, false); no.reason != "" {
		return no.decision(), nil
	}
	d, u := r.decide(draw)
	if d.Verdict != Deny {
		d = d.markedBy(l.authorizer, &facts)
	}
	return d, u
}

// visit are the facts about a visitor's flow. What nobody can say is unavailable.
func (l *GatewayListener) visit(v *Visitor) authz.Facts {
	if v == nil {
		v = &nobody
	}
	f := authz.Facts{Visitor: v, SNI: v.SNI, SNIIs: authz.Known}
	f.AtGateway(l.Port)
	if v.Src.IsValid() {
		f.Src, f.SrcIs = v.Src, authz.Known
	}
	return f
}
