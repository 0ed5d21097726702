// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

const (
	annotationPrefix  = "egressd.dev/"
	annotationPrivate = "egressd.dev/allow-private"
	unixPrefix        = "unix://"
)

// entry is the translation of one ServiceEntry.
type entry struct {
	decoded[networking.ServiceEntry]
	out *policy.Service
}

func (l *loader) serviceEntry(d decoded[networking.ServiceEntry]) *policy.Service {
	e := entry{d, &policy.Service{Ref: d.ref, External: true}}
	e.resolution()
	e.hosts()
	e.addresses()
	e.ports()
	e.endpoints()
	e.shape()
	e.annotations()
	e.decoration()
	l.exportTo(e.object, e.spec("exportTo"), e.v.ExportTo)
	return e.out
}

func (e *entry) resolution() {
	switch e.v.Resolution {
	case networking.ServiceEntry_NONE:
		e.out.Resolution = policy.ResolutionNone
	case networking.ServiceEntry_STATIC:
		e.out.Resolution = policy.ResolutionStatic
	case networking.ServiceEntry_DNS:
		e.out.Resolution = policy.ResolutionDNS
	case networking.ServiceEntry_DNS_ROUND_ROBIN:
		e.out.Resolution = policy.ResolutionDNSRoundRobin
	case networking.ServiceEntry_DYNAMIC_DNS:
		e.out.Resolution = policy.ResolutionDynamicDNS
	default:
		e.errorf(e.spec("resolution"), "unsupported resolution type %s", e.v.Resolution)
	}
}

func (e *entry) isDNS() bool {
	return e.out.Resolution == policy.ResolutionDNS || e.out.Resolution == policy.ResolutionDNSRoundRobin
}

func (e *entry) hosts() {
	if len(e.v.Hosts) == 0 {
		e.errorf(e.spec("hosts"), "service entry must have at least one host")
	}
	seen := make(map[hostname.Pattern]bool, len(e.v.Hosts))
	list := e.spec("hosts")
	for i, s := range e.v.Hosts {
		at := list.at(i)
		h, err := domain(s)
		switch {
		case s == "*":
			e.errorf(at, "invalid host %s", s)
			continue
		case err != nil:
			e.errorf(at, "invalid host: %s", err)
			continue
		}
		dynamic := e.out.Resolution == policy.ResolutionDynamicDNS
		switch {
		case isPartialWildcard(h) && !dynamic:
			e.warnf(at, "partial wildcard %q may not work everywhere that Istio objects do; use \"*.\" and a domain", s)
		case dynamic && !h.IsWildcard():
			e.errorf(at, "hosts must be wildcard for resolution mode DYNAMIC_DNS")
		case e.isDNS() && len(e.v.Endpoints) == 0 && h.IsWildcard():
			e.errorf(at, "hosts must be FQDN if no endpoints are provided for resolution mode %s", e.out.Resolution)
		}
		if seen[h] {
			e.warnf(at, "host %q is listed twice", s)
			continue
		}
		seen[h] = true
		e.out.Hosts = append(e.out.Hosts, h)
	}
}

func (e *entry) addresses() {
	for i, s := range e.v.Addresses {
		at := e.spec("addresses", i)
		p, err := netip.ParsePrefix(s)
		if !strings.Contains(s, "/") {
			var a netip.Addr
			if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
				p = netip.PrefixFrom(a, a.BitLen()) // drops a zone
			}
		} else if r := e.out.Resolution; r != policy.ResolutionNone && r != policy.ResolutionStatic {
			e.errorf(at, "CIDR addresses are allowed only for NONE/STATIC resolution types")
		}
		switch {
		case err != nil || !p.IsValid():
			e.errorf(at, "%q is not a valid IP address or CIDR prefix", s)
			continue
		case p.Addr().Is4In6():
			e.errorf(at, "%q is an IPv4 address in IPv6 form; write it as IPv4", s)
			continue
		case e.out.Resolution == policy.ResolutionDynamicDNS:
			e.errorf(at, "addresses are not allowed for resolution mode DYNAMIC_DNS")
		case p != p.Masked():
			e.warnf(at, "%s has host bits set; it is read as %s", s, p.Masked())
		}
		e.out.Addresses = append(e.out.Addresses, p.Masked())
	}
}

