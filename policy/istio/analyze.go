// SPDX-License-Identifier: Apache-2.0

package istio

import (
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
		}
		for j, r := range d.v.Http {
			for k := range r.Route {
				hosts.checkDestination(d, d.spec("http", j, "route", k, "destination", "host"), vs.HTTP[j].Route[k].Destination.Host)
			}
		}
	}
}

// registry holds the declared hosts: the exact ones by name.
type registry struct {
	exact map[hostname.Pattern][]*policy.Service
	wild  []*policy.Service
}

func declared(cfg *policy.Config) *registry {
	r := &registry{exact: map[hostname.Pattern][]*policy.Service{}}
	for _, s := range cfg.Services {
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
	found := slices.Clone(r.exact[h])
	if h.IsWildcard() {
		for name, services := range r.exact {
			if h.Matches(string(name)) {
				found = append(found, services...)
			}
		}
	}
	for _, s := range r.wild {
		if slices.ContainsFunc(s.Hosts, h.Overlaps) {
			found = append(found, s)
		}
	}
	return found
}

func (r *registry) checkHost(d decoded[networking.VirtualService], i int, h hostname.Pattern) {
	at := d.spec("hosts", i)
	found := r.find(h)
	if len(found) == 0 {
		d.warnf(at, "no ServiceEntry and no Service declares the host %s: the rules do not apply to anything", h)
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

func (r *registry) checkDestination(d decoded[networking.VirtualService], at *node, host string) {
	if len(r.find(hostname.Pattern(host))) > 0 {
		return
	}
	what := "no ServiceEntry declares the destination %s: requests are answered with 503"
	if strings.HasSuffix(host, ".svc.cluster.local") {
		what = "there is no Service for the destination %s: requests are answered with 503"
	}
	d.warnf(at, what, host)
}
