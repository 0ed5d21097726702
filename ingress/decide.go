// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/egressd/egressd/internal/forward"
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

// Open treats every gateway connection as HTTP: Gateways with TLS are refused
// when the policy is read.
func (in *Ingress) Open(c *forward.Conn) forward.Opening {
	if in.listener(c) == nil {
		return forward.Opening{Protocol: forward.Refuse, Decision: gone}
	}
	return forward.Opening{
		Protocol: forward.HTTP,
		Decision: policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonAllowed},
	}
}

// TLS refuses: no gateway server speaks TLS.
func (in *Ingress) TLS(*forward.Conn, string) (policy.Decision, *policy.Upstream) {
	return policy.Decision{Verdict: policy.Deny, Reason: policy.ReasonNotHTTP}, nil
}

// HTTP routes one request.
func (in *Ingress) HTTP(c *forward.Conn, r *policy.Request) policy.HTTPDecision {
	l := in.listener(c)
	if l == nil {
		return policy.HTTPDecision{Decision: gone}
	}
	return l.DecideHTTP(r)
}

// Dial connects to one of u's endpoints, drawn by weight, the others behind
// it, or to what its names resolve to.
func (in *Ingress) Dial(ctx context.Context, _ *forward.Conn, u *policy.Upstream) (net.Conn, error) {
	addrs := forward.ByWeight(u.Endpoints, in.o.Rand())
	var errs []error
	for _, n := range u.Names {
		found, err := in.o.Resolver.ResolveFor(ctx, policy.DefaultPolicy, n.Name, u.Match)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", forward.ErrResolve, err))
		}
		for _, a := range found {
			addrs = append(addrs, netip.AddrPortFrom(a, n.Port))
		}
	}
	if len(addrs) == 0 && len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return forward.DialAny(ctx, addrs)
}
