// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// gatewayRoute is an HTTPRoute whose rules are translated.
type gatewayRoute struct {
	HTTPRoute
	index   int // in order of precedence
	matches []routeMatch
}

// parent is what routes attach to: a ServiceEntry, or a listener of a Gateway.
type parent struct {
	ref   policy.Ref
	name  string // for texts
	hosts []hostname.Pattern
	// narrower are the hosts of other listeners on the port that hosts cover: they
	// have their names for themselves.
	narrower []hostname.Pattern
}

// has returns which of names are the parent's; all of its own if all are asked for.
func (p *parent) has(names []hostname.Pattern, all bool) []hostname.Pattern {
	out := p.hosts
	if !all {
		out = common(p.hosts, names)
	}
	return slices.DeleteFunc(slices.Clone(out), func(h hostname.Pattern) bool {
		return slices.ContainsFunc(p.narrower, func(n hostname.Pattern) bool { return n.Covers(h) })
	})
}

// attached is a route at a host.
type attached struct {
	route  *gatewayRoute
	parent *parent
	ports  []uint16 // sorted; nil: all
	// width is 0 where the route names the host, and otherwise grows with
	// how much wider the pattern is that it names.
	width int
}

// routedHosts are the routes of each host, as one kind of workload or one
// listener of a gateway sees them.
type routedHosts struct {
	gateway string // model.Mesh, or the key of a listener
	export  policy.Visibility
	hosts   []hostname.Pattern // in the order in which they are found
	routes  map[hostname.Pattern][]attached
}

func newRoutedHosts(gateway string, export policy.Visibility) *routedHosts {
	return &routedHosts{gateway: gateway, export: export, routes: map[hostname.Pattern][]attached{}}
}

// translator translates the objects of the Gateway API.
type translator struct {
	origins map[*policy.WeightedDestination]strictyaml.Passage
	merged  int // matches that were made
	// entries are the ServiceEntries, and listeners those of the Gateways that are
	// served, by namespace/name.
	entries   map[string][]*entry
	listeners map[string][]*listener
	grants    []Grant
}

// entry is a ServiceEntry as a parent.
type entry struct {
	parent
	ports []policy.Port
}

// Translate translates the objects of the Gateway API. The HTTPRoutes of a host make
// one VirtualService, whose rules are in the order of the Gateway API's precedence.
//
// A route in the namespace of its ServiceEntry (the producer's) is for all
// workloads; one in another namespace (a consumer's) for those of its own,
// where it takes the place of the producer's (GEP-1426).
//
// Where destinations are written goes to origins. merged are the matches that
// delegation made; both together have one bound.
func Translate(o APIObjects, services []*policy.Service, origins map[*policy.WeightedDestination]strictyaml.Passage, merged int) ([]*policy.Gateway, []*policy.VirtualService) {
	t := &translator{origins: origins, merged: merged, entries: map[string][]*entry{}, listeners: map[string][]*listener{}, grants: o.Grants}
	for _, s := range services {
		if s.External {
			name := s.Ref.Namespace + "/" + s.Ref.Name
			t.entries[name] = append(t.entries[name], &entry{parent{ref: s.Ref, name: "ServiceEntry " + name, hosts: s.Hosts}, s.Ports})
		}
	}
	gateways := t.translateGateways(&o)
	var out []*policy.VirtualService
	for _, h := range t.attachAll(o.Routes) {
		out = append(out, t.routedServices(h)...)
	}
	return gateways, append(out, t.l4Routes(o.L4Routes)...)
}

// attachAll attaches the HTTPRoutes to their parents: the consumers' first, then the
// producers', then those of listeners.
func (t *translator) attachAll(routes []HTTPRoute) (all []*routedHosts) {
	slices.SortStableFunc(routes, func(a, b HTTPRoute) int { return older(a.Created, b.Created, a.Ref, b.Ref) })
	producers := newRoutedHosts(model.Mesh, policy.Visibility{Everybody: true})
	consumers := map[string]*routedHosts{}
	byListener := map[string]*routedHosts{}
	var behind []*routedHosts
	for i, d := range routes {
		r := &gatewayRoute{HTTPRoute: d, index: i}
		t.translateRoute(r)
		hostnames := r.route().hostnames(d.V.Hostnames)
		entries, listeners := r.parents(t)
		for _, a := range entries {
			to := producers
			if ns := d.Ref.Namespace; ns != a.parent.ref.Namespace {
				if to = consumers[ns]; to == nil {
					to = newRoutedHosts(model.Mesh, policy.Visibility{Limited: true, Namespaces: []string{ns}})
					consumers[ns] = to
					all = append(all, to)
				}
			}
			to.attach(a, hostnames)
		}
		for _, l := range listeners {
			to := byListener[l.key()]
			if to == nil {
				to = newRoutedHosts(l.key(), policy.Visibility{Everybody: true})
				byListener[l.key()] = to
				behind = append(behind, to)
			}
			to.attach(attached{route: r, parent: l.parent}, hostnames)
		}
	}
	return append(append(all, producers), behind...)
}

// older orders objects: the oldest first, then by namespace and name.
func older(at, bt meta.Time, a, b policy.Ref) int {
	switch {
	case at.IsZero() != bt.IsZero():
		if at.IsZero() {
			return 1
		}
		return -1
	case !at.Equal(&bt):
		return at.Compare(bt.Time)
	}
	return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
}

// attach puts a route at the hosts that its ServiceEntry and its hostnames
// have in common.
func (t *routedHosts) attach(a attached, hostnames []hostname.Pattern) {
	hosts := a.parent.has(hostnames, len(a.route.V.Hostnames) == 0)
	if len(hosts) == 0 {
		a.route.route().noHost(a.parent)
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
		route  *gatewayRoute // nil: any
		parent *parent
	}
	out := slices.Clone(t.routes[h])
	known := map[at]bool{}
	for _, a := range out {
		known[at{a.route, a.parent}], known[at{nil, a.parent}] = true, true
	}
	for i := 1; i <= len(h); i++ {
		wide := "*" + h[i:]
		if wide == h {
			continue
		}
		for _, a := range t.routes[wide] {
			if known[at{nil, a.parent}] && !known[at{a.route, a.parent}] {
				known[at{a.route, a.parent}] = true
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
			vs = &policy.VirtualService{Ref: first.route.Ref, Gateways: []string{t.gateway}, Export: t.export}
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
