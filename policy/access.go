// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"

	"github.com/egressd/egressd/policy/internal/authz"
)

// limit is the way of flows that a rule opens and AuthorizationPolicies guard.
func (w Way) limit(a authz.Access, t Transport) Way {
	switch {
	case a == authz.AllowAll:
		return w
	case a == authz.Undecided && t == TCP:
		return Way{Verdict: Proxy}
	}
	return Way{} // for UDP there is nobody who could look
}

// kernelFacts are what the kernel knows of flows to a port at addresses that
// stand for name; "" when they stand for several. What the forwarding core
// will know beyond that depends on the protocol. UDP does not pass there.
func (hp *HostPort) kernelFacts(name string, dst netip.Prefix) authz.Facts {
	f := authz.Facts{Port: hp.Number, Host: name, HostIs: authz.Known, Dst: dst, DstIs: authz.Known}
	pr := hp.Protocol
	unread := authz.Unavailable // what is read of a flow
	if pr != ProtocolTCP && pr != ProtocolUDP {
		unread = authz.Deferred
	}
	if name == "" {
		f.HostIs = unread
	}
	if pr.Transport() == TCP {
		f.SrcIs = authz.Deferred
	}
	if !dst.IsValid() {
		f.DstIs = f.SrcIs
	}
	switch {
	case pr.IsTLS():
		f.SNI, f.SNIIs = name, f.HostIs
	case pr.IsHTTP():
		f.SNIIs, f.RequestIs = authz.Known, authz.Deferred // there is none
	case pr == ProtocolUnset:
		f.SNIIs, f.RequestIs = authz.Deferred, authz.Deferred
	}
	return f
}

// flowFacts are what is known of a flow to the port when its last decision is
// made: f.Host is what it carried itself; name is what it is for when it is
// opaque. own says that the address that was dialled belongs to the name.
func (hp *HostPort) flowFacts(f *Flow, name string, own bool, r *Request) authz.Facts {
	out := authz.Facts{Port: hp.Number, Host: name}
	if name != "" {
		out.HostIs = authz.Known
	}
	if a := f.Dst.Addr().Unmap().WithZone(""); own && a.IsValid() {
		out.Dst, out.DstIs = netip.PrefixFrom(a, a.BitLen()), authz.Known
	}
	if f.Src.IsValid() {
		out.Src, out.SrcIs = f.Src, authz.Known
	}
	if hp.Protocol == ProtocolTCP || hp.Protocol == ProtocolUDP {
		return out // whatever it carries, it is not read everywhere
	}
	switch {
	case r != nil:
		out.Request, out.RequestIs, out.SNIIs = r, authz.Known, authz.Known
	case f.HostFrom == EvidenceSNI && f.Host != "":
		out.SNI, out.SNIIs = f.Host, authz.Known
	}
	return out
}

// exactName is the name that a rule found by address stands for, "" when it
// stands for many.
func (hp *HostPort) exactName() string {
	if p := hp.host.Pattern; !p.IsWildcard() {
		return string(p)
	}
	return ""
}

// wayOf is what the kernel does with flows to an address that was learned for
// a name of the host; without an address, what it does with any.
func (hp *HostPort) wayOf(name string, a netip.Addr) Way {
	w := hp.Way(a)
	if hp.authorizer == nil {
		return w
	}
	var dst netip.Prefix
	if a = a.Unmap().WithZone(""); a.IsValid() {
		dst = netip.PrefixFrom(a, a.BitLen())
	}
	f := hp.kernelFacts(name, dst)
	return w.limit(hp.authorizer.Access(&f), hp.Protocol.Transport())
}

// refusesOpaque says why a flow whose bytes are not read is denied; it was
// found by name, or by address when name is "".
func (hp *HostPort) refusesOpaque(f *Flow, name string) refusal {
	if hp.authorizer == nil {
		return refusal{}
	}
	if name == "" {
		name = hp.exactName()
	}
	facts := hp.flowFacts(f, name, true, nil)
	f.Trace.port(hp, &facts)
	return refusedBy(hp.authorizer, &facts, false)
}

// refusal says why nothing of what may come is allowed.
func (hp *HostPort) refusal(name string, a netip.Addr) refusal {
	if hp.Upstream.unreachable() {
		return refusal{ReasonEndpoint, hp.Rule}
	}
	var dst netip.Prefix
	if a = a.Unmap().WithZone(""); a.IsValid() {
		dst = netip.PrefixFrom(a, a.BitLen())
	}
	f := hp.kernelFacts(name, dst)
	// For UDP nothing is known later: optimism changes nothing.
	if r := refusedBy(hp.authorizer, &f, true); r.reason != "" || hp.Protocol.Transport() == TCP {
		return r
	}
	return refusedBy(hp.authorizer, &f, false)
}

// marked adds the marks that the authorizer of an allowed flow makes.
func (d Decision) marked(f *authz.Facts) Decision {
	d.Audited, d.DryRun = d.Port.authorizer.Marks(f)
	return d
}

// markedBy adds the marks that another authorizer on the flow's way makes.
func (d Decision) markedBy(g *authz.Authorizer, f *authz.Facts) Decision {
	audited, dryRun := g.Marks(f)
	d.Audited, d.DryRun = cmp.Or(d.Audited, audited), cmp.Or(d.DryRun, dryRun)
	return d
}

// facts are what is known of a flow that is allowed as own and goes on as the
// gateway's: name is what it is for there, r its request as the gateway sees
// it.
func (l *GatewayListener) facts(f *Flow, own *HostPort, name string, r *Request) authz.Facts {
	out := own.flowFacts(f, name, false, r)
	out.AtGateway(l.Port)
	if r != nil && l.IsTLS() {
		out.SNIIs = authz.Unavailable // the TLS between workload and gateway is not there
	}
	return out
}

// destinationAuthorizer is the authorizer of another destination than the one that a flow asked for.
type destinationAuthorizer struct {
	authorizer *authz.Authorizer
	port       *HostPort
	host       string
}

// facts are what is known of a flow that is allowed as own under a name and
// goes to the authorizer's destination. The address that was dialled says something
// of that only when it is the one that the flow asked for.
func (g *destinationAuthorizer) facts(f *Flow, own *HostPort, name string, r *Request) authz.Facts {
	// Where the protocols differ, what was read of the flow counts.
	out := own.flowFacts(f, g.host, g.port == own && g.host == name, r)
	out.Port = g.port.Number
	return out
}

// refuses says why the authorizer denies a flow that is allowed as own.
func (g *destinationAuthorizer) refuses(f *Flow, own *HostPort, name string, r *Request) refusal {
	facts := g.facts(f, own, name, r)
	f.Trace.authorizer(g, &facts)
	return refusedBy(g.authorizer, &facts, false)
}

// refusal is why a flow is denied, and by which rule; no reason: it is not.
type refusal struct {
	reason Reason
	rule   *Ref
}

func (r refusal) decision() Decision { return deny(r.reason, r.rule) }

// refusedBy says whether an Authorizer, which may be nil, denies a flow. With
// optimistic, only what cannot be allowed any more is refused.
func refusedBy(g *authz.Authorizer, f *authz.Facts, optimistic bool) refusal {
	switch ruling, rule := g.Refuses(f, optimistic); ruling {
	case authz.Denied:
		return refusal{ReasonAuthorization, rule}
	case authz.NotAllowed:
		return refusal{ReasonNoAllow, rule}
	default:
		return refusal{}
	}
}
