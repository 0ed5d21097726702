// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// numbers are ports by number, with their protocols.
type numbers map[uint16]protocols

// add puts a port in, as far as it is one that flows by TCP come to.
func (n numbers) add(p policy.Port) {
	if p.Protocol.Transport() == policy.TCP {
		n[p.Number] |= 1 << p.Protocol
	}
}

// of keeps the ports of some protocols; port alone, unless it is 0.
func (n numbers) of(kinds protocols, port uint16) numbers {
	out := numbers{}
	for number, is := range n {
		if is&kinds != 0 && (port == 0 || port == number) {
			out[number] = is
		}
	}
	return out
}

func (n numbers) String() string {
	var out []string
	for _, number := range slices.Sorted(maps.Keys(n)) {
		out = append(out, strconv.Itoa(int(number)))
	}
	return strings.Join(out, ", ")
}

// portsOf are the ports of a host that is declared as it is written, in one
// namespace. It is false where others may say what the ports are, or nobody.
func (a *analysis) portsOf(h hostname.Pattern) (numbers, bool) {
	d := a.hosts.exact[h]
	if d.service == nil {
		return nil, false
	}
	services := a.hosts.several[h]
	if len(services) == 0 {
		services = []*policy.Service{d.service}
	}
	out := numbers{}
	for _, s := range services {
		if s.Ref.Namespace != d.service.Ref.Namespace {
			return nil, false // which counts depends on who asks
		}
		for _, p := range s.Ports {
			out.add(p)
		}
	}
	return out, true
}

// arrivals are the ports that what a VirtualService is about can come in on:
// those of its hosts for workloads, and those of its Gateways' servers.
type arrivals struct {
	mesh numbers
	// gateways are by their names.
	gateways map[string]numbers
	// unknown are the gateways, or "mesh", of which the ports are not known.
	unknown map[string]bool
}

func (a *analysis) arrivals(vs *policy.VirtualService) *arrivals {
	out := &arrivals{mesh: numbers{}, gateways: map[string]numbers{}, unknown: map[string]bool{}}
	for _, name := range vs.Gateways {
		switch g := a.gateways[name]; {
		case name == model.Mesh:
			for _, h := range vs.Hosts {
				ports, ok := a.portsOf(h)
				if !ok || h.IsWildcard() {
					out.unknown[model.Mesh] = true // it may cover others
				}
				for n, is := range ports {
					out.mesh[n] |= is
				}
			}
		case g == nil:
			out.unknown[name] = true
		default:
			out.gateways[name] = numbers{}
			for _, s := range serversOf(g) {
				out.gateways[name].add(s.Ports[0])
			}
		}
	}
	return out
}

// on returns the ports of some protocols that a match can see: those of the
// gateways that it names, or of all; port alone, unless it is 0. It is false
// where they are not known.
func (x *arrivals) on(gateways []string, kinds protocols, port uint16) (numbers, bool) {
	out := numbers{}
	in := func(name string) bool { return len(gateways) == 0 || slices.Contains(gateways, name) }
	for name := range x.unknown {
		if in(name) {
			return nil, false
		}
	}
	if in(model.Mesh) {
		maps.Copy(out, x.mesh)
	}
	for name, n := range x.gateways {
		if in(name) {
			for number, is := range n {
				out[number] |= is
			}
		}
	}
	return out.of(kinds, port), true
}

// destinationPorts warns about destinations that have no port for what comes
// in: they do not have the one that is named, or several and none is named.
func (a *analysis) destinationPorts(vs *policy.VirtualService, in *arrivals) {
	for _, r := range vs.HTTP {
		from := numbers{}
		for _, m := range or(r.Matches, &policy.HTTPMatch{}) {
			if !in.join(from, m.Gateways, httpPorts, m.Port) {
				from = nil
				break
			}
		}
		end := "requests are answered with " + strconv.Itoa(cmp.Or(r.UnknownStatus, http.StatusServiceUnavailable))
		a.leads(vs, r.Ref, r.Route, from, true, end)
	}
	l4 := func(ref policy.Ref, matches []*policy.L4Match, kinds protocols, route []*policy.WeightedDestination) {
		from := numbers{}
		for _, m := range or(matches, &policy.L4Match{}) {
			if !in.join(from, m.Gateways, kinds, m.Port) {
				from = nil
				break
			}
		}
		a.leads(vs, ref, route, from, false, "connections are closed")
	}
	for _, r := range vs.TLS {
		l4(r.Ref, r.Matches, tlsPorts, r.Route)
	}
	for _, r := range vs.TCP {
		l4(r.Ref, r.Matches, tcpPorts, r.Route)
	}
}

