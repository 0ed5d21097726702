// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// gatewayRoute is an HTTPRoute whose rules are translated.
type gatewayRoute struct {
	HTTPRoute
	index   int // in order of precedence
	matches []routeMatch
}

// attached is a route at a host.
type attached struct {
	route   *gatewayRoute
	service *policy.Service
	ports   []uint16 // sorted; nil: all
	// width is 0 where the route names the host, and otherwise grows with
	// how much wider the pattern is that it names.
	width int
}

// routedHosts are the routes of each host, as one kind of workload sees them.
type routedHosts struct {
	export policy.Visibility
	hosts  []hostname.Pattern // in the order in which they are found
	routes map[hostname.Pattern][]attached
}

// translator translates HTTPRoutes.
type translator struct {
	origins map[*policy.WeightedDestination]strictyaml.Passage
	merged  int // matches that were made
}

// Translate translates the HTTPRoutes. The routes of a host make one
// VirtualService, whose rules are in the order of the Gateway API's precedence.
//
// A route in the namespace of its ServiceEntry (the producer's) is for all
// workloads; one in another namespace (a consumer's) for those of its own,
// where it takes the place of the producer's (GEP-1426).
//
// Where destinations are written goes to origins. merged are the matches that
// delegation made; both together have one bound.
func Translate(routes []HTTPRoute, services []*policy.Service, origins map[*policy.WeightedDestination]strictyaml.Passage, merged int) []*policy.VirtualService {
	l := &translator{origins, merged}
	byName := map[string][]*policy.Service{}
	for _, s := range services {
		if s.External {
			name := s.Ref.Namespace + "/" + s.Ref.Name
			byName[name] = append(byName[name], s)
		}
	}
	slices.SortStableFunc(routes, routePrecedence)
	producers := &routedHosts{routes: map[hostname.Pattern][]attached{}, export: policy.Visibility{Everybody: true}}
	consumers := map[string]*routedHosts{}
	var all []*routedHosts
	for i, d := range routes {
		r := &gatewayRoute{HTTPRoute: d, index: i}
		l.translateRoute(r)
		hostnames := r.hostnames()
		for _, a := range r.parents(byName) {
			to := producers
			if ns := d.Ref.Namespace; ns != a.service.Ref.Namespace {
				if to = consumers[ns]; to == nil {
					to = &routedHosts{routes: map[hostname.Pattern][]attached{}, export: policy.Visibility{Limited: true, Namespaces: []string{ns}}}
					consumers[ns] = to
					all = append(all, to)
				}
			}
			to.attach(a, hostnames)
		}
	}
	var out []*policy.VirtualService
	for _, h := range append(all, producers) {
		out = append(out, l.routedServices(h)...)
	}
	return out
}

// routePrecedence orders routes: the oldest first, then by namespace and name.
func routePrecedence(a, b HTTPRoute) int {
	at, bt := a.Created, b.Created
	switch {
	case at.IsZero() != bt.IsZero():
		if at.IsZero() {
			return 1
		}
		return -1
	case !at.Equal(&bt):
		return at.Compare(bt.Time)
	}
	return strings.Compare(a.Ref.Namespace+"/"+a.Ref.Name, b.Ref.Namespace+"/"+b.Ref.Name)
}

// hostnames reads the names that the route is restricted to.
func (r *gatewayRoute) hostnames() []hostname.Pattern {
	var out []hostname.Pattern
	for i, s := range r.V.Hostnames {
		at := r.spec("hostnames", i)
		if _, err := netip.ParseAddr(string(s)); err == nil {
			r.Errorf(at, "hostnames: %q is an IP address, which a route cannot have", s)
			continue
		}
		h, err := check.Domain(string(s))
		switch {
		case err != nil:
			r.Errorf(at, "invalid hostname: %s", err)
			continue
		case h == "*" || check.IsPartialWildcard(h):
			r.Errorf(at, "hostname %q: a wildcard is a label by itself, as in *.example.com", s)
			continue
		}
		out = append(out, h)
	}
	return out
}

// parents finds the ServiceEntries that the route is for.
func (r *gatewayRoute) parents(byName map[string][]*policy.Service) []attached {
	var out []attached
	found := map[*policy.Service]int{}
	seen := map[string]bool{}
	if len(r.V.ParentRefs) == 0 {
		r.Warnf(r.spec(), "no parentRefs: the route is for nothing")
	}
	for i, p := range r.V.ParentRefs {
		at := r.spec("parentRefs", i)
		if !r.isEntry(at, p) {
			continue
		}
		name := string(value(p.Namespace, gateway.Namespace(r.Ref.Namespace))) + "/" + string(p.Name)
		key := fmt.Sprint(name, " ", value(p.SectionName, ""), " ", value(p.Port, 0))
		if seen[key] {
			r.Errorf(at, "sectionName or port must be unique when parentRefs includes 2 or more references to the same parent")
			continue
		}
		seen[key] = true
		if len(byName[name]) == 0 {
			r.Warnf(at.At("name"), "there is no ServiceEntry %s: the route is not acted on for it", name)
		}
		for _, s := range byName[name] {
			ports, ok := r.section(at, p, s)
			if !ok {
				continue
			}
			if j, again := found[s]; !again {
				found[s] = len(out)
				out = append(out, attached{route: r, service: s, ports: ports})
			} else if out[j].ports != nil {
				if ports != nil {
					ports = append(ports, out[j].ports...)
					slices.Sort(ports)
				}
				out[j].ports = slices.Compact(ports)
			}
		}
	}
	return out
}

