// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/authz"
)

// classify chooses what the kernel does with flows that hp allows: what the
// address alone decides goes straight there or to an endpoint of the service,
// TLS as well once the kernel has read an allowed name, and what needs more
// than that goes through the forwarding core. named says that the name is
// known for which the address stands.
func (hp *HostPort) classify(to Endpoints, kernel, named bool) Way {
	switch pr := hp.Protocol; {
	case pr.Transport() == UDP && hp.Upstream.unreachable():
		return Way{} // nor one that could refuse it later
	case pr.Transport() == UDP && !kernel:
		return Way{Verdict: Direct} // there is no forwarding core for it
	case pr.IsHTTP() || pr == ProtocolUnset || !kernel || hp.routed || hp.Upstream.unsupported():
		return Way{Verdict: Proxy}
	case !pr.IsTLS():
		return Way{Verdict: Direct, To: to}
	case named && hp.sniVerdict == Proxy:
		return Way{Verdict: Proxy}
	case named:
		return Way{Verdict: hp.sniVerdict, To: to}
	}
	return Way{Verdict: Proxy}
}

// settle computes the ways of learned addresses, and the port's verdict: what
// happens at the addresses that egressd itself answers for the host, or else
// at learned ones.
func (hp *HostPort) settle(h *Host, r *reach) {
	for i := range hp.learned {
		hp.learned[i] = hp.classify(r.to[i], r.kernel[i], true)
	}
	if h.Own && len(h.Answers) > 0 {
		var w Way
		for _, a := range h.Answers {
			prefix := netip.PrefixFrom(a, a.BitLen())
			at, _ := hp.static(r, prefix, hp.Number)
			at = at.limit(hp.staticAccess(prefix), hp.Protocol.Transport())
			w = w.Join(Way{Verdict: at.Verdict}, hp.Protocol.Transport())
		}
		hp.Verdict = w.Verdict
		return
	}
	hp.Verdict = hp.learned[ipv4].Verdict
	if hp.Verdict == Proxy {
		hp.Verdict = hp.learned[ipv6].Verdict
	}
	if hp.authorizer != nil {
		f := hp.kernelFacts(hp.exactName(), netip.Prefix{})
		hp.Verdict = Way{Verdict: hp.Verdict}.limit(hp.authorizer.Access(&f), hp.Protocol.Transport()).Verdict
	}
}

// staticAccess is what the authorizer says of flows to a prefix that the service
// itself names.
func (hp *HostPort) staticAccess(prefix netip.Prefix) authz.Access {
	if hp.authorizer == nil {
		return authz.AllowAll
	}
	f := hp.kernelFacts(hp.exactName(), prefix)
	return hp.authorizer.Access(&f)
}

// Indices by family.
const (
	ipv6 = iota
	ipv4
)

func family(a netip.Addr) int {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// Way is what the kernel does with flows to an address that was learned for
// the host, as far as AuthorizationPolicies have nothing against it.
func (hp *HostPort) Way(a netip.Addr) Way {
	return hp.learned[family(a.Unmap())]
}

// static is what the kernel does with flows to a prefix that the service
// itself names, and the name that a ClientHello must carry there; "" for none.
func (hp *HostPort) static(r *reach, prefix netip.Prefix, port uint16) (Way, string) {
	to, kernel := r.at(prefix, port)
	// Names are proved by addresses, not by prefixes, and a pattern is no name.
	name := ""
	if p := hostname.Pattern(hp.Upstream.Host); prefix.IsSingleIP() && !p.IsWildcard() {
		name = string(p)
	}
	w := hp.classify(to, kernel, name != "")
	if w.Verdict != Inspect {
		name = ""
	}
	return w, name
}

// reach is how the kernel gets to an upstream.
type reach struct {
	// to and kernel are for flows that dial the service's port, by family.
	to     [2]Endpoints
	kernel [2]bool
	// own are the upstream's endpoints.
	own map[netip.Addr][]UpstreamEndpoint
	// steered: nothing is for the kernel.
	steered bool
}

func newReach(u *Upstream) *reach {
	r := &reach{}
	if len(u.Endpoints) > 0 {
		r.own = make(map[netip.Addr][]UpstreamEndpoint, len(u.Endpoints))
	}
	for _, e := range u.Endpoints {
		r.own[e.Addr.Addr()] = append(r.own[e.Addr.Addr()], e)
	}
	for _, f := range [...]int{ipv6, ipv4} {
		r.to[f], r.kernel[f] = u.reach(f == ipv4)
	}
	r.steered = u.steered()
	return r
}

// at says where the kernel sends flows that dial a prefix on a port. Who dials
// an endpoint of the service gets that one.
func (r *reach) at(prefix netip.Prefix, port uint16) (to Endpoints, kernel bool) {
	f := family(prefix.Addr())
	if prefix.IsSingleIP() && !r.steered {
		own := r.own[prefix.Addr()]
		for _, e := range own {
			if e.Addr.Port() == port {
				return Endpoints{}, true
			}
		}
		if len(own) > 0 {
			return kernelEndpoints(own, f == ipv4)
		}
	}
	return r.to[f], r.kernel[f]
}

// reach says where the kernel sends flows that dial an address of a family on
// the service's port. It is not for the kernel when names have to be resolved,
// or when there is no endpoint of the family.
func (u *Upstream) reach(is4 bool) (to Endpoints, kernel bool) {
	switch {
	case u.steered():
		return Endpoints{}, false
	case u.Resolution == ResolutionNone:
	case len(u.Endpoints) > 0:
		if len(u.Names) > 0 {
			return Endpoints{}, false
		}
		return kernelEndpoints(u.Endpoints, is4)
	case u.virtual || u.Resolution == ResolutionStatic:
		return Endpoints{}, false
	default:
		for _, n := range u.Names {
			if n.Name != u.Host {
				return Endpoints{}, false
			}
		}
	}
	if u.TargetPort != u.Port {
		return onPort(u.TargetPort), true
	}
	return Endpoints{}, true
}

// kernelEndpoints are the endpoints of one family. Loopback is the forwarding
// core's to dial: it is the node's there, and the workload's own in connect().
func kernelEndpoints(list []UpstreamEndpoint, is4 bool) (to Endpoints, kernel bool) {
	var usable []UpstreamEndpoint
	for _, e := range list {
		switch a := e.Addr.Addr(); {
		case e.Unix != "":
			return Endpoints{}, false
		case a.Is4() != is4:
		case a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), a.Is6() && a.IsLinkLocalUnicast():
			return Endpoints{}, false
		default:
			usable = append(usable, e)
		}
	}
	if len(usable) == 0 || len(usable) > MaxEndpoints {
		return Endpoints{}, false
	}
	return NewEndpoints(usable), true
}
