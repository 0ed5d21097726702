// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// gone is the decision for a listener that the newest snapshot has no more.
var gone = policy.Decision{Verdict: policy.Deny, Reason: policy.ReasonPolicyChanged}

// listener finds the newest rules for the port that c came in on.
func (in *Ingress) listener(c *forward.Conn) *policy.GatewayListener {
	s := in.o.Snapshot()
	if s == nil {
		return nil
	}
	var anywhere *policy.GatewayListener
	for _, l := range s.Listeners() {
		switch {
		case l.Port != c.Dst.Port():
		case l.Bind == c.Dst.Addr():
			return l
		case !l.Bind.IsValid() || l.Bind.IsUnspecified():
			anywhere = l
		}
	}
	return anywhere
}

// Open lets the listener's protocol say what is read of a connection.
func (in *Ingress) Open(c *forward.Conn) forward.Admission {
	l := in.listener(c)
	op := forward.Admission{Decision: policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonAllowed}}
	switch {
	case l == nil:
		return forward.Admission{Protocol: forward.Refuse, Decision: gone}
	case l.IsTLS():
		op.Protocol = forward.TLS
	case l.Protocol.IsHTTP():
		op.Protocol = forward.HTTP
	default:
		if op.Decision, op.Upstream = l.DecideTCP(in.o.Rand()); op.Verdict != policy.Deny {
			op.Protocol = forward.Opaque
		}
	}
	return op
}

// unable is the decision for TLS that a server would have to terminate.
func unable(s *policy.GatewayServer) policy.Decision {
	return policy.Decision{Verdict: policy.Deny, Reason: policy.ReasonGateway, Rule: &s.Ref}
}

// TLS passes a connection on by its SNI. Nothing here terminates TLS: what a
// server would have to is refused.
func (in *Ingress) TLS(c *forward.Conn, sni string) (policy.Decision, *policy.Upstream) {
	l := in.listener(c)
	if l == nil {
		return gone, nil
	}
	d := l.DecideTLS(sni, in.o.Rand())
	if d.Verdict != policy.Deny && d.Server != nil {
		return unable(d.Server), nil
	}
	return d.Decision, d.Upstream
}

// HTTP routes one request.
func (in *Ingress) HTTP(c *forward.Conn, r *policy.Request) policy.HTTPDecision {
	l := in.listener(c)
	if l == nil {
		return policy.HTTPDecision{Decision: gone}
	}
	return l.DecideHTTP(r)
}

// Dial connects to one of u's endpoints, or to what its names resolve to, in
// their order.
func (in *Ingress) Dial(ctx context.Context, c *forward.Conn, u *policy.Upstream) (net.Conn, error) {
	addrs, err := dial.Addresses(u, func(name string) ([]netip.Addr, error) { return in.Resolve(ctx, c, u, name) })
	if err != nil {
		return nil, err
	}
	return in.o.Own.Dial(ctx, addrs)
}

// Resolve returns the addresses of a name of u's.
func (in *Ingress) Resolve(ctx context.Context, _ *forward.Conn, u *policy.Upstream, name string) ([]netip.Addr, error) {
	found, err := in.o.Resolver.ResolveFor(ctx, policy.DefaultPolicy, name, u.Match)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", dial.ErrResolve, err)
	}
	return found, nil
}
