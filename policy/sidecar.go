// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// sidecarScope is a Sidecar as it counts for the workloads of a namespace; the
// zero value is none.
type sidecarScope struct {
	*Sidecar
	// local is the namespace that "." stands for; "": there is none.
	local string
}

// narrow returns the parts of s that the Sidecar shows: s alone when that is
// all of it, else one part for each host. A host that the Sidecar names more
// closely than the service does is open as closely as that.
func (sc sidecarScope) narrow(s *Service) []*Service {
	ports := map[hostname.Pattern][]Port{}
	whole := true
	for _, h := range s.Hosts {
		for _, p := range s.Ports {
			shown := sc.shows(s.Ref.Namespace, h, p.Number)
			whole = whole && slices.Contains(shown, h)
			for _, as := range shown {
				ports[as] = append(ports[as], p)
			}
		}
	}
	if whole {
		return []*Service{s}
	}
	var out []*Service
	for _, h := range slices.SortedFunc(maps.Keys(ports), hostname.Compare) {
		one := *s
		one.Hosts, one.Ports, one.Derived = []hostname.Pattern{h}, ports[h], &Derived{Of: s}
		out = append(out, &one)
	}
	return out
}

// whole returns the service that s is, or is a part of.
func whole(s *Service) *Service {
	if s.Derived != nil && s.Derived.Of != nil {
		return s.Derived.Of
	}
	return s
}

// byRules says whether rules for TLS alone declare a service.
func byRules(s *Service) bool { return s.Derived != nil && s.Derived.ByRules }

// limits says whether the Sidecar, which may be none, leaves anything out.
func (sc sidecarScope) limits() bool { return sc.Sidecar != nil && len(sc.Egress) > 0 }

// imports says whether the rules of a VirtualService count under the Sidecar,
// on whatever port: a listener names a host of it in the namespace that the
// VirtualService is of (Istio's SidecarScope). Without a Sidecar all are imported.
func (sc sidecarScope) imports(vs *VirtualService) bool {
	return !sc.limits() || slices.ContainsFunc(sc.Egress, func(e SidecarEgress) bool { return listenerImports(&e, vs) })
}

// listenerImports says whether the listener imports a VirtualService. Its host and the
// listener's need only overlap; that of an HTTPRoute must be within the
// listener's (istio pilot/pkg/model hostClassification.VSMatches).
func listenerImports(e *SidecarEgress, vs *VirtualService) bool {
	names := func(sh SidecarHost, h hostname.Pattern) bool {
		return !sh.Not && about(&sh, vs.Ref.Namespace) && (sh.Host.Covers(h) || vs.Ref.Kind == "VirtualService" && sh.Host.Overlaps(h))
	}
	return slices.ContainsFunc(vs.Hosts, func(h hostname.Pattern) bool {
		return !takesOut(e, vs.Ref.Namespace, h) && slices.ContainsFunc(e.Hosts, func(sh SidecarHost) bool { return names(sh, h) })
	})
}

// about says whether the entry is about objects of a namespace.
func about(sh *SidecarHost, namespace string) bool {
	return sh.Namespace == "*" || sh.Namespace == namespace
}

// takesOut says whether the listener takes a host of a namespace out, whole.
func takesOut(e *SidecarEgress, namespace string, h hostname.Pattern) bool {
	return slices.ContainsFunc(e.Hosts, func(sh SidecarHost) bool { return sh.Not && about(&sh, namespace) && sh.Host.Covers(h) })
}

// actsOn returns the ports that the rules of a VirtualService are for under the
// Sidecar: those of the listeners that import it.
func (sc sidecarScope) actsOn(vs *VirtualService) portSet {
	if !sc.limits() {
		return portSet{}
	}
	var only, but []uint16
	rest := false // whether the listener for all other ports imports it
	for i := range sc.Egress {
		e := &sc.Egress[i]
		switch imported := listenerImports(e, vs); {
		case e.Port == 0:
			rest = rest || imported
		case imported:
			only = append(only, e.Port)
		default:
			but = append(but, e.Port)
		}
	}
	if rest {
		return portSet{list: but}
	}
	return portSet{only: true, list: only}
}

// ways are the listeners by which rules of a VirtualService may lead to a host
// of a namespace, whatever else is visible: they import the one and do not take
// out the other.
func (sc sidecarScope) ways(vs *VirtualService, namespace string, h hostname.Pattern) []SidecarEgress {
	return slices.DeleteFunc(slices.Clone(sc.Egress), func(e SidecarEgress) bool { return !listenerImports(&e, vs) || takesOut(&e, namespace, h) })
}

// portSet is all ports but those of a list, or only those. The zero value is
// all.
type portSet struct {
	only bool
	list []uint16
}

func (s portSet) has(port uint16) bool { return slices.Contains(s.list, port) == s.only }

// all says whether no port is left out.
func (s portSet) all() bool { return !s.only && len(s.list) == 0 }

// shows returns the patterns under which a host and port of a namespace are
// visible; several when the Sidecar names parts of a wildcard. A part that is
// taken out ("~namespace/host") takes out all that covers it: a wildcard
// cannot be open with a hole in it.
func (sc sidecarScope) shows(namespace string, h hostname.Pattern, port uint16) []hostname.Pattern {
	own := slices.ContainsFunc(sc.Egress, func(e SidecarEgress) bool { return e.Port == port })
	var out, not []hostname.Pattern
	for _, e := range sc.Egress {
		if e.Port != port && (e.Port != 0 || own) {
			continue
		}
		for _, sh := range e.Hosts {
			switch {
			case sh.Namespace != "*" && sh.Namespace != namespace:
			case sh.Not:
				not = append(not, sh.Host)
			case sh.Host.Covers(h):
				out = append(out, h)
			case h.Covers(sh.Host):
				out = append(out, sh.Host)
			}
		}
	}
	out = slices.DeleteFunc(out, func(p hostname.Pattern) bool { return slices.ContainsFunc(not, p.Overlaps) })
	slices.SortFunc(out, hostname.Compare)
	return slices.Compact(out)
}