// isEntry says whether a parent is a ServiceEntry, and what becomes of it
// otherwise.
func (r *gatewayRoute) isEntry(at *strictyaml.Node, p gateway.ParentReference) bool {
	group, kind := value(p.Group, Group), value(p.Kind, "Gateway")
	switch {
	case kind == "ServiceEntry" && group == model.NetworkingGroup:
		return true
	case kind == "ServiceEntry":
		r.Errorf(at.At("group"), "parentRefs: a ServiceEntry is of group %s, not %q", model.NetworkingGroup, group)
	case kind == "Service" && group == "":
		r.Say(strictyaml.Note, at, "the route is not acted on for the Service %s: egressd acts on what ServiceEntries open", p.Name)
	case group == Group && slices.Contains([]gateway.Kind{"Gateway", "ListenerSet"}, kind):
		NoGateway(&r.Reporter, at, string(kind))
	default:
		r.Warnf(at.At("kind"), "the route is not acted on for the %s %s%s", kind, p.Name,
			strictyaml.DidYouMean(string(kind), []string{"Gateway", "ListenerSet", "Service", "ServiceEntry"}))
	}
	return false
}

// section finds the ports that a parentRef restricts the route to; nil: all.
func (r *gatewayRoute) section(at *strictyaml.Node, p gateway.ParentReference, s *policy.Service) ([]uint16, bool) {
	if p.SectionName == nil && p.Port == nil {
		return nil, true
	}
	for _, port := range s.Ports {
		if value(p.SectionName, gateway.SectionName(port.Name)) == gateway.SectionName(port.Name) &&
			value(p.Port, int32(port.Number)) == int32(port.Number) {
			return []uint16{port.Number}, true
		}
	}
	r.Warnf(at, "ServiceEntry %s/%s has no such port: the route is not acted on for it", s.Ref.Namespace, s.Ref.Name)
	return nil, false
}

// attach puts a route at the hosts that its ServiceEntry and its hostnames
// have in common.
func (t *routedHosts) attach(a attached, hostnames []hostname.Pattern) {
	var hosts []hostname.Pattern
	seen := map[hostname.Pattern]bool{}
	add := func(h hostname.Pattern) {
		if !seen[h] {
			seen[h] = true
			hosts = append(hosts, h)
		}
	}
	if len(a.route.V.Hostnames) == 0 {
		hosts = a.service.Hosts
	}
	for _, name := range hostnames {
		for _, h := range a.service.Hosts {
			switch {
			case h.Covers(name):
				add(name)
			case name.Covers(h):
				add(h)
			}
		}
	}
	if len(hosts) == 0 {
		a.route.Warnf(a.route.spec("hostnames"), "none of the hostnames is a host of ServiceEntry %s/%s: the route is not acted on for it",
			a.service.Ref.Namespace, a.service.Ref.Name)
	}
	for _, h := range hosts {
		if t.routes[h] == nil {
			t.hosts = append(t.hosts, h)
		}
		t.routes[h] = append(t.routes[h], a)
	}
}

// of returns the routes of a host, with those of the same ServiceEntries that
// name it by a wider pattern only.
func (t *routedHosts) of(h hostname.Pattern) []attached {
	type at struct {
		route   *gatewayRoute // nil: any
		service *policy.Service
	}
	out := slices.Clone(t.routes[h])
	known := map[at]bool{}
	for _, a := range out {
		known[at{a.route, a.service}], known[at{nil, a.service}] = true, true
	}
	for i := 1; i <= len(h); i++ {
		wide := "*" + h[i:]
		if wide == h {
			continue
		}
		for _, a := range t.routes[wide] {
			if known[at{nil, a.service}] && !known[at{a.route, a.service}] {
				known[at{a.route, a.service}] = true
				a.width = i
				out = append(out, a)
			}
		}
	}
	return out
}

// routedServices makes a VirtualService of the hosts that have the same
// routes.
func (l *translator) routedServices(t *routedHosts) []*policy.VirtualService {
	var out []*policy.VirtualService
	byRoutes := map[string]*policy.VirtualService{}
	for _, h := range t.hosts {
		routes := t.of(h)
		var key strings.Builder
		matches := 0
		for _, a := range routes {
			matches += len(a.route.matches) * max(len(a.ports), 1)
			key.WriteString(strconv.Itoa(a.route.index) + fmt.Sprint(a.ports, a.width))
		}
		vs := byRoutes[key.String()]
		if vs == nil {
			first := slices.MinFunc(routes, func(x, y attached) int { return cmp.Compare(x.route.index, y.route.index) })
			vs = &policy.VirtualService{Ref: first.route.Ref, Gateways: []string{model.Mesh}, Export: t.export}
			if l.merged += matches; l.merged > model.MaxMatches {
				first.route.Errorf(first.route.spec("parentRefs"), "the HTTPRoutes make more than %d matches of the hosts that they share", model.MaxMatches)
				return out
			}
			vs.Ports, vs.HTTP = rulesOf(routes)
			if len(vs.HTTP) == 0 {
				continue // of rules that could not be read
			}
			byRoutes[key.String()] = vs
			out = append(out, vs)
		}
		vs.Hosts = append(vs.Hosts, h)
	}
	return out
}

// value is what p points to, or what is meant without it.
func value[T any](p *T, without T) T {
	if p == nil {
		return without
	}
	return *p
}