func (e *entry) ports() {
	names, numbers := map[string]bool{}, map[uint32]bool{}
	if len(e.v.Ports) == 0 {
		e.warnf(e.spec("ports"), "no ports: the entry opens nothing")
	}
	for i, p := range e.v.Ports {
		at := e.spec("ports", i)
		if names[p.Name] {
			e.errorf(at.at("name"), "service entry port name %q already defined", p.Name)
		}
		if numbers[p.Number] {
			e.errorf(at.at("number"), "service entry port %d already defined", p.Number)
		}
		names[p.Name], numbers[p.Number] = true, true
		if !isPortName(p.Name) {
			e.errorf(at.at("name"), "invalid port name: %q", p.Name)
		}
		proto, ok := protocolOf(p.Protocol)
		if !ok {
			e.errorf(at.at("protocol"), "unsupported protocol: %s", p.Protocol)
		}
		out := policy.Port{Name: p.Name, Protocol: proto, Number: e.port(at.at("number"), "number", p.Number)}
		if p.TargetPort != 0 {
			out.TargetPort = e.port(at.at("targetPort"), "targetPort", p.TargetPort)
		}
		if e.out.Resolution == policy.ResolutionDynamicDNS && !dynamicProtocol(p.Protocol) {
			e.errorf(at.at("protocol"), "protocol %q is not allowed for resolution mode DYNAMIC_DNS (HTTP, HTTP2, GRPC, TLS)", p.Protocol)
		}
		e.out.Ports = append(e.out.Ports, out)
	}
}

func dynamicProtocol(s string) bool {
	switch strings.ToUpper(s) {
	case "HTTP", "HTTP2", "GRPC", "TLS":
		return true
	}
	return false
}

func (e *entry) endpoints() {
	n := len(e.v.Endpoints)
	list := e.spec("endpoints")
	switch {
	case e.unreadable(e.spec("resolution")): // NONE stands for it
	case n > 0 && e.out.Resolution == policy.ResolutionNone:
		e.errorf(list, "no endpoints should be provided for resolution type none")
	case n > 0 && e.out.Resolution == policy.ResolutionDynamicDNS:
		e.errorf(list, "no endpoints should be provided for resolution mode DYNAMIC_DNS")
	case n > 1 && e.out.Resolution == policy.ResolutionDNSRoundRobin:
		e.errorf(list, "there must only be 0 or 1 endpoint for resolution mode DNS_ROUND_ROBIN, this service entry has %d", n)
	}
	for i, we := range e.v.Endpoints {
		if out, ok := e.endpoint(list.at(i), we); ok {
			e.out.Endpoints = append(e.out.Endpoints, out)
		}
	}
}

func (e *entry) endpoint(at *node, we *networking.WorkloadEntry) (policy.Endpoint, bool) {
	out := policy.Endpoint{Weight: we.Weight}
	address := at.at("address")
	if strings.HasPrefix(we.Address, unixPrefix) {
		e.unixEndpoint(at, we)
		return out, false
	}
	a, err := netip.ParseAddr(we.Address)
	switch {
	case err == nil && (a.Zone() != "" || a.Is4In6()):
		e.errorf(address, "endpoint address %q is not a plain IPv4 or IPv6 address", we.Address)
		return out, false
	case err == nil:
		out.Addr = a
	case e.isDNS():
		if out.Host, err = fqdn(we.Address); err != nil {
			e.errorf(address, "endpoint address %q is not a valid FQDN or an IP address", we.Address)
			return out, false
		}
	default:
		e.errorf(address, "endpoint address %q is not a valid IP address", we.Address)
		return out, false
	}
	ok := true
	for _, name := range slices.Sorted(maps.Keys(we.Ports)) {
		pn := at.at("ports", name)
		if !slices.ContainsFunc(e.v.Ports, func(p *networking.ServicePort) bool { return p.Name == name }) {
			e.errorf(pn, "endpoint port %q is not defined by the service entry", name)
			ok = false
		}
		number := e.port(pn, "endpoint port "+name, we.Ports[name])
		if out.Ports == nil {
			out.Ports = map[string]uint16{}
		}
		out.Ports[name] = number
	}
	if we.Network != "" {
		e.inert(at.at("network"), "endpoint network")
	}
	if we.Locality != "" {
		e.inert(at.at("locality"), "endpoint locality")
	}
	return out, ok
}

