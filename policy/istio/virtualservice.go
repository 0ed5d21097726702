// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/requests"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

func translateVirtualServices(l *loader, cfg *policy.Config) {
	l.virtuals = oldest(l.virtuals)
	l.readDelegates()
	for _, d := range l.virtuals {
		cfg.VirtualServices = append(cfg.VirtualServices, once(l, d.object, nil, func() *policy.VirtualService { return l.virtualService(d) }))
	}
	l.unusedDelegates()
}

func (l *loader) virtualService(d decoded[networking.VirtualService]) *policy.VirtualService {
	out := &policy.VirtualService{Ref: d.ref, Export: d.exportTo(d.spec("exportTo"), d.v.ExportTo, false)}
	if len(d.v.ExportTo) == 0 && l.exports[1] != nil {
		out.Export = l.exports[1].of(d.ref.Namespace)
	}
	out.Gateways = d.gatewayNames(d.spec("gateways"), d.v.Gateways)
	if len(d.v.Gateways) == 0 {
		out.Gateways = []string{model.Mesh}
	}
	written := l.virtualHosts(d, out)
	if len(d.v.Http)+len(d.v.Tls)+len(d.v.Tcp) == 0 {
		d.Errorf(d.spec(), "http, tcp or tls must be provided in virtual service")
	}
	l.httpRules(d, out)
	for i, r := range d.v.Tls {
		out.TLS = append(out.TLS, l.tlsRule(d, d.spec("tls", i), r, written))
	}
	for i, r := range d.v.Tcp {
		out.TCP = append(out.TCP, l.tcpRule(d, d.spec("tcp", i), r))
	}
	return out
}

func (l *loader) httpRules(d decoded[networking.VirtualService], out *policy.VirtualService) {
	var all *strictyaml.Node // the rule that matches everything
	for i, r := range d.v.Http {
		at := d.spec("http", i)
		if all != nil {
			d.Warnf(at, "the rule is never reached: the rule at line %d matches everything", all.Line)
		}
		requests.Claims(&d.Checker, at, r, out.Gateways)
		rule := l.httpRule(d, at, r)
		if r.Delegate != nil {
			out.HTTP = append(out.HTTP, l.delegated(httpSource{d, at, r, rule})...)
			continue
		}
		d.AuthorityRewrite(at, rule)
		out.HTTP = append(out.HTTP, rule)
		if all == nil && model.MatchesAll(rule, out) {
			all = at
		}
	}
}

// virtualHosts reads the hosts. It returns them as they are written, without
// the domain that short names get.
func (l *loader) virtualHosts(d decoded[networking.VirtualService], out *policy.VirtualService) map[hostname.Pattern]*strictyaml.Node {
	written := make(map[hostname.Pattern]*strictyaml.Node, len(d.v.Hosts))
	seen := make(map[hostname.Pattern]*strictyaml.Node, len(d.v.Hosts))
	for i, s := range d.v.Hosts {
		at := d.spec("hosts", i)
		h, err := check.HostOrIP(s)
		if err != nil {
			d.Errorf(at, "invalid host: %s", err)
			continue
		}
		written[h] = at
		if h == "*" && slices.Contains(out.Gateways, model.Mesh) {
			d.Errorf(at, "wildcard host * is not allowed for virtual services bound to the mesh gateway")
			continue
		}
		h = hostname.Pattern(l.absolute(string(h), d.ref.Namespace))
		if seen[h] != nil {
			d.Errorf(at, "duplicate hosts in virtual service: %s & %s", h, h)
			continue
		}
		seen[h] = at
		out.Hosts = append(out.Hosts, h)
	}
	for _, h := range out.Hosts {
		if wide := coveredBy(h, seen); wide != "" {
			d.Errorf(seen[h], "duplicate hosts in virtual service: %s & %s", wide, h)
		}
	}
	return written
}

// coveredBy returns the narrowest wildcard of set that covers h, or "". It
// asks for each ending of h, so that many hosts cost no more than few.
func coveredBy(h hostname.Pattern, set map[hostname.Pattern]*strictyaml.Node) hostname.Pattern {
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
	return model.KubernetesName(host, namespace)
}

func (o *object) gatewayNames(at *strictyaml.Node, names []string) []string {
	var out []string
	for i, s := range names {
		g, err := o.gatewayName(at.At(i), s)
		if err != nil {
			o.SayCode(code.FormVirtualService, strictyaml.Error, at.At(i), "%s", err)
			continue
		}
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// destination checks where a route leads.
func (l *loader) destination(d decoded[networking.VirtualService], at *strictyaml.Node, v *networking.Destination) policy.Destination {
	var out policy.Destination
	if v == nil {
		d.Errorf(at, "destination is required")
		return out
	}
	hn := at.At("host")
	if v.Host == "*" {
		d.Errorf(hn, "invalid destination host %s", v.Host)
	} else if a, err := netip.ParseAddr(v.Host); err == nil {
		d.Errorf(hn, "invalid destination host: %s is an address; name a host of a ServiceEntry", a)
	} else if h, err := check.Domain(v.Host); err != nil {
		d.Errorf(hn, "invalid destination host: %s", err)
	} else if h.IsWildcard() {
		d.Errorf(hn, "invalid destination host: %q is a wildcard, and a rule leads to one host; requests go on to the hosts that they name where no rule is for them", v.Host)
	} else {
		out.Host = l.absolute(string(h), d.ref.Namespace)
	}
	if v.Port != nil {
		out.Port = d.Port(at.At("port", "number"), "destination port", v.Port.Number)
	}
	if out.Subset = v.Subset; v.Subset != "" && !check.IsPortName(v.Subset) {
		d.Errorf(at.At("subset"), "subset name is invalid: %s", v.Subset)
	}
	return out
}

// weighted reads one destination of a route, without its weight.
func (l *loader) weighted(d decoded[networking.VirtualService], rn *strictyaml.Node, v *networking.Destination) *policy.WeightedDestination {
	w := &policy.WeightedDestination{Destination: l.destination(d, rn.At("destination"), v)}
	l.write(w, strictyaml.Passage{Reporter: &d.Reporter, Node: rn.At("destination")})
	return w
}

func (l *loader) route(d decoded[networking.VirtualService], at *strictyaml.Node, routes []*networking.HTTPRouteDestination) []*policy.WeightedDestination {
	var out []*policy.WeightedDestination
	weights := weights{object: d.object, at: at}
	for i, r := range routes {
		rn := at.At(i)
		w := l.weighted(d, rn, r.Destination)
		w.Weight = weights.add(rn, r.Weight)
		w.Headers = d.headers(rn.At("headers"), r.Headers)
		out = append(out, w)
	}
	weights.check(len(routes))
	return out
}
