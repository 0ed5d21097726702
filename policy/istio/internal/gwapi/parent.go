// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"fmt"
	"net/netip"
	"slices"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// route is what routes of all kinds have in common.
type route struct {
	check.Checker
	ref     policy.Ref
	kind    string
	node    *strictyaml.Node // its spec
	parents []gateway.ParentReference
}

func (r *HTTPRoute) route() *route {
	return &route{r.Checker, r.Ref, r.Ref.Kind, r.Node, r.V.ParentRefs}
}

// parents finds the ServiceEntries and the listeners that the route is for.
func (r *gatewayRoute) parents(t *translator) (entries []attached, listeners []*listener) {
	entries, listeners = r.route().find(t)
	for i := range entries {
		entries[i].route = r
	}
	return entries, listeners
}

// find finds the parents of a route that are served.
func (r *route) find(t *translator) (entries []attached, listeners []*listener) {
	found := map[*entry]int{}
	seen := map[string]bool{}
	if len(r.parents) == 0 {
		r.Warnf(r.node, "no parentRefs: the route is for nothing")
	}
	for i, p := range r.parents {
		at := r.node.At("parentRefs", i)
		name := string(value(p.Namespace, gateway.Namespace(r.ref.Namespace))) + "/" + string(p.Name)
		isEntry, isGateway := r.parentKind(at, p, name, t)
		if !isEntry && !isGateway {
			continue
		}
		key := fmt.Sprint(isEntry, name, " ", value(p.SectionName, ""), " ", value(p.Port, 0))
		if seen[key] {
			r.Errorf(at, "sectionName or port must be unique when parentRefs includes 2 or more references to the same parent")
			continue
		}
		seen[key] = true
		if isGateway {
			for _, l := range r.sections(at, p, name, t.listeners[name]) {
				if !slices.Contains(listeners, l) {
					listeners = append(listeners, l)
				}
			}
			continue
		}
		if len(t.entries[name]) == 0 {
			r.Warnf(at.At("name"), "there is no ServiceEntry %s: the route is not acted on for it", name)
		}
		for _, s := range t.entries[name] {
			ports, ok := r.section(at, p, s)
			if !ok {
				continue
			}
			if j, again := found[s]; !again {
				found[s] = len(entries)
				entries = append(entries, attached{parent: &s.parent, ports: ports})
			} else if entries[j].ports != nil {
				if ports != nil {
					ports = append(ports, entries[j].ports...)
					slices.Sort(ports)
				}
				entries[j].ports = slices.Compact(ports)
			}
		}
	}
	return entries, listeners
}

// hostnames reads the names that the route is restricted to.
func (r *route) hostnames(names []gateway.Hostname) []hostname.Pattern {
	var out []hostname.Pattern
	for i, s := range names {
		at := r.node.At("hostnames", i)
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

// parentKind says whether a parent is a ServiceEntry or a Gateway that is
// served, and what becomes of it otherwise.
func (r *route) parentKind(at *strictyaml.Node, p gateway.ParentReference, name string, t *translator) (isEntry, isGateway bool) {
	group, kind := value(p.Group, Group), value(p.Kind, "Gateway")
	switch {
	case kind == "ServiceEntry" && group == model.NetworkingGroup && r.kind == model.HTTPRoute:
		return true, false
	case kind == "ServiceEntry" && group == model.NetworkingGroup:
		r.Warnf(at.At("kind"), "the route is not acted on for the ServiceEntry %s: an HTTPRoute, or a VirtualService, can be", p.Name)
	case kind == "ServiceEntry":
		r.Errorf(at.At("group"), "parentRefs: a ServiceEntry is of group %s, not %q", model.NetworkingGroup, group)
	case kind == "Service" && group == "":
		r.Say(strictyaml.Note, at, "the route is not acted on for the Service %s: egressd acts on what ServiceEntries open", p.Name)
	case group == Group && kind == "Gateway" && t.listeners[name] != nil:
		return false, true
	case group == Group && slices.Contains([]gateway.Kind{"Gateway", "ListenerSet"}, kind):
		NoGateway(&r.Reporter, at, string(kind))
	default:
		r.Warnf(at.At("kind"), "the route is not acted on for the %s %s%s", kind, p.Name,
			strictyaml.DidYouMean(string(kind), []string{"Gateway", "ListenerSet", "Service", "ServiceEntry"}))
	}
	return false, false
}

// sections finds the listeners that a parentRef names and that let the route
// attach.
func (r *route) sections(at *strictyaml.Node, p gateway.ParentReference, name string, all []*listener) (out []*listener) {
	named := false
	for _, l := range all {
		if value(p.SectionName, l.in.Name) != l.in.Name || value(p.Port, int32(l.in.Port)) != int32(l.in.Port) {
			continue
		}
		named = true
		if l.allows(r.kind, r.ref.Namespace) {
			out = append(out, l)
		}
	}
	switch {
	case !named:
		r.Warnf(at, "Gateway %s serves no such listener: the route is not acted on for it", name)
	case len(out) == 0:
		r.Warnf(at, "no listener of Gateway %s lets a %s of namespace %s attach (allowedRoutes): the route is not acted on for it", name, r.kind, r.ref.Namespace)
	}
	return out
}

// section finds the ports that a parentRef restricts the route to; nil: all.
func (r *route) section(at *strictyaml.Node, p gateway.ParentReference, s *entry) ([]uint16, bool) {
	if p.SectionName == nil && p.Port == nil {
		return nil, true
	}
	for _, port := range s.ports {
		if value(p.SectionName, gateway.SectionName(port.Name)) == gateway.SectionName(port.Name) &&
			value(p.Port, int32(port.Number)) == int32(port.Number) {
			return []uint16{port.Number}, true
		}
	}
	r.Warnf(at, "%s has no such port: the route is not acted on for it", s.name)
	return nil, false
}

// Grant is a ReferenceGrant as it was read.
type Grant struct {
	Namespace string
	V         *gateway.ReferenceGrantSpec
}

// ofGateway says whether a parent of the route is a Gateway.
func (r *route) ofGateway() bool {
	return slices.ContainsFunc(r.parents, func(p gateway.ParentReference) bool {
		return value(p.Kind, "Gateway") == "Gateway" && value(p.Group, Group) == Group
	})
}

// granted says whether a route of a Gateway may refer to a Service: one of its own
// namespace, or one that a ReferenceGrant there lets it refer to. Routes of
// ServiceEntries are for workloads, which reach the Service themselves.
func (t *translator) granted(r *route, namespace, service string) bool {
	from := r.ref.Namespace
	if from == namespace || !r.ofGateway() {
		return true
	}
	return slices.ContainsFunc(t.grants, func(g Grant) bool {
		return g.Namespace == namespace &&
			slices.ContainsFunc(g.V.From, func(f gateway.ReferenceGrantFrom) bool {
				return f.Group == Group && string(f.Kind) == r.kind && string(f.Namespace) == from
			}) &&
			slices.ContainsFunc(g.V.To, func(to gateway.ReferenceGrantTo) bool {
				return to.Group == "" && to.Kind == "Service" && value(to.Name, gateway.ObjectName(service)) == gateway.ObjectName(service)
			})
	})
}
