// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// virtualServices finds VirtualServices and rules that have no effect.
func (a *analysis) virtualServices() {
	a.subsets = newSubsets(a.cfg.DestinationRules)
	a.routed = map[string]bool{}
	first := map[hostname.Pattern]*policy.VirtualService{} // who has the mesh rules of a host
	served := map[*policy.Gateway]*hostSet{}
	a.foreignRules()
	for _, vs := range a.cfg.VirtualServices {
		s := a.part(vs.Ref)
		onMesh := slices.Contains(vs.Gateways, model.Mesh)
		takes := a.bound(s, vs, served)
		if onMesh {
			a.meshHosts(s, vs, first)
		} else {
			for _, list := range lists(vs) {
				if list.has && takes != 0 && takes&list.ports == 0 {
					s.Warnf(s.spec().KeyOf(list.name), "%s rules do not apply: no server of the Gateways that the VirtualService is bound to has such a port", list.name)
				}
			}
		}
		a.destinations(vs, onMesh)
		if !model.FromGatewayAPI(vs.Ref.Kind) { // what is not used is said where they are put in order
			a.unreachable(vs)
			in := a.arrivals(vs)
			a.never(vs, in)
			a.destinationPorts(vs, in)
		}
	}
	a.unmatchedNames()
	a.shadowed()
}

// ruleList is one of the lists of rules of a VirtualService.
type ruleList struct {
	name  string
	has   bool
	ports protocols
	why   string
}

func lists(vs *policy.VirtualService) [3]ruleList {
	return [...]ruleList{
		{"http", len(vs.HTTP) > 0, httpPorts, "has no HTTP port (what TLS carries cannot be read)"},
		{"tls", len(vs.TLS) > 0, tlsPorts, "has no TLS port"},
		{"tcp", len(vs.TCP) > 0, tcpPorts, "has no TCP port that is neither HTTP nor TLS"},
	}
}

// meshHosts checks the hosts of rules for workloads.
func (a *analysis) meshHosts(s part, vs *policy.VirtualService, first map[hostname.Pattern]*policy.VirtualService) {
	for j, h := range vs.Hosts {
		a.meshHost(s, vs, j, h)
		older := first[h]
		if len(vs.HTTP) == 0 {
			continue // rules for TLS and TCP count whoever has them
		}
		if older == nil {
			first[h] = vs
			continue
		}
		if older.Ref.Namespace != vs.Ref.Namespace {
			if !model.FromGatewayAPI(older.Ref.Kind) && !model.FromGatewayAPI(vs.Ref.Kind) && !keptHome(older) && !keptHome(vs) && overlap(older.Export, vs.Export) {
				s.Warnf(s.spec("hosts", j), "VirtualService %s/%s of another namespace already has HTTP rules for the host %s; "+
					"each counts for workloads of its own namespace, and the oldest that all see for those of others",
					older.Ref.Namespace, older.Ref.Name, h)
			}
			continue
		}
		if overlap(older.Export, vs.Export) {
			switch {
			case model.FromGatewayAPI(vs.Ref.Kind) && model.FromGatewayAPI(older.Ref.Kind):
				continue // a consumer's route takes the place of the producer's
			case model.FromGatewayAPI(vs.Ref.Kind):
				s.Warnf(s.spec("parentRefs"), "%s already has rules for the host %s, which come before those of HTTPRoutes", nameOf(older.Ref), h)
				continue
			}
			s.Warnf(s.spec("hosts", j), "VirtualService %s/%s already has HTTP rules for the host %s; of several the oldest that has a rule for the workload and the port applies",
				older.Ref.Namespace, older.Ref.Name, h)
		}
	}
}

func (a *analysis) meshHost(s part, vs *policy.VirtualService, j int, h hostname.Pattern) {
	at := s.spec("hosts", j)
	if model.FromGatewayAPI(vs.Ref.Kind) {
		at = s.spec("parentRefs")
	}
	found := a.hosts.find(h)
	if found.service == nil {
		if !a.hosts.hasAddress(string(h)) {
			s.Warnf(at, "no ServiceEntry and no Service declares the host %s: the rules do not apply to anything", h)
		}
		return
	}
	for _, list := range lists(vs) {
		if list.has && found.ports&list.ports == 0 {
			s.Warnf(at, "%s rules do not apply to %s: %s %s", list.name, h, nameOf(found.service.Ref), list.why)
		}
	}
}

