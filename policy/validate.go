// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/authz"
	"github.com/egressd/egressd/policy/internal/match"
)

// validate notes what Compile could not give a safe meaning to. What only
// Istio's schema asks for is policy/istio's to check.
func (b *builder) validate() {
	for _, s := range b.added { // the others were good before
		b.validateService(s)
	}
	for _, vs := range b.cfg.VirtualServices {
		b.validateVirtualService(vs)
	}
	for _, a := range b.cfg.Authorizations {
		authz.Validate(a, b.errorf)
	}
	for _, g := range b.cfg.Gateways {
		if len(g.Servers) == 0 {
			b.errorf(g.Ref, "a Gateway needs a server")
		}
		for i := range g.Servers {
			b.validateServer(g, &g.Servers[i])
		}
	}
}

// validateHosts checks that there are hosts and that they are normalized.
func (b *builder) validateHosts(ref Ref, hosts []hostname.Pattern) {
	if len(hosts) == 0 {
		b.errorf(ref, "hosts: there is none")
	}
	for _, h := range hosts {
		if a, err := netip.ParseAddr(string(h)); err == nil && a.String() == string(h) {
			continue // a VirtualService may be about an address
		}
		switch p, err := hostname.ParsePattern(string(h)); {
		case err != nil:
			b.errorf(ref, "hosts: %v", err)
		case p != h:
			b.errorf(ref, "hosts: %q is not normalized", h)
		}
	}
}

func (b *builder) validateService(s *Service) {
	b.validateHosts(s.Ref, s.Hosts)
	if slices.ContainsFunc(s.Hosts, func(h hostname.Pattern) bool { return strings.Contains(string(h), ":") }) {
		b.errorf(s.Ref, "hosts: an address is not a name")
	}
	if slices.Contains(s.Hosts, "*") {
		b.errorf(s.Ref, `hosts: "*" would open every name`)
	}
	if !s.Resolution.Valid() {
		b.errorf(s.Ref, "resolution %d is unknown", s.Resolution)
	}
	for _, a := range s.Addresses {
		if !a.IsValid() || a.Addr().Is4In6() && a.Bits() < 96 {
			b.errorf(s.Ref, "addresses: %v is not an address or a prefix", a)
		}
	}
	type key struct {
		number    uint16
		transport Transport
	}
	seen := map[key]bool{}
	for _, p := range s.Ports {
		k := key{p.Number, p.Protocol.Transport()}
		switch {
		case p.Number == 0:
			b.errorf(s.Ref, "ports: 0 is not a port number")
		case !p.Protocol.Valid():
			b.errorf(s.Ref, "port %d: protocol %d is unknown", p.Number, p.Protocol)
		case seen[k]:
			b.errorf(s.Ref, "port %d is there twice", p.Number)
		}
		seen[k] = true
	}
	if s.External && s.Resolution == ResolutionNone && len(s.Endpoints) > 0 {
		b.errorf(s.Ref, "endpoints: resolution NONE has none")
	}
	for _, e := range s.Endpoints {
		b.validateEndpoint(s, e)
	}
}

func (b *builder) validateEndpoint(s *Service, e Endpoint) {
	switch {
	case e.Unix != "":
		b.validateSocket(s, e)
	case e.Host == "" && !e.Addr.IsValid():
		b.errorf(s.Ref, "endpoints: one has no address")
	case e.Host == "" && e.Addr.Zone() != "":
		b.errorf(s.Ref, "endpoints: %v has a zone", e.Addr)
	case e.Host == "":
	case e.Addr.IsValid():
		b.errorf(s.Ref, "endpoints: %q has an address as well", e.Host)
	case s.Resolution == ResolutionStatic:
		b.errorf(s.Ref, "endpoints: %q is not an IP address", e.Host)
	default:
		if n, err := hostname.Normalize(e.Host); err != nil || n != e.Host {
			b.errorf(s.Ref, "endpoints: %q is not a normalized name", e.Host)
		}
	}
}

// validateSocket checks an endpoint that is a socket in the file system. It
// is for the forwarding core alone, which has no UDP.
func (b *builder) validateSocket(s *Service, e Endpoint) {
	switch {
	case e.Addr.IsValid() || e.Host != "":
		b.errorf(s.Ref, "endpoints: unix %q has an address as well", e.Unix)
	case s.Resolution != ResolutionStatic:
		b.errorf(s.Ref, "endpoints: unix %q needs resolution STATIC", e.Unix)
	case e.Unix[0] != '/' && e.Unix[0] != '@':
		b.errorf(s.Ref, "endpoints: unix %q is neither an absolute path nor an abstract name", e.Unix)
	case slices.ContainsFunc(s.Endpoints, func(o Endpoint) bool { return o.Unix == "" }):
		b.errorf(s.Ref, "endpoints: some are unix sockets and some are not")
	case slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Protocol.Transport() == UDP }):
		b.errorf(s.Ref, "endpoints: a unix socket cannot serve a UDP port")
	}
}

func (b *builder) validateVirtualService(vs *VirtualService) {
	b.validateHosts(vs.Ref, vs.Hosts)
	if len(vs.Gateways) == 0 {
		b.errorf(vs.Ref, "gateways: there is none")
	}
	if slices.Contains(vs.Gateways, meshGateway) && slices.Contains(vs.Hosts, "*") {
		b.errorf(vs.Ref, `hosts: "*" is for gateways only`)
	}
	for _, r := range vs.HTTP {
		b.validateRule(r)
	}
}

func (b *builder) validateRule(r *HTTPRule) {
	set := 0
	for _, is := range [...]bool{len(r.Route) > 0, r.Redirect != nil, r.DirectResponse != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		b.errorf(r.Ref, "an HTTP rule needs exactly one of route, redirect and directResponse")
	}
	sum := uint64(0)
	for _, d := range r.Route {
		sum += uint64(d.Weight)
	}
	if len(r.Route) > 1 && sum == 0 {
		b.errorf(r.Ref, "route: the sum of the weights is 0")
	}
	if sum > math.MaxUint32 {
		b.errorf(r.Ref, "route: the sum of the weights is too large")
	}
	for _, m := range r.Matches {
		b.matcher(r, m)
	}
	if r.Rewrite != nil && r.Rewrite.RegexMatch != "" {
		if _, err := match.FullMatch(r.Rewrite.RegexMatch); err != nil {
			b.errorf(r.Ref, "rewrite: %v", err)
		}
	}
}

func (b *builder) validateServer(g *Gateway, s *GatewayServer) {
	ref := s.Ref
	if ref == (Ref{}) {
		ref = g.Ref
	}
	b.validateHosts(ref, s.Hosts)
	if s.Port == 0 {
		b.errorf(ref, "port: 0 is not a port number")
	}
	switch {
	case s.Protocol == ProtocolUnset || s.Protocol == ProtocolUDP || !s.Protocol.Valid():
		b.errorf(ref, "port %d: protocol %q is not supported on a gateway", s.Port, s.Protocol)
	case s.Protocol.IsTLS() && s.TLS == nil:
		b.errorf(ref, "port %d: a server with protocol %v needs tls", s.Port, s.Protocol)
	case s.HTTPSRedirect && !s.ServesHTTP():
		b.errorf(ref, "port %d: httpsRedirect is for HTTP", s.Port)
	}
	if s.Bind != (netip.Addr{}) && s.Bind.Zone() != "" {
		b.errorf(ref, "bind: %v has a zone", s.Bind)
	}
	if len(s.HostNamespaces) != len(s.Hosts) {
		b.errorf(ref, "policy: a gateway server needs a namespace for each host")
	}
}
