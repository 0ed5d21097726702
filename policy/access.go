// SPDX-License-Identifier: Apache-2.0

package policy

import "net/netip"

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
	return hp.guard.refuses(&facts, false)
}

// refusal says why nothing of what may come is allowed.
func (hp *HostPort) refusal(name string, a netip.Addr) refusal {
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

// gate is a guard that a flow passes on its way besides that of the host it
// asked for: of another destination, or of an egress gateway.
type gate struct {
	guard *guard
	// port is the destination there; nil for a gateway, which is asked about
	// the flow's own.
	port *HostPort
	host string // "": the flow's own
}

// refuses says why the gate denies a flow that is allowed as own.
func (g *gate) refuses(f *Flow, own *HostPort, name string, r *Request) refusal {
	if g.guard == nil || g.port == own && g.host == name { // where it is anyway
		return refusal{}
	}
	hp := own
	if g.port != nil {
		hp, name = g.port, g.host
	}
	// Where the protocols differ, what was read of the flow counts.
	facts := own.flowFacts(f, name, false, r)
	facts.port = hp.Number
	return g.guard.refuses(&facts, false)
}