func (e *entry) unixEndpoint(at *node, we *networking.WorkloadEntry) {
	path := strings.TrimPrefix(we.Address, unixPrefix)
	address := at.at("address")
	switch {
	case e.out.Resolution != policy.ResolutionStatic:
		e.errorf(address, "unix endpoint %s needs resolution STATIC", we.Address)
	case !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "@"):
		e.errorf(address, "%s is not an absolute path", path)
	case strings.HasSuffix(path, "/"):
		e.errorf(address, "%s is not a file", path)
	case len(we.Ports) > 0:
		e.errorf(at.at("ports"), "unix endpoint %s must not include ports", we.Address)
	case len(e.v.Ports) != 1:
		e.errorf(address, "exactly 1 service port required for unix endpoints")
	default:
		e.unsupported(address, "a unix endpoint")
	}
}

// shape checks what several fields together must satisfy.
func (e *entry) shape() {
	if e.v.WorkloadSelector != nil {
		at := e.spec().keyOf("workloadSelector")
		if len(e.v.Endpoints) > 0 {
			e.errorf(at, "only one of WorkloadSelector or Endpoints is allowed in Service Entry")
		}
		e.unsupported(at, "workloadSelector")
	}
	nameless := slices.IndexFunc(e.out.Ports, func(p policy.Port) bool {
		return !p.Protocol.IsHTTP() && !p.Protocol.IsTLS()
	})
	if nameless < 0 {
		return
	}
	at := e.spec("ports", nameless)
	if len(e.v.Hosts) > 1 && e.out.Resolution != policy.ResolutionNone {
		e.errorf(at, "multiple hosts provided with non-HTTP, non-TLS ports")
	}
}

func (e *entry) annotations() {
	list := e.root.at("metadata", "annotations")
	for _, key := range slices.Sorted(maps.Keys(e.meta.Annotations)) {
		if !strings.HasPrefix(key, annotationPrefix) {
			continue
		}
		value := e.meta.Annotations[key]
		if key != annotationPrivate {
			e.errorf(list.keyOf(key), "unknown annotation %s%s", key, didYouMean(key, []string{annotationPrivate}))
			continue
		}
		allow, err := strconv.ParseBool(value)
		if err != nil {
			e.errorf(list.at(key), "%s: expected \"true\" or \"false\", got %q", key, value)
		}
		e.out.AllowPrivate = allow
	}
}

// decoration names what is read and has no effect.
func (e *entry) decoration() {
	if len(e.v.SubjectAltNames) > 0 {
		e.warnf(e.spec().keyOf("subjectAltNames"), "subjectAltNames is not acted on yet: egressd does not originate TLS")
	}
	if e.v.Location == networking.ServiceEntry_MESH_INTERNAL {
		at := e.spec("location")
		if e.out.Resolution == policy.ResolutionDynamicDNS {
			e.errorf(at, "location MESH_INTERNAL is not allowed for resolution mode DYNAMIC_DNS")
			return
		}
		e.warnf(at, "location MESH_INTERNAL is treated like MESH_EXTERNAL: egressd adds no mutual TLS")
	}
}

// kubernetesName is the absolute name of a Kubernetes Service.
func kubernetesName(name, namespace string) string {
	return fmt.Sprintf("%s.%s.svc.cluster.local", name, namespace)
}
