// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

const mesh = "mesh"

func (l *loader) virtualService(d decoded[networking.VirtualService]) *policy.VirtualService {
	out := &policy.VirtualService{Ref: d.ref}
	out.Gateways = d.gatewayNames(d.spec("gateways"), d.v.Gateways)
	if len(d.v.Gateways) == 0 {
		out.Gateways = []string{mesh}
	}
	l.virtualHosts(d, out)
	if len(d.v.Http)+len(d.v.Tls)+len(d.v.Tcp) == 0 {
		d.errorf(d.spec(), "http, tcp or tls must be provided in virtual service")
	}
	if len(d.v.Tls) > 0 {
		d.unsupported(d.spec().keyOf("tls"), "tls")
	}
	if len(d.v.Tcp) > 0 {
		d.unsupported(d.spec().keyOf("tcp"), "tcp")
	}
	l.exportTo(d.object, d.spec("exportTo"), d.v.ExportTo)
	var all *node // the rule that matches everything
	for i, r := range d.v.Http {
		at := d.spec("http", i)
		if all != nil {
			d.warnf(at, "the rule is never reached: the rule at line %d matches everything", all.line)
		}
		rule := l.httpRule(d, at, r)
		out.HTTP = append(out.HTTP, rule)
		if all == nil && matchesAll(rule, out) {
			all = at
		}
	}
	return out
}

// matchesAll says whether no request passes the rule by.
func matchesAll(r *policy.HTTPRule, vs *policy.VirtualService) bool {
	if len(r.Matches) == 0 {
		return true
	}
	return slices.ContainsFunc(r.Matches, func(m *policy.HTTPMatch) bool {
		uri := m.URI == nil || m.URI.Kind == policy.MatchPrefix && (m.URI.Value == "/" || m.URI.Value == "")
		return uri && m.Scheme == nil && m.Method == nil && m.Authority == nil && m.Port == 0 &&
			len(m.Headers)+len(m.WithoutHeaders)+len(m.QueryParams) == 0 &&
			!slices.ContainsFunc(vs.Gateways, func(g string) bool {
				return len(m.Gateways) > 0 && !slices.Contains(m.Gateways, g)
			})
	})
}

func (l *loader) virtualHosts(d decoded[networking.VirtualService], out *policy.VirtualService) {
	if len(d.v.Hosts) == 0 {
		d.errorf(d.spec("hosts"), "virtual service must have at least one host (a VirtualService without hosts is a delegate, which is not supported yet)")
	}
	seen := make(map[hostname.Pattern]*node, len(d.v.Hosts))
	for i, s := range d.v.Hosts {
		at := d.spec("hosts", i)
		h, err := hostOrIP(s)
		if err != nil {
			d.errorf(at, "invalid host: %s", err)
			continue
		}
		if h == "*" && slices.Contains(out.Gateways, mesh) {
			d.errorf(at, "wildcard host * is not allowed for virtual services bound to the mesh gateway")
			continue
		}
		h = hostname.Pattern(l.absolute(string(h), d.ref.Namespace))
		if seen[h] != nil {
			d.errorf(at, "duplicate hosts in virtual service: %s", h)
			continue
		}
		seen[h] = at
		out.Hosts = append(out.Hosts, h)
	}
	for _, h := range out.Hosts {
		if wide := coveredBy(h, seen); wide != "" {
			d.errorf(seen[h], "overlapping hosts in virtual service: %s and %s", wide, h)
		}
	}
}

// coveredBy returns the narrowest wildcard of set that covers h, or "". It
// asks for each ending of h, so that many hosts cost no more than few.
func coveredBy(h hostname.Pattern, set map[hostname.Pattern]*node) hostname.Pattern {
	for i := 1; i <= len(h); i++ {
		if w := "*" + h[i:]; w != h && set[w] != nil {
			return w
		}
	}
	return ""
}

// absolute expands a short name as Istio does, unless some ServiceEntry has
// exactly that name for a host.
func (l *loader) absolute(host, namespace string) string {
	if strings.ContainsAny(host, ".*:") || l.shortHosts[host] {
		return host
	}
	return kubernetesName(host, namespace)
}

func (o *object) gatewayNames(at *node, names []string) []string {
	var out []string
	for i, s := range names {
		g, err := o.gatewayName(at.at(i), s)
		if err != nil {
			o.errorf(at.at(i), "%s", err)
			continue
		}
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// destination checks where a route leads.
func (l *loader) destination(d decoded[networking.VirtualService], at *node, v *networking.Destination) policy.Destination {
	var out policy.Destination
	if v == nil {
		d.errorf(at, "destination is required")
		return out
	}
	hn := at.at("host")
	if a, err := netip.ParseAddr(v.Host); err == nil {
		d.errorf(hn, "invalid destination host: %s is an address; name a host of a ServiceEntry", a)
	} else if h, err := fqdn(v.Host); err != nil {
		d.errorf(hn, "invalid destination host: %s", err)
	} else {
		out.Host = l.absolute(h, d.ref.Namespace)
	}
	if v.Port != nil {
		out.Port = d.port(at.at("port", "number"), "destination port", v.Port.Number)
	}
	if v.Subset != "" {
		if !isPortName(v.Subset) {
			d.errorf(at.at("subset"), "subset name %q is not a DNS label", v.Subset)
		}
		d.inert(at.at("subset"), "subset")
	}
	return out
}

func (l *loader) route(d decoded[networking.VirtualService], at *node, routes []*networking.HTTPRouteDestination) []*policy.WeightedDestination {
	var out []*policy.WeightedDestination
	total := uint64(0)
	for i, r := range routes {
		rn := at.at(i)
		if r.Weight < 0 {
			d.errorf(rn.at("weight"), "weight %d < 0", r.Weight)
		}
		w := &policy.WeightedDestination{
			Destination: l.destination(d, rn.at("destination"), r.Destination),
			Weight:      uint32(max(r.Weight, 0)),
			Headers:     d.headers(rn.at("headers"), r.Headers),
		}
		total += uint64(w.Weight)
		out = append(out, w)
	}
	if len(routes) > 1 && total == 0 {
		d.errorf(at, "total destination weight = 0")
	}
	if total > math.MaxUint32 {
		d.errorf(at, "total destination weight %d is too large", total)
	}
	return out
}
