// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"math"
	"net/netip"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// tlsRule reads an entry of `tls`. hosts are those of the VirtualService as
// they are written, for what SNI may name.
func (l *loader) tlsRule(d decoded[networking.VirtualService], at *node, r *networking.TLSRoute, hosts map[hostname.Pattern]*node) *policy.TLSRule {
	out := &policy.TLSRule{Ref: d.ref}
	out.Ref.Line, out.Ref.Column = at.line, at.col
	if len(r.Match) == 0 {
		d.errorf(at, "TLS route must have at least one match condition")
	}
	for i, m := range r.Match {
		mn := at.at("match", i)
		match := d.l4Match(mn, m)
		match.SNIHosts = d.sniHosts(mn.at("sniHosts"), m.SniHosts, d.v.Hosts, hosts)
		out.Matches = append(out.Matches, match)
	}
	if len(r.Route) == 0 {
		d.errorf(at, "TLS route is required")
	}
	out.Route = l.l4Route(d, at.at("route"), r.Route)
	return out
}

// tcpRule reads an entry of `tcp`.
func (l *loader) tcpRule(d decoded[networking.VirtualService], at *node, r *networking.TCPRoute) *policy.TCPRule {
	out := &policy.TCPRule{Ref: d.ref}
	out.Ref.Line, out.Ref.Column = at.line, at.col
	for i, m := range r.Match {
		mn := at.at("match", i)
		out.Matches = append(out.Matches, d.l4Match(mn, m))
		if m.SourceSubnet != "" {
			d.warnf(mn.keyOf("sourceSubnet"), "sourceSubnet has no effect, as in Istio")
		}
	}
	if len(r.Route) == 0 {
		d.errorf(at, "TCP route is required")
	}
	out.Route = l.l4Route(d, at.at("route"), r.Route)
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

func (o *object) l4Match(at *node, m l4Attributes) *policy.L4Match {
	out := &policy.L4Match{
		SourceLabels:    m.GetSourceLabels(),
		SourceNamespace: m.GetSourceNamespace(),
		Gateways:        o.gatewayNames(at.at("gateways"), m.GetGateways()),
	}
	for i, s := range m.GetDestinationSubnets() {
		if p, ok := o.subnet(at.at("destinationSubnets", i), s); ok {
			out.Subnets = append(out.Subnets, p)
		}
	}
	if m.GetPort() != 0 {
		out.Port = o.port(at.at("port"), "match port", m.GetPort())
	}
	o.source(at, out.SourceLabels, out.SourceNamespace)
	return out
}

// source checks what a match asks of the workload.
func (o *object) source(at *node, labels map[string]string, namespace string) {
	o.labels(at.at("sourceLabels"), labels)
	if namespace != "" && !isLabel(namespace) {
		o.errorf(at.at("sourceNamespace"), "sourceNamespace match %s is invalid", namespace)
	}
}

// subnet reads an address or a prefix; the bits that a prefix leaves open
// must be 0, or are taken as such with a warning.
func (o *object) subnet(at *node, s string) (netip.Prefix, bool) {
	var out netip.Prefix
	var err error
	what := "IP"
	if strings.Contains(s, "/") {
		what = "CIDR block"
		out, err = netip.ParsePrefix(s)
	} else {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
			out = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case err != nil || !out.IsValid():
		o.errorf(at, "%q is not a valid %s%s", s, what, addressHint(s, "under ports"))
		return out, false
	case out.Addr().Is4In6():
		o.errorf(at, "%q is an IPv4 address in IPv6 form; write it as IPv4", s)
		return out, false
	case out != out.Masked():
		o.warnf(at, "%s has host bits set; it is read as %s", s, out.Masked())
	}
	return out.Masked(), true
}

// sniHosts reads the names of a TLS match, each of which the VirtualService
// must have among its hosts.
func (o *object) sniHosts(at *node, names, written []string, hosts map[hostname.Pattern]*node) []hostname.Pattern {
	if len(names) == 0 {
		o.errorf(at, "TLS match must have at least one SNI host")
	}
	var out []hostname.Pattern
	for i, s := range names {
		n := at.at(i)
		if a, err := netip.ParseAddr(s); err == nil {
			o.warnf(n, "using an IP address (%q) goes against SNI spec and most clients do not support this", s)
			out = append(out, hostname.Pattern(a.String()))
			continue
		}
		h, err := domain(s)
		if err != nil {
			o.errorf(n, "invalid SNI host: %s", err)
			continue
		}
		if hosts[h] == nil && hosts["*"] == nil && coveredBy(h, hosts) == "" {
			o.errorf(n, "SNI host %q is not a compatible subset of any of the virtual service hosts: [%s]", s, listed(written))
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

func (l *loader) l4Route(d decoded[networking.VirtualService], at *node, routes []*networking.RouteDestination) []*policy.WeightedDestination {
	var out []*policy.WeightedDestination
	weights := weights{object: d.object, at: at}
	for i, r := range routes {
		rn := at.at(i)
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
	at    *node
	total uint64
}

func (w *weights) add(at *node, weight int32) uint32 {
	if weight < 0 {
		w.errorf(at.at("weight"), "weight %d < 0", weight)
	}
	v := uint32(max(weight, 0))
	w.total += uint64(v)
	return v
}

func (w *weights) check(n int) {
	if n > 1 && w.total == 0 {
		w.errorf(w.at, "total destination weight = 0")
	}
	if w.total > math.MaxUint32 {
		w.errorf(w.at, "total destination weight %d is too large", w.total)
	}
}
