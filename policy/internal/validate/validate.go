// SPDX-License-Identifier: Apache-2.0

// Package validate checks what could not be given a safe meaning in a
// configuration. What only Istio's schema asks for is policy/istio's to check.
package validate

import (
	"math"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// Errorf notes what is wrong with an object.
type Errorf = func(ref config.Ref, format string, args ...any)

// check notes what is wrong.
type check struct{ errorf Errorf }

// hosts checks that there are hosts and that they are normalized.
func (c check) hosts(ref config.Ref, hosts []hostname.Pattern) {
	if len(hosts) == 0 {
		c.errorf(ref, "hosts: there is none")
	}
	for _, h := range hosts {
		if a, err := netip.ParseAddr(string(h)); err == nil && a.String() == string(h) {
			continue // a VirtualService may be about an address
		}
		switch p, err := hostname.ParsePattern(string(h)); {
		case err != nil:
			c.errorf(ref, "hosts: %v", err)
		case p != h:
			c.errorf(ref, "hosts: %q is not normalized", h)
		}
	}
}

// Service checks a service.
func Service(s *config.Service, errorf Errorf) {
	c := check{errorf}
	c.hosts(s.Ref, s.Hosts)
	if slices.ContainsFunc(s.Hosts, func(h hostname.Pattern) bool { return strings.Contains(string(h), ":") }) {
		c.errorf(s.Ref, "hosts: an address is not a name")
	}
	if slices.Contains(s.Hosts, "*") {
		c.errorf(s.Ref, `hosts: "*" would open every name`)
	}
	if !s.Resolution.Valid() {
		c.errorf(s.Ref, "resolution %d is unknown", s.Resolution)
	}
	for _, a := range s.Addresses {
		if !a.IsValid() || a.Addr().Is4In6() && a.Bits() < 96 {
			c.errorf(s.Ref, "addresses: %v is not an address or a prefix", a)
		}
	}
	type key struct {
		number    uint16
		transport config.Transport
	}
	seen := map[key]bool{}
	for _, p := range s.Ports {
		k := key{p.Number, p.Protocol.Transport()}
		switch {
		case p.Number == 0:
			c.errorf(s.Ref, "ports: 0 is not a port number")
		case !p.Protocol.Valid():
			c.errorf(s.Ref, "port %d: protocol %d is unknown", p.Number, p.Protocol)
		case seen[k]:
			c.errorf(s.Ref, "port %d is there twice", p.Number)
		}
		seen[k] = true
	}
	if s.External && s.Resolution == config.ResolutionNone && len(s.Endpoints) > 0 {
		c.errorf(s.Ref, "endpoints: resolution NONE has none")
	}
	for _, e := range s.Endpoints {
		c.endpoint(s, e)
	}
}

func (c check) endpoint(s *config.Service, e config.Endpoint) {
	switch {
	case e.Unix != "":
		c.socket(s, e)
	case e.Host == "" && !e.Addr.IsValid():
		c.errorf(s.Ref, "endpoints: one has no address")
	case e.Host == "" && e.Addr.Zone() != "":
		c.errorf(s.Ref, "endpoints: %v has a zone", e.Addr)
	case e.Host == "":
	case e.Addr.IsValid():
		c.errorf(s.Ref, "endpoints: %q has an address as well", e.Host)
	case s.Resolution == config.ResolutionStatic:
		c.errorf(s.Ref, "endpoints: %q is not an IP address", e.Host)
	default:
		if n, err := hostname.Normalize(e.Host); err != nil || n != e.Host {
			c.errorf(s.Ref, "endpoints: %q is not a normalized name", e.Host)
		}
	}
}

// socket checks an endpoint that is a socket in the file system. It
// is for the forwarding core alone, which has no UDP.
func (c check) socket(s *config.Service, e config.Endpoint) {
	switch {
	case e.Addr.IsValid() || e.Host != "":
		c.errorf(s.Ref, "endpoints: unix %q has an address as well", e.Unix)
	case s.Resolution != config.ResolutionStatic:
		c.errorf(s.Ref, "endpoints: unix %q needs resolution STATIC", e.Unix)
	case e.Unix[0] != '/' && e.Unix[0] != '@':
		c.errorf(s.Ref, "endpoints: unix %q is neither an absolute path nor an abstract name", e.Unix)
	case slices.ContainsFunc(s.Endpoints, func(o config.Endpoint) bool { return o.Unix == "" }):
		c.errorf(s.Ref, "endpoints: some are unix sockets and some are not")
	case slices.ContainsFunc(s.Ports, func(p config.Port) bool { return p.Protocol.Transport() == config.UDP }):
		c.errorf(s.Ref, "endpoints: a unix socket cannot serve a UDP port")
	}
}

// VirtualService checks rules but for what they match.
func VirtualService(vs *config.VirtualService, errorf Errorf) {
	c := check{errorf}
	c.hosts(vs.Ref, vs.Hosts)
	if len(vs.Gateways) == 0 {
		c.errorf(vs.Ref, "gateways: there is none")
	}
	if slices.Contains(vs.Gateways, config.MeshGateway) && slices.Contains(vs.Hosts, "*") {
		c.errorf(vs.Ref, `hosts: "*" is for gateways only`)
	}
	for _, r := range vs.HTTP {
		c.rule(r)
	}
}

func (c check) rule(r *config.HTTPRule) {
	set := 0
	for _, is := range [...]bool{len(r.Route) > 0, r.Redirect != nil, r.DirectResponse != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		c.errorf(r.Ref, "an HTTP rule needs exactly one of route, redirect and directResponse")
	}
	sum := uint64(0)
	for _, d := range r.Route {
		sum += uint64(d.Weight)
	}
	if len(r.Route) > 1 && sum == 0 {
		c.errorf(r.Ref, "route: the sum of the weights is 0")
	}
	if sum > math.MaxUint32 {
		c.errorf(r.Ref, "route: the sum of the weights is too large")
	}
	if r.Rewrite != nil && r.Rewrite.RegexMatch != "" {
		if _, err := match.FullMatch(r.Rewrite.RegexMatch); err != nil {
			c.errorf(r.Ref, "rewrite: %v", err)
		}
	}
	if r.CORS != nil {
		if _, err := match.NewCORSFilter(r.CORS); err != nil {
			c.errorf(r.Ref, "CORS policy: %v", err)
		}
	}
	for _, m := range r.Mirrors {
		if !(m.Percent >= 0 && m.Percent <= 100) {
			c.errorf(r.Ref, "mirror: %v is no percentage", m.Percent)
		}
	}
}

// Gateway checks a gateway and its servers.
func Gateway(g *config.Gateway, errorf Errorf) {
	if len(g.Servers) == 0 {
		errorf(g.Ref, "a Gateway needs a server")
	}
	c := check{errorf}
	for i := range g.Servers {
		c.server(g, &g.Servers[i])
	}
}

func (c check) server(g *config.Gateway, s *config.GatewayServer) {
	ref := s.Ref
	if ref == (config.Ref{}) {
		ref = g.Ref
	}
	c.hosts(ref, s.Hosts)
	switch {
	case s.Unix == "" && s.Port == 0:
		c.errorf(ref, "port: 0 is not a port number")
	case s.Unix != "" && (s.Port != 0 || s.Bind.IsValid() || !path.IsAbs(s.Unix) || path.Clean(s.Unix) != s.Unix):
		c.errorf(ref, "bind: a unix socket has an absolute path, and neither address nor port")
	}
	switch {
	case s.Protocol == config.ProtocolUnset || s.Protocol == config.ProtocolUDP || !s.Protocol.Valid():
		c.errorf(ref, "port %d: protocol %q is not supported on a gateway", s.Port, s.Protocol)
	case s.Protocol.IsTLS() && s.TLS == nil:
		c.errorf(ref, "port %d: a server with protocol %v needs tls", s.Port, s.Protocol)
	case s.HTTPSRedirect && !s.ServesHTTP():
		c.errorf(ref, "port %d: httpsRedirect is for HTTP", s.Port)
	}
	if s.Bind != (netip.Addr{}) && s.Bind.Zone() != "" {
		c.errorf(ref, "bind: %v has a zone", s.Bind)
	}
	if len(s.HostNamespaces) != len(s.Hosts) {
		c.errorf(ref, "policy: a gateway server needs a namespace for each host")
	}
}
