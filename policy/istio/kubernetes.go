// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// backing is a Kubernetes Service with the endpoints found for it.
type backing struct {
	decoded[core.Service]
	out *policy.Service
	// index finds an endpoint by its address, to merge what Endpoints and
	// EndpointSlices both say (Kubernetes mirrors the one into the other).
	index map[netip.Addr]int
	// external says that it is an ExternalName, which has no other endpoints.
	external bool
	// endpoints and slices are those of the Service, parts their objects.
	endpoints []decoded[endpoints]
	slices    []decoded[discovery.EndpointSlice]
	parts     []*object
}

func newBacking(d decoded[core.Service]) *backing {
	b := &backing{decoded: d}
	b.begin()
	return b
}

func (b *backing) begin() { b.out, b.index = &policy.Service{}, map[netip.Addr]int{} }

func translateServices(l *loader, cfg *policy.Config) { cfg.Services = l.kubernetesServices() }

// kubernetesServices joins Services with their Endpoints and EndpointSlices.
func (l *loader) kubernetesServices() []*policy.Service {
	byName := make(map[string]*backing, len(l.services))
	all := make([]*backing, 0, len(l.services))
	for _, d := range l.services {
		b := &backing{decoded: d}
		byName[d.ref.Namespace+"/"+d.ref.Name] = b
		all = append(all, b)
	}
	for _, d := range l.endpoints {
		b := byName[d.ref.Namespace+"/"+d.ref.Name]
		if b == nil {
			d.Warnf(d.root.At("metadata", "name"), "there is no Service of this name; the Endpoints are not used")
			b = newBacking(decoded[core.Service]{})
			b.subsets(d)
			continue
		}
		b.endpoints, b.parts = append(b.endpoints, d), append(b.parts, d.object)
	}
	for _, d := range l.slices {
		name := d.meta.Labels[discovery.LabelServiceName]
		b := byName[d.ref.Namespace+"/"+name]
		if b == nil {
			d.Warnf(d.root.At("metadata", "labels"), "there is no Service %q (label %s); the EndpointSlice is not used", name, discovery.LabelServiceName)
			b = newBacking(decoded[core.Service]{})
			b.slice(d)
			continue
		}
		b.slices, b.parts = append(b.slices, d), append(b.parts, d.object)
	}
	out := make([]*policy.Service, 0, len(all))
	for _, b := range all {
		out = append(out, once(l, b.object, b.parts, func() *policy.Service { return b.join(l.exports[0]) }))
	}
	return out
}

// join translates a Service with its endpoints; export is the default for
// exportTo, nil: there is none.
func (b *backing) join(export *visibility) *policy.Service {
	b.begin()
	b.service()
	if export != nil && b.meta.Annotations[exportAnnotation] == "" {
		b.out.Export = export.of(b.ref.Namespace)
	}
	for _, d := range b.endpoints {
		b.subsets(d)
	}
	for _, d := range b.slices {
		b.slice(d)
	}
	b.clusterIP()
	return b.out
}

func (b *backing) service() {
	b.out.Ref, b.out.Resolution = b.ref, policy.ResolutionStatic
	b.out.ClusterIPs = clusterIPs(b.v)
	b.out.Selector, b.out.Export = b.v.Spec.Selector, b.annotatedExport()
	h, err := hostname.ParsePattern(model.KubernetesName(b.ref.Name, b.ref.Namespace))
	if err != nil || !check.IsLabel(b.ref.Name) {
		b.Errorf(b.root.At("metadata", "name"), "%q is not a name for a Service (DNS-1123 label)", b.ref.Name)
		return
	}
	b.out.Hosts = []hostname.Pattern{h}
	for i, p := range b.v.Spec.Ports {
		b.servicePort(b.spec("ports", i), p)
	}
	if b.v.Spec.Type != core.ServiceTypeExternalName {
		return
	}
	at := b.spec("externalName")
	name, err := check.FQDN(b.v.Spec.ExternalName)
	if err != nil {
		b.Errorf(at, "externalName: %s", err)
		return
	}
	// A name for a name, whose addresses are found when they are needed.
	b.external = true
	b.out.Resolution = policy.ResolutionDNS
	b.out.Endpoints = []policy.Endpoint{{Host: name}}
	if len(b.out.Ports) == 0 {
		b.Warnf(at, "an ExternalName Service without ports: routes to it are answered with 503; give it the port of %s", name)
	}
}

func (b *backing) servicePort(at *strictyaml.Node, p core.ServicePort) {
	out := policy.Port{Name: p.Name}
	if p.Port < 1 || p.Port > 65535 {
		b.Errorf(at.At("port"), "port number %d must be in the range 1..65535", p.Port)
		return
	}
	out.Number = uint16(p.Port)
	switch p.Protocol {
	case "", core.ProtocolTCP:
		out.Protocol = sniffable(p)
	case core.ProtocolUDP:
		out.Protocol = policy.ProtocolUDP
	default:
		b.Warnf(at.At("protocol"), "protocol %s is not acted on; the port is left out", p.Protocol)
		return
	}
	if p.TargetPort.Type == intstr.Int && p.TargetPort.IntVal != 0 {
		if p.TargetPort.IntVal < 1 || p.TargetPort.IntVal > 65535 {
			b.Errorf(at.At("targetPort"), "targetPort %d must be in the range 1..65535", p.TargetPort.IntVal)
			return
		}
		out.TargetPort = uint16(p.TargetPort.IntVal)
	}
	if slices.ContainsFunc(b.out.Ports, func(o policy.Port) bool {
		return o.Number == out.Number && o.Protocol.Transport() == out.Protocol.Transport()
	}) {
		b.Errorf(at.At("port"), "port %d/%s is already defined", out.Number, out.Protocol.Transport())
		return
	}
	b.out.Ports = append(b.out.Ports, out)
}

