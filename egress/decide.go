// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/policy"
)

// Open says how a fresh connection is to be treated: by what its address may
// stand for.
func (e *Egress) Open(c *forward.Conn) forward.Admission {
	id, p := e.policy(c)
	if p == nil {
		return forward.Admission{Protocol: forward.Refuse, Decision: noPolicy(id)}
	}
	may := p.Candidates(e.flow(c, id))
	may.Decision = e.reachable(c, may.Decision)
	o := forward.Admission{Decision: proxied(may.Decision), Upstream: may.Opaque}
	if d, would := e.audited(c, may.Decision); would {
		return forward.Admission{Protocol: forward.Opaque, Decision: d, Upstream: dialled(c)}
	}
	switch {
	case o.Verdict == policy.Deny:
		o.Protocol = forward.Refuse
	case may.TLS && !may.HTTP && may.Opaque == nil:
		o.Protocol = forward.TLS
	case may.HTTP && !may.TLS && may.Opaque == nil:
		o.Protocol = forward.HTTP
	case may.Opaque != nil && !may.TLS && !may.HTTP:
		o.Protocol = forward.Opaque
	default:
		o.Protocol = forward.Sniff
	}
	return o
}

// TLS decides about a ClientHello.
func (e *Egress) TLS(c *forward.Conn, sni string) (policy.Decision, *policy.Upstream) {
	id, p := e.policy(c)
	if p == nil {
		return noPolicy(id), nil
	}
	d, u := p.DecideTLS(e.flow(c, id), sni)
	if d = e.reachable(c, d); d.Verdict == policy.Deny {
		u = nil
	}
	if d, would := e.audited(c, d); would {
		return d, dialled(c)
	}
	return proxied(d), u
}

// proxied is what became of a flow that reached the proxy, whatever the
// newest policy would do with a fresh one.
func proxied(d policy.Decision) policy.Decision {
	if d.Verdict != policy.Deny {
		d.Verdict = policy.Proxy
	}
	return d
}

// HTTP decides about one request.
func (e *Egress) HTTP(c *forward.Conn, r *policy.Request) policy.HTTPDecision {
	id, p := e.policy(c)
	if p == nil {
		return policy.HTTPDecision{Decision: noPolicy(id)}
	}
	f := e.flow(c, id)
	f.Draw = r.Draw
	d := p.DecideHTTP(f, r)
	d.Decision = e.reachable(c, d.Decision)
	// A request that no rule of an allowed host matches is answered 404 in
	// every mode; that is routing, not access.
	if d.Reason != policy.ReasonNoRoute {
		if would, ok := e.audited(c, d.Decision); ok {
			return policy.HTTPDecision{Decision: would, Upstream: dialled(c)}
		}
	}
	return d
}
