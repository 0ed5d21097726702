// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/cow"
	"github.com/egressd/egressd/internal/hostname"
)

// clusterTable is what is open inside of the cluster where no rule says
// anything: the cluster's prefixes on every port, or, under a Sidecar with
// egress hosts, the Kubernetes Services that it imports. It stands behind
// everything else: what a rule says of an address and port is all that counts
// there. It is immutable.
type clusterTable struct {
	// entries are for every port when their port is 0.
	entries cow.Map[addressKey, *clusterEntry]
	sum     digest
}

// clusterEntry is one prefix, transport and port.
type clusterEntry struct {
	// services have it as theirs, sorted by their Refs; none: it is one of the
	// cluster's prefixes.
	services []*Service
}

// rule is the Service that opens the entry; nil: --cluster-cidr does.
func (e *clusterEntry) rule() *Ref {
	if len(e.services) == 0 {
		return nil
	}
	return &e.services[0].Ref
}

// write writes what is open inside of the cluster where no rule says anything.
func (e *clusterEntry) write(l *lines, depth int, k addressKey) {
	if len(e.services) == 0 {
		l.line(depth, "inside %v %v", k.prefix, k.transport)
		return
	}
	var refs []*Ref
	for _, s := range e.services {
		refs = append(refs, &s.Ref)
	}
	l.line(depth, "inside %v %v %d %v", k.prefix, k.transport, k.port, refs)
}

// Inside is what opens a destination inside of the cluster.
type Inside struct {
	// Prefix is the cluster's, or the single address of Service.
	Prefix netip.Prefix
	// Service is the Kubernetes Service that a Sidecar imports; nil: no Sidecar
	// narrows what is open inside.
	Service *Ref
}

// Inside says what opens a flow inside of the cluster, where no rule says
// anything about its destination.
func (p *Policy) Inside(t Transport, dst netip.AddrPort) (Inside, bool) {
	a := dst.Addr().Unmap().WithZone("")
	if t != TCP && t != UDP || !a.IsValid() || len(p.inside) == 0 {
		return Inside{}, false
	}
	for _, prefix := range p.inside {
		if !prefix.Contains(a) {
			continue
		}
		if _, ok := p.cluster.entries.Get(addressKey{prefix, t, 0}); ok {
			return Inside{Prefix: prefix}, true
		}
		one := netip.PrefixFrom(a, a.BitLen())
		if e, ok := p.cluster.entries.Get(addressKey{one, t, dst.Port()}); ok {
			return Inside{one, e.rule()}, true
		}
		break // they do not overlap
	}
	return Inside{}, false
}

// opensRest says whether a flow that no rule is for passes, and which object
// says so (nil: none, or the operator's flag): inside of the cluster, or
// anywhere under ALLOW_ANY. What a guard refuses is no such flow.
func (p *Policy) opensRest(f *Flow) (rule *Ref, open bool) {
	if in, ok := p.Inside(f.Transport, f.Dst); ok {
		return in.Service, true
	}
	return p.class.outboundRule, p.AllowsUnknown()
}

// opensUnnamed says whether what no rule names is open at an address, on
// whatever port: without an entry of its own, nothing is closed there.
func (p *Policy) opensUnnamed(a netip.Addr) bool {
	return p.AllowsUnknown() || slices.ContainsFunc(p.inside, func(in netip.Prefix) bool { return in.Contains(a) })
}

// Narrows says whether something is open that no rule names, so that rules can
// also close: under ALLOW_ANY, or inside of a cluster.
func (p *Policy) Narrows() bool { return p.AllowsUnknown() || len(p.inside) > 0 }

// sameRest says whether names open what they open by the same means: nothing
// is closed in one of two policies, or belongs to others, that is not in the
// other one.
func (p *Policy) sameRest(o *Policy) bool {
	return p.AllowsUnknown() == o.AllowsUnknown() && slices.Equal(p.inside, o.inside) &&
		(len(p.inside) == 0 || slices.Equal(p.domains, o.domains)) &&
		(len(p.inside) == 0 || p.class.home == o.class.home && p.index.cfg.Mesh.Root() == o.index.cfg.Mesh.Root())
}

// ClusterQuery is what becomes of a DNS query for a name of the cluster's that
// no rule names.
type ClusterQuery uint8

const (
	// NotOfCluster: it is no name of the cluster's.
	NotOfCluster ClusterQuery = iota
	// OfCluster: the cluster's DNS is asked. The answer opens nothing.
	OfCluster
	// NotInCluster: no Service or Pod has such a name; nobody is asked.
	NotInCluster
	// NotImported: the workload's Sidecar does not import the Service.
	NotImported
)

// ClusterName says what becomes of a query for a normalized name that ends in
// the cluster's domain, or is the address of one of its prefixes in reverse.
func (p *Policy) ClusterName(name string) ClusterQuery {
	if len(p.inside) == 0 {
		return NotOfCluster
	}
	for _, domain := range p.domains {
		if name == domain {
			return p.clusterAnswer(nil)
		}
		if head, ok := strings.CutSuffix(name, "."+domain); ok {
			labels := strings.Split(head, ".")
			if !clusterShape(labels) {
				return NotInCluster
			}
			return p.clusterAnswer(labels)
		}
	}
	if a, ok := hostname.Reverse(name); ok && slices.ContainsFunc(p.inside, func(in netip.Prefix) bool { return in.Contains(a) }) {
		return p.clusterAnswer(nil)
	}
	return NotOfCluster
}

