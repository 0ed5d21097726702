// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/ingress/tlsserver"
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
		case c.Socket != "" || l.Unix != "":
			if c.Socket == l.Unix {
				return l
			}
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
		if op.Decision, op.Upstream = l.DecideTCP(visitor(c), c.Draw); op.Verdict != policy.Deny {
			op.Protocol = forward.Opaque
		}
	}
	return op
}

// visitor is who has connected.
func visitor(c *forward.Conn) *policy.Visitor {
	a := c.Src.Addr().Unmap().WithZone("")
	return &policy.Visitor{Src: a, Remote: a}
}

// TLS passes a connection on by its SNI.
func (in *Ingress) TLS(c *forward.Conn, sni string) (policy.Decision, *policy.Upstream) {
	l := in.listener(c)
	if l == nil {
		return gone, nil
	}
	d := l.DecideTLS(visitor(c), sni, c.Draw)
	if d.Verdict != policy.Deny && d.Server != nil {
		return gone, nil // a newer snapshot's server, which terminates what another one passed through
	}
	return d.Decision, d.Upstream
}

// Terminate ends the TLS of a connection whose SNI has chosen a server that does.
func (in *Ingress) Terminate(c *forward.Conn, sni string) (forward.Termination, bool) {
	l := in.listener(c)
	if l == nil || !l.IsTLS() {
		return forward.Termination{}, false
	}
	d := l.DecideTLS(visitor(c), sni, c.Draw)
	if d.Server == nil {
		return forward.Termination{}, false
	}
	out := forward.Termination{Decision: d.Decision, Upstream: d.Upstream, Failure: tlsserver.Reason, Principal: principal}
	if d.Verdict == policy.Deny {
		return out, true
	}
	config, err := in.servers.Config(d.Server)
	if err != nil {
		out.Decision = policy.Decision{Verdict: policy.Deny, Reason: policy.ReasonCertificate, Rule: &d.Server.Ref}
		out.Detail = err.Error()
		return out, true
	}
	out.Config = config
	return out, true
}

// principal is the name of the client's certificate.
func principal(s tls.ConnectionState) string { return tlsserver.Principal(s.PeerCertificates[0]) }

// HTTP routes one request.
func (in *Ingress) HTTP(c *forward.Conn, r *policy.Request) policy.HTTPDecision {
	l := in.listener(c)
	if l == nil {
		return policy.HTTPDecision{Decision: gone}
	}
	switch v := r.Visitor; {
	case !l.IsTLS():
		return l.DecideHTTP(r)
	case v == nil || !v.TLS:
		return policy.HTTPDecision{Decision: gone}
	default:
		return l.DecideHTTPS(v.SNI, r)
	}
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