// sniffable is Istio's choice of a TCP port's protocol: appProtocol, then the
// port's name up to the first '-', then what the number is known for.
func sniffable(p core.ServicePort) policy.Protocol {
	if p.AppProtocol != nil {
		switch *p.AppProtocol {
		case "kubernetes.io/h2c":
			return policy.ProtocolHTTP2
		case "kubernetes.io/ws":
			return policy.ProtocolHTTP
		case "kubernetes.io/wss":
			return policy.ProtocolHTTPS
		}
		if proto, ok := check.ProtocolOf(*p.AppProtocol); ok && proto != policy.ProtocolUDP {
			return proto
		}
	}
	name := p.Name
	if strings.HasPrefix(name, "grpc-web") {
		return policy.ProtocolHTTP
	}
	name, _, _ = strings.Cut(name, "-")
	if proto, ok := check.ProtocolOf(name); ok && name != "" && proto != policy.ProtocolUDP {
		return proto
	}
	switch p.Port {
	case 25, 53, 3306, 27017: // servers that speak first
		return policy.ProtocolTCP
	}
	return policy.ProtocolUnset
}

func (b *backing) subsets(d decoded[endpoints]) {
	for i := range d.v.Subsets {
		b.subset(d, i)
	}
}

func (b *backing) subset(d decoded[endpoints], i int) {
	at := d.root.At("subsets", i)
	ports := map[string]uint16{}
	for j, p := range d.v.Subsets[i].Ports {
		if n := d.Port(at.At("ports", j, "port"), "port", uint32(max(p.Port, 0))); n != 0 {
			ports[p.Name] = n
		}
	}
	for j, a := range d.v.Subsets[i].Addresses {
		b.add(&d.Reporter, at.At("addresses", j, "ip"), a.IP, ports)
	}
}

func (b *backing) slice(d decoded[discovery.EndpointSlice]) {
	if d.v.AddressType == discovery.AddressTypeFQDN {
		d.Inert(d.root.At("addressType"), "addressType FQDN")
		return
	}
	ports := map[string]uint16{}
	for i, p := range d.v.Ports {
		if p.Port == nil {
			continue // all ports: the service's own numbers hold
		}
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		if n := d.Port(d.root.At("ports", i, "port"), "port", uint32(max(*p.Port, 0))); n != 0 {
			ports[name] = n
		}
	}
	for i, ep := range d.v.Endpoints {
		if ep.Conditions.Ready != nil && !*ep.Conditions.Ready {
			continue
		}
		for j, a := range ep.Addresses {
			b.add(&d.Reporter, d.root.At("endpoints", i, "addresses", j), a, ports)
		}
	}
}

// add merges an endpoint address into the service.
func (b *backing) add(p *strictyaml.Reporter, at *strictyaml.Node, address string, ports map[string]uint16) {
	a, err := netip.ParseAddr(address)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		p.Errorf(at, "%q is not a valid IP address", address)
		return
	}
	if b.external {
		p.Warnf(at, "the Service is an ExternalName; its endpoints are not used")
		return
	}
	i, known := b.index[a]
	if !known {
		i = len(b.out.Endpoints)
		b.index[a] = i
		b.out.Endpoints = append(b.out.Endpoints, policy.Endpoint{Addr: a})
	}
	ep := &b.out.Endpoints[i]
	for name, number := range ports {
		if ep.Ports == nil {
			ep.Ports = make(map[string]uint16, len(ports))
		}
		ep.Ports[name] = number
	}
}

// clusterIP makes the cluster address stand for endpoints that nobody listed:
// the node's kube-proxy knows them.
func (b *backing) clusterIP() {
	if len(b.out.Endpoints) > 0 || b.external {
		return
	}
	addresses := b.v.Spec.ClusterIPs
	if len(addresses) == 0 && b.v.Spec.ClusterIP != "" {
		addresses = []string{b.v.Spec.ClusterIP}
	}
	// The cluster address listens on the service's ports, not on the targets.
	ports := map[string]uint16{}
	for _, p := range b.out.Ports {
		ports[p.Name] = p.Number
	}
	for _, s := range addresses {
		if s == core.ClusterIPNone {
			continue
		}
		b.add(&b.Reporter, b.spec("clusterIP"), s, ports)
	}
}

// clusterIPs are the addresses of a Service that are the cluster's to give.
func clusterIPs(s *core.Service) (out []netip.Addr) {
	list := s.Spec.ClusterIPs
	if len(list) == 0 && s.Spec.ClusterIP != "" {
		list = []string{s.Spec.ClusterIP}
	}
	if s.Spec.Type == core.ServiceTypeExternalName {
		return nil
	}
	for _, text := range list {
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" && !a.Is4In6() {
			out = append(out, a)
		}
	}
	return out
}
