// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"net/netip"
	"slices"

	"github.com/egressd/egressd/policy"
)

// opening is what a ServiceEntry opens at an address.
type opening struct {
	address   netip.Prefix
	port      uint16
	transport policy.Transport
}

// opened says who opens it first.
type opened struct {
	service *policy.Service
	port    *policy.Port
}

// conflicts warns about ServiceEntries that open one address and port
// differently, where nothing but the address tells their traffic apart. Hosts
// without addresses of their own are told apart by what their names resolve
// to, HTTP requests by their Host and TLS by its SNI.
func (a *analysis) conflicts() {
	first := map[opening][]opened{}
	for _, s := range a.cfg.Services {
		if !s.External {
			continue
		}
		for j := range s.Ports {
			for _, o := range openings(s, &s.Ports[j]) {
				p := &s.Ports[j]
				for _, other := range first[o] {
					if other.service == s || !apart(other, opened{s, p}) || !overlap(other.service.Export, s.Export) {
						continue
					}
					d := a.part(s.Ref)
					d.Warnf(d.spec("ports", j), "port %d of %s is opened by ServiceEntry %s/%s (%s) as well, %s, "+
						"and only the address tells the two apart: the first has its way",
						o.port, plainAddress(o.address), other.service.Ref.Namespace, other.service.Ref.Name,
						other.service.Ref.Position(), difference(other.port, p))
					break
				}
				if len(first[o]) < 2 { // with more of them the first is named anyway
					first[o] = append(first[o], opened{s, p})
				}
			}
		}
	}
}

// openings are the addresses where s opens p by itself.
func openings(s *policy.Service, p *policy.Port) []opening {
	if len(s.Addresses) == 0 && s.Resolution != policy.ResolutionStatic {
		return nil
	}
	transport := p.Protocol.Transport()
	var out []opening
	for _, a := range s.Addresses {
		out = append(out, opening{a, p.Number, transport})
	}
	if s.Resolution != policy.ResolutionStatic {
		return out
	}
	for _, e := range s.Endpoints {
		if e.Addr.IsValid() {
			out = append(out, opening{netip.PrefixFrom(e.Addr, e.Addr.BitLen()), p.Number, transport})
		}
	}
	return out
}

// apart says whether traffic for one must not be taken for traffic of the other.
func apart(a, b opened) bool {
	x, y := a.port.Protocol, b.port.Protocol
	if x.IsHTTP() && y.IsHTTP() || x.IsTLS() && y.IsTLS() {
		return false // the name in it decides
	}
	if x != y {
		return true
	}
	return !sameUpstream(a, b)
}

// sameUpstream says whether connections go to the same place in both.
func sameUpstream(a, b opened) bool {
	if a.service.Resolution != b.service.Resolution || a.port.TargetPort != b.port.TargetPort {
		return false
	}
	switch a.service.Resolution {
	case policy.ResolutionNone:
		return true
	case policy.ResolutionStatic:
	default:
		if len(a.service.Endpoints)+len(b.service.Endpoints) == 0 {
			return slices.Equal(a.service.Hosts, b.service.Hosts)
		}
	}
	return slices.EqualFunc(a.service.Endpoints, b.service.Endpoints, func(x, y policy.Endpoint) bool {
		return x.Addr == y.Addr && x.Host == y.Host && x.Unix == y.Unix && x.Ports[a.port.Name] == y.Ports[b.port.Name]
	})
}

func plainAddress(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// difference says in what two openings of one port differ.
func difference(there, here *policy.Port) string {
	if there.Protocol == here.Protocol {
		return "for another upstream"
	}
	return "as " + describePort(there) + " there and as " + describePort(here) + " here"
}

func describePort(p *policy.Port) string {
	if p.Protocol == policy.ProtocolUnset {
		return "a port without protocol"
	}
	return p.Protocol.String()
}
