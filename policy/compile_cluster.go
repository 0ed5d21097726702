// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/cow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/ipguard"
)

// insidePrefixes are the prefixes of the cluster without what is never inside:
// node-local addresses. None overlaps another.
func insidePrefixes(c *Cluster) []netip.Prefix {
	holes := ipguard.NodeLocal()
	var all []netip.Prefix
	for _, p := range c.Prefixes {
		all = append(all, ipguard.Without(ipguard.Plain(p), holes)...)
	}
	slices.SortFunc(all, func(x, y netip.Prefix) int { return x.Bits() - y.Bits() })
	var out []netip.Prefix
	for _, p := range all {
		if !slices.ContainsFunc(out, p.Overlaps) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePrefix)
	return out
}

// cluster compiles what is open inside of the cluster.
func (h *hostEdit) cluster() clusterTable {
	narrow := h.scope.sidecar.limits()
	if h.old != emptyPolicy && !narrow {
		return h.old.cluster // of the same prefixes
	}
	e := clusterEdit{t: h.old.cluster, entries: h.old.cluster.entries.Edit()}
	if !narrow {
		for _, prefix := range h.policy.inside {
			e.set(addressKey{prefix, TCP, 0}, &clusterEntry{})
			e.set(addressKey{prefix, UDP, 0}, &clusterEntry{})
		}
		return e.finish()
	}
	if len(h.policy.inside) == 0 {
		return e.finish()
	}
	for _, s := range h.removed {
		for _, k := range h.serviceKeys(s) {
			e.remove(k, s)
		}
		e.name(h.scope, s)
	}
	for _, s := range h.added {
		for _, k := range h.serviceKeys(s) {
			e.add(k, s)
		}
		e.name(h.scope, s)
	}
	return e.finish()
}

