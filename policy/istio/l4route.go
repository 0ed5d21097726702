// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"math"
	"net/netip"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// tlsRule reads an entry of `tls`. hosts are those of the VirtualService as
// they are written, for what SNI may name.
func (l *loader) tlsRule(d decoded[networking.VirtualService], at *strictyaml.Node, r *networking.TLSRoute, hosts map[hostname.Pattern]*strictyaml.Node) *policy.TLSRule {
	out := &policy.TLSRule{Ref: d.ref}
	out.Ref.Line, out.Ref.Column = at.Line, at.Col
	if len(r.Match) == 0 {
		d.Errorf(at, "TLS route must have at least one match condition")
	}
	for i, m := range r.Match {
		mn := at.At("match", i)
		match := d.l4Match(mn, m)
		match.SNIHosts = d.sniHosts(mn.At("sniHosts"), m.SniHosts, d.v.Hosts, hosts)
		out.Matches = append(out.Matches, match)
	}
	if len(r.Route) == 0 {
		d.Errorf(at, "TLS route is required")
	}
	out.Route = l.l4Route(d, at.At("route"), r.Route)
	return out
}

// tcpRule reads an entry of `tcp`.
func (l *loader) tcpRule(d decoded[networking.VirtualService], at *strictyaml.Node, r *networking.TCPRoute) *policy.TCPRule {
	out := &policy.TCPRule{Ref: d.ref}
	out.Ref.Line, out.Ref.Column = at.Line, at.Col
	for i, m := range r.Match {
		mn := at.At("match", i)
		out.Matches = append(out.Matches, d.l4Match(mn, m))
		if m.SourceSubnet != "" {
			d.Warnf(mn.KeyOf("sourceSubnet"), "sourceSubnet has no effect, as in Istio")
		}
	}
	if len(r.Route) == 0 {
		d.Errorf(at, "TCP route is required")
	}
	out.Route = l.l4Route(d, at.At("route"), r.Route)
	return out
}

// l4Attributes is what TLSMatchAttributes and L4MatchAttributes have in common.
type l4Attributes interface {
	GetDestinationSubnets() []string
	GetPort() uint32
	GetSourceLabels() map[string]string
	GetSourceNamespace() string
	GetGateways() []string
}

func (o *object) l4Match(at *strictyaml.Node, m l4Attributes) *policy.L4Match {
	out := &policy.L4Match{
		SourceLabels:    m.GetSourceLabels(),
		SourceNamespace: m.GetSourceNamespace(),
		Gateways:        o.gatewayNames(at.At("gateways"), m.GetGateways()),
	}
	for i, s := range m.GetDestinationSubnets() {
		if p, ok := o.Subnet(at.At("destinationSubnets", i), s); ok {
			out.Subnets = append(out.Subnets, p)
		}
	}
	if m.GetPort() != 0 {
		out.Port = o.Port(at.At("port"), "match port", m.GetPort())
	}
	o.source(at, out.SourceLabels, out.SourceNamespace)
	return out
}

// source checks what a match asks of the workload.
func (o *object) source(at *strictyaml.Node, labels map[string]string, namespace string) {
	o.Labels(at.At("sourceLabels"), labels)
	if namespace != "" && !check.IsLabel(namespace) {
		o.Errorf(at.At("sourceNamespace"), "sourceNamespace match %s is invalid", namespace)
	}
}

// sniHosts reads the names of a TLS match, each of which the VirtualService
// must have among its hosts.
func (o *object) sniHosts(at *strictyaml.Node, names, written []string, hosts map[hostname.Pattern]*strictyaml.Node) []hostname.Pattern {
	if len(names) == 0 {
		o.Errorf(at, "TLS match must have at least one SNI host")
	}
	var out []hostname.Pattern
	for i, s := range names {
		n := at.At(i)
		if a, err := netip.ParseAddr(s); err == nil {
			o.Warnf(n, "using an IP address (%q) goes against SNI spec and most clients do not support this", s)
			out = append(out, hostname.Pattern(a.String()))
			continue
		}
		h, err := check.Domain(s)
		if err != nil {
			o.Errorf(n, "invalid SNI host: %s", err)
			continue
		}
		if hosts[h] == nil && hosts["*"] == nil && coveredBy(h, hosts) == "" {
			o.Errorf(n, "SNI host %q is not a compatible subset of any of the virtual service hosts: [%s]", s, listed(written))
		}
		out = append(out, h)
	}
	return out
}

// listed joins names for an error, and leaves out what is too many.
func listed(names []string) string {
	const most = 10
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:most], ", ") + ", …"
}

func (l *loader) l4Route(d decoded[networking.VirtualService], at *strictyaml.Node, routes []*networking.RouteDestination) []*policy.WeightedDestination {
	var out []*policy.WeightedDestination
	weights := weights{object: d.object, at: at}
	for i, r := range routes {
		rn := at.At(i)
		w := l.weighted(d, rn, r.Destination)
		w.Weight = weights.add(rn, r.Weight)
		out = append(out, w)
	}
	weights.check(len(routes))
	return out
}

// weights adds up the weights of a route's destinations.
type weights struct {
	*object
	at    *strictyaml.Node
	total uint64
}

func (w *weights) add(at *strictyaml.Node, weight int32) uint32 {
	if weight < 0 {
		w.Errorf(at.At("weight"), "weight %d < 0", weight)
	}
	v := uint32(max(weight, 0))
	w.total += uint64(v)
	return v
}

func (w *weights) check(n int) {
	if n > 1 && w.total == 0 {
		w.Errorf(w.at, "total destination weight = 0")
	}
	if w.total > math.MaxUint32 {
		w.Errorf(w.at, "total destination weight %d is too large", w.total)
	}
}
