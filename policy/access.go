// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
)

// access is what a guard says of flows before their first byte.
type access uint8

const (
	// open: whatever comes, it is allowed.
	open access = iota
	// depends: the forwarding core must look.
	depends
	// shut: whatever comes, it is denied.
	shut
)

// access says what the kernel can know.
func (g *guard) access(f *authFacts) access {
	switch {
	case g == nil || g.refuses(f, false).reason == "":
		return open
	case g.refuses(f, true).reason != "":
		return shut
	}
	return depends
}

// limit is the way of flows that a rule opens and a guard watches.
func (w Way) limit(a access, t Transport) Way {
	switch {
	case a == open:
		return w
	case a == depends && t == TCP:
		return Way{Verdict: Proxy}
	}
	return Way{} // for UDP there is nobody who could look
}

// kernelFacts are what the kernel knows of flows to a port at addresses that
// stand for name; "" when they stand for several. What the forwarding core
// will know beyond that depends on the protocol. UDP does not pass there.
func (hp *HostPort) kernelFacts(name string, dst netip.Prefix) authFacts {
	f := authFacts{port: hp.Number, host: name, hostIs: known, dst: dst, dstIs: known}
	pr := hp.Protocol
	unread := never // what is read of a flow
	if pr != ProtocolTCP && pr != ProtocolUDP {
		unread = later
	}
	if name == "" {
		f.hostIs = unread
	}
	if pr.Transport() == TCP {
		f.srcIs = later
	}
	if !dst.IsValid() {
		f.dstIs = f.srcIs
	}
	switch {
	case pr.IsTLS():
		f.sni, f.sniIs = name, f.hostIs
	case pr.IsHTTP():
		f.sniIs, f.requestIs = known, later // there is none
	case pr == ProtocolUnset:
		f.sniIs, f.requestIs = later, later
	}
	return f
}

// flowFacts are what is known of a flow to the port when its last decision is
// made: f.Host is what it carried itself; name is what it is for when it is
// opaque. own says that the address that was dialled belongs to the name.
func (hp *HostPort) flowFacts(f *Flow, name string, own bool, r *Request) authFacts {
	out := authFacts{port: hp.Number, host: name}
	if name != "" {
		out.hostIs = known
	}
	if a := f.Dst.Addr().Unmap().WithZone(""); own && a.IsValid() {
		out.dst, out.dstIs = netip.PrefixFrom(a, a.BitLen()), known
	}
	if f.Src.IsValid() {
		out.src, out.srcIs = f.Src, known
	}
	if hp.Protocol == ProtocolTCP || hp.Protocol == ProtocolUDP {
		return out // whatever it carries, it is not read everywhere
	}
	switch {
	case r != nil:
		out.request, out.requestIs, out.sniIs = r, known, known
	case f.HostFrom == EvidenceSNI && f.Host != "":
		out.sni, out.sniIs = f.Host, known
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
	if hp.guard == nil {
		return w
	}
	var dst netip.Prefix
	if a = a.Unmap().WithZone(""); a.IsValid() {
		dst = netip.PrefixFrom(a, a.BitLen())
	}
	f := hp.kernelFacts(name, dst)
	return w.limit(hp.guard.access(&f), hp.Protocol.Transport())
}

// refusesOpaque says why a flow whose bytes are not read is denied; it was
// found by name, or by address when name is "".
func (hp *HostPort) refusesOpaque(f *Flow, name string) refusal {
	if hp.guard == nil {
		return refusal{}
	}
	if name == "" {
		name = hp.exactName()
	}
	facts := hp.flowFacts(f, name, true, nil)
	f.Trace.port(hp, &facts)
	return hp.guard.refuses(&facts, false)
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
	// For UDP nothing is known later: hope changes nothing.
	if r := hp.guard.refuses(&f, true); r.reason != "" || hp.Protocol.Transport() == TCP {
		return r
	}
	return hp.guard.refuses(&f, false)
}

// marked adds the marks that the guard of an allowed flow makes.
func (d Decision) marked(f *authFacts) Decision {
	d.Audited, d.DryRun = d.Port.guard.marks(f)
	return d
}

// markedBy adds the marks that another guard on the flow's way makes.
func (d Decision) markedBy(g *guard, f *authFacts) Decision {
	audited, dryRun := g.marks(f)
	d.Audited, d.DryRun = cmp.Or(d.Audited, audited), cmp.Or(d.DryRun, dryRun)
	return d
}

// facts are what is known of a flow that is allowed as own and goes on as the
// gateway's: name is what it is for there, r its request as the gateway sees
// it.
func (l *GatewayListener) facts(f *Flow, own *HostPort, name string, r *Request) authFacts {
	out := own.flowFacts(f, name, false, r)
	out.atGateway(l.Port)
	if r != nil && l.IsTLS() {
		out.sniIs = never // the TLS between workload and gateway is not there
	}
	return out
}

// atGateway turns the facts to a port of a gateway. The address that would be
// dialled there is its own.
func (f *authFacts) atGateway(port uint16) { f.port, f.dst, f.dstIs = port, netip.Prefix{}, never }

// gate is the guard of another destination than the one that a flow asked for.
type gate struct {
	guard *guard
	port  *HostPort
	host  string
}

// facts are what is known of a flow that is allowed as own under a name and
// goes to the gate's destination. The address that was dialled says something
// of that only when it is the one that the flow asked for.
func (g *gate) facts(f *Flow, own *HostPort, name string, r *Request) authFacts {
	// Where the protocols differ, what was read of the flow counts.
	out := own.flowFacts(f, g.host, g.port == own && g.host == name, r)
	out.port = g.port.Number
	return out
}

// refuses says why the gate denies a flow that is allowed as own.
func (g *gate) refuses(f *Flow, own *HostPort, name string, r *Request) refusal {
	facts := g.facts(f, own, name, r)
	f.Trace.gate(g, &facts)
	return g.guard.refuses(&facts, false)
}
