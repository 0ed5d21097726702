// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

const (
	annotationPrefix  = "egressd.dev/"
	annotationPrivate = "egressd.dev/allow-private"
)

// entry is the translation of one ServiceEntry.
type entry struct {
	decoded[networking.ServiceEntry]
	out *policy.Service
	// names are those of the ports.
	names map[string]bool
}

// decodeServiceEntry reads a ServiceEntry, and translates it at once unless
// that needs other objects.
func decodeServiceEntry(o *object, d *draft) {
	v := &networking.ServiceEntry{}
	o.besideSpec(v)
	if !strictyaml.DecodeProto(o.spec(), v, "spec", &o.Reporter) {
		return
	}
	in := decoded[networking.ServiceEntry]{o, v}
	var short []string // hosts without a dot
	for _, h := range v.Hosts {
		if !strings.Contains(h, ".") {
			short = append(short, strings.ToLower(h))
		}
	}
	if v.WorkloadSelector == nil {
		d.service = serviceEntry(in, nil)
		if len(short) == 0 {
			return
		}
	}
	d.take = func(l *loader) {
		for _, h := range short {
			l.shortHosts[h] = true
		}
		if v.WorkloadSelector != nil {
			l.entries = append(l.entries, in)
		}
	}
}

// translateServiceEntries translates those that need other objects.
func translateServiceEntries(l *loader, _ *policy.Config) {
	for _, d := range l.entries {
		s := l.serviceEntry(d)
		if l.exports[0] != nil && !saysExport(s) {
			s.Export = l.exports[0].of(s.Ref.Namespace)
		}
		l.dependent = append(l.dependent, s)
	}
}

// serviceEntry translates a ServiceEntry with a workloadSelector.
func (l *loader) serviceEntry(d decoded[networking.ServiceEntry]) *policy.Service {
	return serviceEntry(d, l.selected)
}

func serviceEntry(d decoded[networking.ServiceEntry], selected func(*entry)) *policy.Service {
	e := entry{d, &policy.Service{Ref: d.ref, External: true, Created: created(d.meta)}, map[string]bool{}}
	e.resolution()
	e.hosts()
	e.addresses()
	e.ports()
	e.endpoints()
	if selected != nil {
		selected(&e)
	}
	e.shape()
	e.annotations()
	e.decoration()
	e.out.Export = e.exportTo(e.spec("exportTo"), e.v.ExportTo, true)
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
		e.Errorf(e.spec("resolution"), "unsupported resolution type %s", e.v.Resolution)
	}
}

func (e *entry) isDNS() bool {
	return e.out.Resolution == policy.ResolutionDNS || e.out.Resolution == policy.ResolutionDNSRoundRobin
}

func (e *entry) hosts() {
	if len(e.v.Hosts) == 0 {
		e.Errorf(e.spec("hosts"), "service entry must have at least one host")
	}
	seen := make(map[hostname.Pattern]bool, len(e.v.Hosts))
	list := e.spec("hosts")
	for i, s := range e.v.Hosts {
		at := list.At(i)
		h, err := check.Domain(s)
		switch {
		case s == "*":
			e.Errorf(at, "invalid host %s: it would open every name; list the hosts, or domains as in \"*.example.com\" (a MeshConfig with outboundTrafficPolicy ALLOW_ANY opens the node)", s)
			continue
		case err != nil:
			e.Errorf(at, "invalid host: %s", err)
			continue
		}
		dynamic := e.out.Resolution == policy.ResolutionDynamicDNS
		switch {
		case dynamic && !h.IsWildcard():
			e.Errorf(at, "hosts must be wildcard for resolution mode DYNAMIC_DNS")
		case e.isDNS() && len(e.v.Endpoints) == 0 && h.IsWildcard():
			e.Errorf(at, "hosts must be FQDN if no endpoints are provided for resolution mode %s: a wildcard has no address to ask for; write resolution: NONE, which opens the addresses that clients get for names under it, or list the names", e.out.Resolution)
		case check.IsPartialWildcard(h) && !dynamic:
			e.Warnf(at, "partial wildcard %q may not work everywhere that Istio objects do; use \"*.\" and a domain", s)
		}
		if seen[h] {
			e.Warnf(at, "host %q is listed twice", s)
			continue
		}
		seen[h] = true
		e.out.Hosts = append(e.out.Hosts, h)
	}
}

func (e *entry) addresses() {
	for i, s := range e.v.Addresses {
		at := e.spec("addresses", i)
		r := e.out.Resolution
		switch {
		case r == policy.ResolutionDynamicDNS:
			e.Errorf(at, "addresses are not allowed for resolution mode DYNAMIC_DNS")
		case strings.Contains(s, "/") && e.isDNS():
			e.Errorf(at, "CIDR addresses are allowed only for NONE/STATIC resolution types")
		}
		if p, ok := e.Subnet(at, s); ok {
			e.out.Addresses = append(e.out.Addresses, p)
		}
	}
}

