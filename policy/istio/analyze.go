// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// analyze warns about objects that are right by themselves and wrong
// together. It runs only on configuration without errors: otherwise an object
// that could not be read would be missed everywhere else.
func (l *loader) analyze(cfg *policy.Config) {
	gateways := map[string]bool{}
	for _, g := range cfg.Gateways {
		gateways[g.Ref.Namespace+"/"+g.Ref.Name] = true
	}
	hosts := declared(cfg)
	first := map[hostname.Pattern]*policy.Ref{} // who has the mesh rules of a host
	for i, vs := range cfg.VirtualServices {
		d := l.virtuals[i]
		for _, g := range vs.Gateways {
			if g != mesh && !gateways[g] {
				d.warnf(d.spec("gateways"), "there is no Gateway %s", g)
			}
		}
		if !slices.Contains(vs.Gateways, mesh) {
			continue
		}
		for j, h := range vs.Hosts {
			hosts.checkHost(d, j, h)
			if older := first[h]; older != nil {
				d.warnf(d.spec("hosts", j), "VirtualService %s/%s already has rules for the host %s; of several the oldest applies",
					older.Namespace, older.Name, h)
				continue
			}
			first[h] = &vs.Ref
		}
		for _, w := range destinations(vs) {
			hosts.checkDestination(l.origins[w], w.Destination.Host)
		}
	}
}

// registry holds the declared hosts: the exact ones by name.
type registry struct {
	all   []*policy.Service
	exact map[hostname.Pattern][]*policy.Service
	wild  []*policy.Service
	// addresses are all that services name, for hosts that are addresses.
	addresses []netip.Prefix
}

func declared(cfg *policy.Config) *registry {
	r := &registry{all: cfg.Services, exact: map[hostname.Pattern][]*policy.Service{}}
	for _, s := range cfg.Services {
		r.addresses = append(r.addresses, s.Addresses...)
		wild := false
		for _, h := range s.Hosts {
			if h.IsWildcard() {
				wild = true
				continue
			}
			r.exact[h] = append(r.exact[h], s)
		}
		if wild {
			r.wild = append(r.wild, s)
		}
	}
	return r
}

// find returns the services whose hosts h touches.
func (r *registry) find(h hostname.Pattern) []*policy.Service {
	found, rest := slices.Clone(r.exact[h]), r.wild
	if h.IsWildcard() {
		rest = r.all
	}
	for _, s := range rest {
		if slices.ContainsFunc(s.Hosts, h.Overlaps) {
			found = append(found, s)
		}
	}
	return found
}

// hasAddress says whether host is an IP address that some service names.
func (r *registry) hasAddress(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && slices.ContainsFunc(r.addresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (r *registry) checkHost(d decoded[networking.VirtualService], i int, h hostname.Pattern) {
	at := d.spec("hosts", i)
	found := r.find(h)
	if len(found) == 0 && r.hasAddress(string(h)) {
		return
	}
	if len(found) == 0 {
		d.warnf(at, "no ServiceEntry and no Service declares the host %s: the rules do not apply to anything", h)
		return
	}
	if len(d.v.Http) == 0 {
		return
	}
	for _, s := range found {
		if slices.ContainsFunc(s.Ports, func(p policy.Port) bool { return p.Protocol.IsHTTP() || p.Protocol == policy.ProtocolUnset }) {
			return
		}
	}
	d.warnf(at, "http rules do not apply to %s: %s %s/%s has no HTTP port (what TLS carries cannot be read)",
		h, found[0].Ref.Kind, found[0].Ref.Namespace, found[0].Ref.Name)
}

// destinations are those of all routes of vs, delegated ones as well.
func destinations(vs *policy.VirtualService) []*policy.WeightedDestination {
	var out []*policy.WeightedDestination
	for _, r := range vs.HTTP {
		out = append(out, r.Route...)
	}
	for _, r := range vs.TLS {
		out = append(out, r.Route...)
	}
	for _, r := range vs.TCP {
		out = append(out, r.Route...)
	}
	return out
}

func (r *registry) checkDestination(o origin, host string) {
	if len(r.find(hostname.Pattern(host))) > 0 || r.hasAddress(host) {
		return
	}
	what := "no ServiceEntry declares the destination %s: requests are answered with 503"
	if strings.HasSuffix(host, ".svc.cluster.local") {
		what = "there is no Service for the destination %s: requests are answered with 503"
	}
	o.warnf(o.at.at("host"), what, host)
}