// clusterShape says whether the labels before the cluster's domain are those of
// a name that the cluster's DNS can have (Kubernetes DNS specification 1.1.0).
// Others are no Service's: they come from search suffixes, and from who would
// have data carried by a name.
func clusterShape(labels []string) bool {
	n := len(labels) - 1
	switch labels[n] {
	case "svc": // [[[_PORT._PROTOCOL.|HOSTNAME.]SERVICE.]NAMESPACE.]svc
		return n <= 3 || n == 4 && isServiceLabel(labels[0]) && (labels[1] == "_tcp" || labels[1] == "_udp" || labels[1] == "_sctp")
	case "pod": // [[A-B-C-D.]NAMESPACE.]pod
		return n <= 2
	case "dns-version":
		return n == 0
	}
	return false
}

// isServiceLabel says whether a label is a port's name with an underscore; a
// port's name has 15 letters at most (RFC 6335).
func isServiceLabel(label string) bool { return len(label) > 1 && len(label) <= 16 && label[0] == '_' }

// clusterAnswer says whether the workload may ask for a name with these labels
// before the cluster's domain; none for a name that is no Service's.
func (p *Policy) clusterAnswer(labels []string) ClusterQuery {
	if !p.class.sidecar.limits() || p.AllowsUnknown() {
		return OfCluster
	}
	n := len(labels)
	if n < 3 || labels[n-1] != "svc" {
		return NotImported
	}
	s := p.index.borrow[[2]string{labels[n-2], labels[n-3]}]
	if s == nil || !p.importsService(s) {
		return NotImported
	}
	return OfCluster
}

// importsService says whether the Sidecar shows a port of a Kubernetes Service,
// or the Service where it has none.
func (p *Policy) importsService(s *Service) bool {
	sees := visible(s.Export, p.class.identity.Namespace, inNamespace(p.index.cfg.Mesh.DefaultServiceExport, s.Ref.Namespace))
	return sees && len(p.class.sidecar.importedPorts(s)) > 0
}

// importedPorts are the ports of a Kubernetes Service that the Sidecar shows. A
// Service without ports has one without a number.
func (sc sidecarScope) importedPorts(s *Service) (out []Port) {
	ports := s.Ports
	if len(ports) == 0 {
		ports = []Port{{}}
	}
	for _, p := range ports {
		if slices.ContainsFunc(s.Hosts, func(h hostname.Pattern) bool { return slices.Contains(sc.shows(s.Ref.Namespace, h, p.Number), h) }) {
			out = append(out, p)
		}
	}
	return out
}

// ClusterServers are the addresses of the cluster's DNS service: those that the
// operator named, else those of the Service kube-dns of namespace kube-system.
func (p *Policy) ClusterServers() []netip.Addr {
	if len(p.inside) == 0 {
		return nil
	}
	c := &p.index.cfg.Cluster
	if len(c.Servers) > 0 {
		return c.Servers
	}
	s := p.index.borrow[[2]string{"kube-system", "kube-dns"}]
	if s == nil {
		return nil
	}
	return s.ClusterIPs
}

// clusterNamespace says whose a name under the cluster's domain is, by the name
// itself: "" for none's.
func (p *Policy) clusterNamespace(name string) (namespace string, ok bool) {
	if len(p.inside) == 0 {
		return "", false
	}
	for _, domain := range p.domains {
		head, of := strings.CutSuffix(name, domain)
		if !of || head != "" && head[len(head)-1] != '.' {
			continue
		}
		head = strings.TrimSuffix(head, ".")
		if rest, of := strings.CutSuffix(head, ".svc"); of {
			head = rest
		} else if head, of = strings.CutSuffix(head, ".pod"); !of {
			return "", true
		}
		return head[strings.LastIndexByte(head, '.')+1:], true
	}
	return "", false
}

// mayName says whether a host counts for a name of the cluster's that belongs
// to a namespace: as base.mayHave, whether there is such a Service or not.
func (p *Policy) mayName(h *Host, namespace string) bool {
	ns := h.Rule.Namespace
	return ns == p.class.home || ns == p.index.cfg.Mesh.Root() || ns == namespace || byRules(h.services[0])
}

// outside says whether a rule that was found by a name does not count at an
// address: that is inside of the cluster, and the rule is of another namespace
// than the workload's own and the root's. It would take the traffic to another
// tenant's Service: anybody of its policy may have asked for the name.
func (p *Policy) outside(hp *HostPort, a netip.Addr) bool {
	ns := hp.Rule.Namespace
	return len(p.inside) > 0 && ns != p.class.home && ns != p.index.cfg.Mesh.Root() && p.IsInside(a)
}

// IsInside says whether an address is inside of the cluster, whether it is open
// or not.
func (p *Policy) IsInside(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(p.inside, func(in netip.Prefix) bool { return in.Contains(a) })
}