func (e *entry) ports() {
	numbers := map[uint32]bool{}
	if len(e.v.Ports) == 0 {
		e.Warnf(e.spec("ports"), "no ports: the entry opens nothing")
	}
	for i, p := range e.v.Ports {
		at := e.spec("ports", i)
		if e.names[p.Name] {
			e.Errorf(at.At("name"), "service entry port name %q already defined", p.Name)
		}
		if numbers[p.Number] {
			e.Errorf(at.At("number"), "service entry port %d already defined", p.Number)
		}
		e.names[p.Name], numbers[p.Number] = true, true
		if !check.IsPortName(p.Name) {
			e.SayCode(code.FormServiceEntry, strictyaml.Error, at.At("name"), "%s", check.PortNameHint(p.Name, p.Protocol, p.Number))
		}
		proto, ok := check.ProtocolOf(p.Protocol)
		if !ok {
			e.Errorf(at.At("protocol"), "unsupported protocol: %s%s", p.Protocol, check.ProtocolHint(p.Protocol))
		}
		out := policy.Port{Name: p.Name, Protocol: proto, Number: e.Port(at.At("number"), "number", p.Number)}
		if at.Has("targetPort") {
			out.TargetPort = e.Port(at.At("targetPort"), "targetPort", p.TargetPort)
		}
		if e.out.Resolution == policy.ResolutionDynamicDNS && !dynamicProtocol(p.Protocol) {
			e.Errorf(at.At("protocol"), "protocol %q is not allowed for resolution mode DYNAMIC_DNS (HTTP, HTTP2, GRPC, TLS)", p.Protocol)
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

// shape checks what several fields together must satisfy.
func (e *entry) shape() {
	if len(e.v.Hosts) > 1 {
		e.manyHosts()
	}
	unix := slices.ContainsFunc(e.out.Endpoints, func(ep policy.Endpoint) bool { return ep.Unix != "" })
	addressed := slices.ContainsFunc(e.out.Endpoints, func(ep policy.Endpoint) bool { return ep.Unix == "" })
	if unix && !addressed && len(e.out.Addresses) == 0 {
		// Istio asks for addresses whenever TCP hosts could not be told apart;
		// here the answers to queries do that, and only a socket has none.
		e.Warnf(e.spec("ports"), "addresses are required for ports serving TCP (or unset) protocol: "+
			"all endpoints are unix sockets, so there is no address to answer queries for the host with")
	}
}

// manyHosts checks that the hosts can be told apart: by the Host header, by
// the SNI, or not at all.
func (e *entry) manyHosts() {
	nameless := slices.IndexFunc(e.out.Ports, func(p policy.Port) bool {
		return !p.Protocol.IsHTTP() && !p.Protocol.IsTLS()
	})
	if nameless >= 0 && e.out.Resolution != policy.ResolutionNone {
		e.Errorf(e.spec("ports", nameless), "multiple hosts provided with non-HTTP, non-TLS ports")
	}
	tcp := slices.IndexFunc(e.out.Ports, func(p policy.Port) bool {
		return p.Protocol == policy.ProtocolTCP || p.Protocol.IsTLS()
	})
	if tcp >= 0 && e.isDNS() && len(e.v.Addresses) > 0 {
		e.Warnf(e.spec("ports", tcp), "service entry can not have more than one host specified simultaneously with address and tcp port")
	}
}

func (e *entry) annotations() {
	list := e.root.At("metadata", "annotations")
	for _, key := range slices.Sorted(maps.Keys(e.meta.Annotations)) {
		if !strings.HasPrefix(key, annotationPrefix) {
			continue
		}
		switch value := e.meta.Annotations[key]; key {
		case annotationPrivate:
			allow, err := strconv.ParseBool(value)
			if err != nil {
				e.Errorf(list.At(key), "%s: expected \"true\" or \"false\", got %q", key, value)
			}
			e.out.AllowPrivate = allow
		case annotationSuppress: // read with the metadata of all objects
		default:
			e.Errorf(list.KeyOf(key), "unknown annotation %s%s", key, strictyaml.DidYouMean(key, []string{annotationPrivate, annotationSuppress}))
		}
	}
}

// decoration names what is read and has no effect.
func (e *entry) decoration() {
	e.out.SubjectAltNames = e.v.SubjectAltNames
	if e.v.Location == networking.ServiceEntry_MESH_INTERNAL {
		e.Warnf(e.spec("location"), "location MESH_INTERNAL is treated like MESH_EXTERNAL: egressd adds no mutual TLS")
	}
}