// or returns the list, or one that has the other alone when it is empty.
func or[T any](list []T, other T) []T {
	if len(list) == 0 {
		return []T{other}
	}
	return list
}

// join adds what a match can see; false: it is not known.
func (x *arrivals) join(to numbers, gateways []string, kinds protocols, port uint16) bool {
	ports, ok := x.on(gateways, kinds, port)
	maps.Copy(to, ports)
	return ok
}

// leads checks the ports of a rule's destinations. from are the ports that it
// acts on; nil: they are not known.
func (a *analysis) leads(vs *policy.VirtualService, ref policy.Ref, route []*policy.WeightedDestination, from numbers, plain bool, end string) {
	for _, w := range route {
		d := w.Destination
		ports, ok := a.portsOf(hostname.Pattern(d.Host))
		if !ok || a.isGateway(vs, d.Host) {
			continue
		}
		at, known := a.Written[w]
		if !known {
			s, n := a.rule(ref)
			at = strictyaml.Passage{Reporter: &s.Reporter, Node: n}
		}
		switch lost := lostPorts(ports, from, d.Port); {
		case d.Port != 0 && ports[d.Port] == 0:
			at.Warnf(at.Node.At("port"), "the destination %s has no port %d for TCP (%s): %s", d.Host, d.Port, orNone(ports), end)
		case len(lost) > 0:
			at.Warnf(at.Node, "the destination %s has the ports %v, and none is named: %s when they come in on a port that is not one of them (%v); write the port", d.Host, ports, end, lost)
		case plain:
			a.speaks(at, d, ports, from, end)
		}
	}
}

func orNone(n numbers) string {
	if len(n) == 0 {
		return "it has none"
	}
	return fmt.Sprintf("it has %v", n)
}

// lostPorts are those of from that a destination with several ports has none
// for.
func lostPorts(ports, from numbers, named uint16) numbers {
	out := numbers{}
	for n, is := range from {
		if named == 0 && len(ports) > 1 && ports[n] == 0 {
			out[n] = is
		}
	}
	return out
}

// speaks warns about requests that are led to a port for TLS, and of which
// nothing makes TLS.
func (a *analysis) speaks(at strictyaml.Passage, d policy.Destination, ports, from numbers, end string) {
	to := ports.of(^protocols(0), d.Port)
	if d.Port == 0 && len(ports) > 1 {
		to = numbers{}
		for n := range from {
			if ports[n] != 0 {
				to[n] = ports[n]
			}
		}
	}
	const opaque = 1<<policy.ProtocolTLS | 1<<policy.ProtocolHTTPS
	for _, n := range slices.Sorted(maps.Keys(to)) {
		if to[n]&^opaque == 0 && !a.originated(d.Host) {
			at.Warnf(at.Node, "port %d of %s is for TLS, and requests would go there in plain text: %s; lead them to a port for HTTP", n, d.Host, end)
			return
		}
	}
}

// originated says whether some DestinationRule makes TLS on the way to a host.
func (a *analysis) originated(host string) bool {
	if a.originating == nil {
		a.originating = newHostSet(originating(a.cfg.DestinationRules))
	}
	return a.originating.find(hostname.Pattern(host)).service != nil
}

// originating writes the DestinationRules that make TLS as services.
func originating(rules []*policy.DestinationRule) []*policy.Service {
	var out []*policy.Service
	makes := func(t *policy.TrafficPolicy) bool {
		does := func(t *policy.TrafficPolicy) bool { return t != nil && t.TLS != nil && t.TLS.Mode != policy.TLSDisable }
		return does(t) || t != nil && slices.ContainsFunc(slices.Collect(maps.Values(t.Ports)), does)
	}
	for _, r := range rules {
		if makes(r.Traffic) || slices.ContainsFunc(r.Subsets, func(s policy.Subset) bool { return makes(s.Traffic) }) {
			out = append(out, &policy.Service{Ref: r.Ref, Hosts: []hostname.Pattern{r.Host}})
		}
	}
	return out
}

// isGateway says whether a destination may stand for an egress gateway, whose
// ports are its servers'.
func (a *analysis) isGateway(vs *policy.VirtualService, host string) bool {
	return isKubernetes(hostname.Pattern(host)) && len(a.cfg.Gateways) > 0 && slices.Contains(vs.Gateways, model.Mesh)
}