// serviceKeys are what a Kubernetes Service opens for workloads whose Sidecar
// imports it: its ports at its addresses, and at its endpoints, since the node's
// own address translation leads there before a packet is looked at. What lies
// outside of the cluster it does not open: who writes endpoints would open the
// internet.
func (h *hostEdit) serviceKeys(s *Service) []addressKey {
	if s.External || !h.b.sees(h.scope, s) {
		return nil
	}
	var out []addressKey
	add := func(a netip.Addr, t Transport, port uint16) {
		a = a.Unmap()
		if k := (addressKey{netip.PrefixFrom(a, a.BitLen()), t, port}); h.policy.IsInside(a) && port != 0 && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	for _, p := range h.scope.sidecar.importedPorts(s) {
		t := p.Protocol.Transport()
		for _, a := range s.ClusterIPs {
			add(a, t, p.Number)
		}
		for _, e := range s.Endpoints {
			if !e.Addr.IsValid() || slices.Contains(s.ClusterIPs, e.Addr) {
				continue
			}
			add(e.Addr, t, endpointPort(p, e))
			if len(s.ClusterIPs) == 0 {
				add(e.Addr, t, p.Number)
			}
		}
	}
	return out
}

func newClusterTable() clusterTable {
	return clusterTable{entries: cow.New[addressKey, *clusterEntry](hashAddress)}
}

// clusterEdit collects changes to a copy of a clusterTable.
type clusterEdit struct {
	t       clusterTable
	entries *cow.Edit[addressKey, *clusterEntry]
}

func (e *clusterEdit) set(k addressKey, now *clusterEntry) {
	if was, ok := e.entries.Get(k); ok {
		e.t.sum.toggle(was.digest(k))
	}
	if now == nil {
		e.entries.Delete(k)
		return
	}
	e.entries.Set(k, now)
	e.t.sum.toggle(now.digest(k))
}

func (e *clusterEdit) add(k addressKey, s *Service) {
	var now clusterEntry
	if was, ok := e.entries.Get(k); ok {
		now.services = slices.Clone(was.services)
	}
	now.services = append(now.services, s)
	slices.SortFunc(now.services, func(x, y *Service) int {
		return cmp.Or(strings.Compare(x.Ref.Namespace, y.Ref.Namespace), strings.Compare(x.Ref.Name, y.Ref.Name))
	})
	e.set(k, &now)
}

func (e *clusterEdit) remove(k addressKey, s *Service) {
	was, ok := e.entries.Get(k)
	if !ok {
		return
	}
	now := clusterEntry{services: slices.DeleteFunc(slices.Clone(was.services), func(o *Service) bool { return o == s })}
	if len(now.services) == 0 {
		e.set(k, nil)
		return
	}
	e.set(k, &now)
}

// name notes that the name of a Service may be asked for, or that it may no more.
func (e *clusterEdit) name(sc *identityClass, s *Service) {
	if s.External || len(sc.sidecar.importedPorts(s)) == 0 {
		return
	}
	var d digest
	d.text(func(t *lines) { t.line(0, "name %v %v", s.Hosts, s.Export) })
	e.t.sum.toggle(d)
}

func (e *clusterEdit) finish() clusterTable {
	e.t.entries = e.entries.Map()
	return e.t
}

// openings are what the kernel is told of an entry: that it is open, where it
// knows nothing else.
func (t *clusterTable) openings(k addressKey) []Opening {
	if _, ok := t.entries.Get(k); !ok {
		return nil
	}
	return []Opening{{Prefix: k.prefix, Port: k.port, Transport: k.transport, Verdict: Direct}}
}

// changes lists what two tables differ in.
func (t *clusterTable) changes(old *clusterTable) (out []StaticChange) {
	for k, c := range t.entries.Changed(&old.entries) {
		if c.Had != c.Has {
			out = append(out, StaticChange{Prefix: k.prefix, Transport: k.transport, Port: k.port, Inside: true, Openings: t.openings(k)})
		}
	}
	return out
}

// keys are those of the entries.
func (t *clusterTable) keys() map[addressKey]bool {
	out := make(map[addressKey]bool, t.entries.Len())
	for k := range t.entries.All() {
		out[k] = true
	}
	return out
}

func compareKey(x, y addressKey) int {
	return cmp.Or(comparePrefix(x.prefix, y.prefix), cmp.Compare(x.transport, y.transport), cmp.Compare(x.port, y.port))
}

// digest covers the entry, and which Services it is of.
func (e *clusterEntry) digest(k addressKey) digest {
	var d digest
	d.text(func(l *lines) { e.write(l, 0, k) })
	return d
}

// closedTo are the prefixes of the cluster in which the addresses that a service
// names do not count for the workloads of a scope. They are other tenants'
// Services and Pods: a rule there would take the traffic to them. So a rule of
// another namespace than the workload's own and the root's ends where the
// cluster begins.
func (b *builder) closedTo(sc *identityClass, s *Service) []netip.Prefix {
	if ns := s.Ref.Namespace; ns == sc.home || ns == b.rootNamespace() {
		return nil
	}
	return b.inside
}

// insiders lists the namespaces whose services name addresses inside of the
// cluster, or names of it: for their own workloads these count.
func (b *builder) insiders() (out []string) {
	if len(b.inside) == 0 {
		return nil
	}
	seen := map[string]bool{}
	for _, s := range b.cfg.Services {
		if s.External && !seen[s.Ref.Namespace] && b.namesInside(s) {
			seen[s.Ref.Namespace] = true
			out = append(out, s.Ref.Namespace)
		}
	}
	return out
}

func (b *builder) namesInside(s *Service) bool {
	if slices.ContainsFunc(s.Addresses, func(a netip.Prefix) bool {
		return slices.ContainsFunc(b.inside, ipguard.Plain(a).Overlaps)
	}) {
		return true
	}
	for _, domain := range b.cfg.Cluster.Names() { // its names lead inside
		if slices.ContainsFunc(s.Hosts, hostname.Pattern("*."+domain).Overlaps) {
			return true
		}
	}
	// A STATIC one without endpoints may take those of a Kubernetes Service.
	return s.Resolution == ResolutionStatic && (len(s.Endpoints) == 0 ||
		slices.ContainsFunc(s.Endpoints, func(e Endpoint) bool { return within(b.inside, e.Addr.Unmap()) }))
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	return a.IsValid() && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