// bound checks the gateways that a VirtualService is bound to. It returns
// which lists of rules their servers take; none when a gateway is missing.
func (a *analysis) bound(s part, vs *policy.VirtualService, served map[*policy.Gateway]*hostSet) protocols {
	takes, missing := protocols(0), false
	for _, name := range vs.Gateways {
		if name == model.Mesh {
			continue
		}
		g := a.gateways[name]
		if g == nil {
			s.Warnf(s.spec("gateways"), "there is no Gateway %s", name)
			missing = true
			continue
		}
		if served[g] == nil {
			served[g] = newHostSet(serversOf(g))
		}
		var absent []hostname.Pattern
		for _, h := range vs.Hosts {
			found := served[g].find(h)
			if found.service == nil {
				absent = append(absent, h)
			}
			takes |= found.ports
		}
		if len(absent) > 0 {
			s.Warnf(s.spec("hosts"), "one or more host %v defined in VirtualService %s not found in Gateway %s", absent, vs.Ref.Name, name)
		}
	}
	if missing {
		return 0
	}
	return takes
}

// serversOf writes the servers of a gateway as services, by what their ports
// carry once TLS is terminated.
func serversOf(g *policy.Gateway) []*policy.Service {
	var out []*policy.Service
	for i := range g.Servers {
		server := &g.Servers[i]
		p := server.Protocol
		terminated := server.TLS != nil && server.TLS.Mode != policy.ServerPassthrough && server.TLS.Mode != policy.ServerAutoPassthrough
		switch {
		case p == policy.ProtocolHTTPS && terminated:
			p = policy.ProtocolHTTP
		case p == policy.ProtocolTLS && terminated:
			p = policy.ProtocolTCP
		}
		out = append(out, &policy.Service{Ref: server.Ref, Hosts: server.Hosts, Ports: []policy.Port{{Number: server.Port, Protocol: p}}})
	}
	return out
}

// destinations checks where the rules of a VirtualService lead.
func (a *analysis) destinations(vs *policy.VirtualService, onMesh bool) {
	for _, r := range vs.HTTP {
		a.routes(vs, onMesh, r.Ref, r.Route, "requests are answered with "+strconv.Itoa(cmp.Or(r.UnknownStatus, http.StatusServiceUnavailable)))
		for k, m := range r.Mirrors {
			s, n := a.rule(r.Ref)
			at := n.At("mirrors", k, "destination")
			if one := n.Get("mirror"); one != nil {
				at = one
			}
			a.destination(vs, onMesh, strictyaml.Passage{Reporter: &s.Reporter, Node: at}, m.Destination, "nothing is mirrored")
		}
	}
	for _, r := range vs.TLS {
		a.routes(vs, onMesh, r.Ref, r.Route, "connections are closed")
	}
	for _, r := range vs.TCP {
		a.routes(vs, onMesh, r.Ref, r.Route, "connections are closed")
	}
}

func (a *analysis) routes(vs *policy.VirtualService, onMesh bool, ref policy.Ref, routes []*policy.WeightedDestination, end string) {
	for _, w := range routes {
		at, ok := a.Written[w]
		if !ok {
			s, n := a.rule(ref)
			at = strictyaml.Passage{Reporter: &s.Reporter, Node: n}
		}
		a.destination(vs, onMesh, at, w.Destination, end)
	}
}

// viaGateway says whether a host is the Service of an egress gateway, which is nowhere
// in the files of one: it is this node.
func (a *analysis) viaGateway(vs *policy.VirtualService, host string) bool {
	return isKubernetes(hostname.Pattern(host)) && slices.ContainsFunc(vs.Gateways, func(g string) bool { return g != model.Mesh && a.gateways[g] != nil })
}

// destination checks one destination of a VirtualService; end is what comes
// of requests when there is none.
func (a *analysis) destination(vs *policy.VirtualService, onMesh bool, o strictyaml.Passage, d policy.Destination, end string) {
	if d.Host == "" {
		return
	}
	a.routed[d.Host] = true
	kubernetes := isKubernetes(hostname.Pattern(d.Host))
	viaGateway := a.viaGateway(vs, d.Host)
	if onMesh && !viaGateway && a.undeclared(d.Host) {
		if kubernetes {
			o.Warnf(o.Node.At("host"), "there is no Service for the destination %s: %s", d.Host, end)
		} else {
			o.Warnf(o.Node.At("host"), "no ServiceEntry declares the destination %s: %s", d.Host, end)
		}
	} else if onMesh && !viaGateway {
		a.onlyKubernetes(o, d.Host)
	}
	if d.Subset != "" && !a.subsets.use(d) {
		o.Warnf(o.Node.At("subset"), "Referenced host+subset in destinationrule not found: \"%s+%s\"", d.Host, d.Subset)
	}
}

func (a *analysis) undeclared(host string) bool {
	return a.hosts.find(hostname.Pattern(host)).service == nil && !a.hosts.hasAddress(host)
}
