// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// importKey is a destination of a VirtualService.
type importKey struct {
	vs   *VirtualService
	host hostname.Pattern
}

// destinationPorts returns the ports for TCP that a destination has, by the
// hosts that stand for it, the most specific first.
func (b *builder) destinationPorts(at place, host string) [][]*HostPort {
	var out [][]*HostPort
	exact := false
	may := b.takes(at, host)
	w := at.p.names.Walk(host)
	for h, ok := w.Next(); ok; h, ok = w.Next() {
		if !may(h.Rule.Namespace) {
			continue
		}
		ports := h.tcpPorts()
		if string(h.Pattern) == host {
			exact = true
			if more := slices.DeleteFunc(b.imported(at, host, h), func(hp *HostPort) bool { return !may(hp.Rule.Namespace) }); len(more) > 0 {
				ports = append(ports, more...)
				slices.SortFunc(ports, func(x, y *HostPort) int { return cmp.Compare(x.Number, y.Number) })
			}
		}
		out = append(out, ports)
	}
	if !exact {
		if ports := slices.DeleteFunc(b.imported(at, host, nil), func(hp *HostPort) bool { return !may(hp.Rule.Namespace) }); len(ports) > 0 {
			out = slices.Insert(out, 0, ports)
		}
	}
	return out
}

func (h *Host) tcpPorts() []*HostPort {
	return slices.DeleteFunc(slices.Clone(h.Ports), func(hp *HostPort) bool { return hp.Protocol.Transport() != TCP })
}

// imported returns the ports of a destination that the workloads' Sidecar does
// not show, and imports with the VirtualService that leads there: rules may
// lead to them, and nothing else comes there (istio pilot/pkg/model
// SidecarScope.collectImportedServices: such a service is among the clusters,
// not on the listeners). shown is what the Sidecar does show of the host; nil:
// nothing. What it shows of another namespace is not added to, and what it
// takes out stays out.
func (b *builder) imported(at place, host string, shown *Host) []*HostPort {
	sc := at.p.class
	if !at.workload || !sc.sidecar.limits() || !b.countsFor(sc, at.vs) {
		return nil
	}
	key := importKey{at.vs, hostname.Pattern(host)}
	h, ok := b.imports[key]
	if !ok {
		h = b.importHost(at, key.host, shown)
		b.imports[key] = h
	}
	if h == nil {
		return nil
	}
	return h.tcpPorts()
}

func (b *builder) importHost(at place, host hostname.Pattern, shown *Host) *Host {
	sc := at.p.class
	edit := &hostEdit{b: b, scope: sc, policy: at.p, auth: b.authScope(sc), destinations: b.destinationScope(sc)}
	visible := slices.DeleteFunc(slices.Clone(b.declarersOf(host)), func(s *Service) bool {
		return !b.sees(sc, s) || b.index.owner(sc.home, host, s) != nil || len(sc.sidecar.ways(at.vs, s.Ref.Namespace, host)) == 0
	})
	slices.SortStableFunc(visible, edit.compare)
	var parts []*Service
	for _, s := range visible {
		if s.Ref.Namespace != visible[0].Ref.Namespace || shown != nil && s.Ref.Namespace != shown.services[0].Ref.Namespace {
			continue
		}
		ways := sc.sidecar.ways(at.vs, s.Ref.Namespace, host)
		one := *s
		one.Hosts, one.Ports, one.Derived = []hostname.Pattern{host}, nil, &Derived{Of: s}
		for _, p := range s.Ports {
			// A listener for one port imports that alone.
			way := func(e SidecarEgress) bool { return e.Port == 0 || e.Port == p.Number }
			if slices.ContainsFunc(ways, way) && (shown == nil || shown.Port(p.Protocol.Transport(), p.Number) == nil) {
				one.Ports = append(one.Ports, p)
			}
		}
		if len(one.Ports) > 0 {
			parts = append(parts, &one)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return b.host(edit, host, parts)
}

// declarersOf returns the ServiceEntries that declare exactly a destination.
func (b *builder) declarersOf(host hostname.Pattern) []*Service {
	if b.declaring == nil {
		b.declaring = map[hostname.Pattern][]*Service{}
		for _, vs := range b.cfg.VirtualServices {
			for _, h := range vs.LedTo() {
				b.declaring[hostname.Pattern(h)] = nil
			}
		}
		for _, s := range b.cfg.Services {
			if !s.External {
				continue
			}
			for _, h := range s.Hosts {
				if list, ok := b.declaring[h]; ok {
					b.declaring[h] = append(list, s)
				}
			}
		}
	}
	return b.declaring[host]
}
