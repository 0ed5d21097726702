// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"maps"
	"reflect"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// openPort is a port as it can be open once.
type openPort struct {
	number    uint16
	transport policy.Transport
}

// sharedHosts finds ServiceEntries that open one port of one host differently.
func (a *analysis) sharedHosts() {
	for _, h := range slices.SortedFunc(maps.Keys(a.hosts.several), hostname.Compare) {
		open := map[openPort]*policy.Service{}
		for _, s := range a.hosts.several[h] {
			if !s.External {
				continue // a ServiceEntry may take a Service over
			}
			for i, p := range s.Ports {
				key := openPort{p.Number, p.Protocol.Transport()}
				first := open[key]
				switch {
				case first == nil:
					open[key] = s
				case first != s && first.Ref.Namespace == s.Ref.Namespace && overlap(first.Export, s.Export):
					a.conflict(h, first, s, i)
				}
			}
		}
		a.contestedHost(h)
	}
}

// contestedHost warns about ServiceEntries of several namespaces for one host
// when it makes a difference which of them counts.
func (a *analysis) contestedHost(h hostname.Pattern) {
	list := slices.DeleteFunc(slices.Clone(a.hosts.several[h]), func(s *policy.Service) bool { return !s.External })
	age := func(s *policy.Service) uint64 { return uint64(s.Created) - 1 } // unknown is the youngest
	slices.SortStableFunc(list, func(x, y *policy.Service) int { return cmp.Compare(age(x), age(y)) })
	said := map[string]bool{} // namespaces
	for _, s := range list {
		first := list[0]
		if s.Ref.Namespace == first.Ref.Namespace || said[s.Ref.Namespace] || !overlap(first.Export, s.Export) {
			continue
		}
		for i, p := range s.Ports {
			same := slices.ContainsFunc(list, func(o *policy.Service) bool {
				return o.Ref.Namespace == first.Ref.Namespace && slices.ContainsFunc(o.Ports, func(q policy.Port) bool {
					return q.Number == p.Number && sameProtocol(p.Protocol, q.Protocol) && targetOf(p) == targetOf(q) &&
						o.Resolution == s.Resolution && reflect.DeepEqual(o.Endpoints, s.Endpoints) && slices.Equal(o.Addresses, s.Addresses)
				})
			})
			if same {
				continue
			}
			said[s.Ref.Namespace] = true
			at := a.part(s.Ref)
			at.Warnf(at.spec("ports", i), "%s (%s) of another namespace declares %s, too, and otherwise: workloads of namespace %s have this one, "+
				"those of %s and of all other namespaces that one alone, and what is said here of port %d does not count for them",
				nameOf(first.Ref), first.Ref.Position(), h, s.Ref.Namespace, first.Ref.Namespace, p.Number)
			break
		}
	}
}

func (a *analysis) conflict(h hostname.Pattern, first, s *policy.Service, i int) {
	p := s.Ports[i]
	j := slices.IndexFunc(first.Ports, func(q policy.Port) bool {
		return q.Number == p.Number && q.Protocol.Transport() == p.Protocol.Transport()
	})
	q := first.Ports[j]
	where := a.part(s.Ref)
	at := where.spec("ports", i)
	switch {
	case !sameProtocol(p.Protocol, q.Protocol):
		where.Warnf(at.At("protocol"), "port %d of %s has protocol %s here and %s in %s (%s): conflicting protocols; where both are visible, the first applies",
			p.Number, h, protocolName(p.Protocol), protocolName(q.Protocol), nameOf(first.Ref), first.Ref.Position())
	case first.Resolution != s.Resolution || targetOf(p) != targetOf(q) || !reflect.DeepEqual(first.Endpoints, s.Endpoints):
		where.Warnf(at, "%s (%s) already opens port %d of %s and leads it elsewhere; where both are visible, the first applies",
			nameOf(first.Ref), first.Ref.Position(), p.Number, h)
	}
}

func sameProtocol(a, b policy.Protocol) bool { return a == b || a.IsTLS() && b.IsTLS() }

func protocolName(p policy.Protocol) string {
	if p == policy.ProtocolUnset {
		return "none"
	}
	return p.String()
}

func targetOf(p policy.Port) uint16 {
	if p.TargetPort == 0 {
		return p.Number
	}
	return p.TargetPort
}

// exports finds objects that are visible in namespaces where nobody is. That
// is nearly always a namespace that is written wrongly.
func (a *analysis) exports() {
	for _, s := range a.cfg.Services {
		a.export(s.Ref, s.Export)
	}
	for _, vs := range a.cfg.VirtualServices {
		a.export(vs.Ref, vs.Export)
	}
	for _, r := range a.cfg.DestinationRules {
		a.export(r.Ref, r.Export)
	}
}

func (a *analysis) export(ref policy.Ref, v policy.Visibility) {
	var places map[string]*strictyaml.Node // of the namespaces
	for _, ns := range v.Namespaces {
		if a.namespaces[ns] || ns == policy.DefaultNamespace {
			continue
		}
		where := a.part(ref)
		list := where.spec("exportTo")
		if places == nil {
			places = map[string]*strictyaml.Node{}
			for _, n := range list.List() {
				places[n.Text] = n
			}
		}
		at := places[ns]
		if at == nil {
			at = list
		}
		where.Warnf(at, "exportTo %s: there is no object and no workload in that namespace", ns)
	}
}
