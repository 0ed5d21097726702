// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// Snapshot is the compiled policy of a node. It is immutable, and everything
// decides from one Snapshot at a time. The zero Snapshot has no policy.
type Snapshot struct {
	policies  []*Policy // sorted by id
	workloads []BoundWorkload
	listeners []*GatewayListener
	warnings  []Warning
	hash      string // what of sum is no place, in hexadecimal
	sum       digest
	index     *index
	// gateways are the policies of the gateways that serve others, by the
	// keys of their classes, where no workload has the same.
	gateways map[string]*Policy
	// ids are the policies' numbers by the keys of their classes; next is one
	// that was never given away.
	ids  map[string]PolicyID
	next PolicyID
}

// BoundWorkload is a workload and the policy that it has.
type BoundWorkload struct {
	*Workload
	Policy PolicyID
	// sum is of what the workload is, and of what its policy says, whose sum
	// was policySum.
	sum, policySum digest
}

// Workloads returns the workloads that are described, in their order.
func (s *Snapshot) Workloads() []BoundWorkload { return s.workloads }

// ByWorkload returns the policies of the workloads that are described, by their keys.
func (s *Snapshot) ByWorkload() map[string]PolicyID {
	of := make(map[string]PolicyID, len(s.workloads))
	for _, w := range s.workloads {
		of[w.Key()] = w.Policy
	}
	return of
}

// byKey returns the policy of a group of workloads, or nil.
func (s *Snapshot) byKey(key string) *Policy {
	id, ok := s.ids[key]
	if !ok {
		return nil
	}
	if p := s.Policy(id); p != nil && p.class.key == key {
		return p
	}
	return nil
}

// Hash is a SHA-256 in lower-case hexadecimal over everything that is decided.
// Snapshots with one hash decide alike. Where objects are written (their files
// and lines), what was in force before, and which numbers policies have got by
// that, is no part of it: whoever reads the same objects has the same hash.
func (s *Snapshot) Hash() string { return s.hash }

// Same says whether nothing of o is new: it decides like s, and its objects are
// written in the same places.
func (s *Snapshot) Same(o *Snapshot) bool { return s.sum == o.sum }

// Policies returns the ids of all policies, ascending.
func (s *Snapshot) Policies() []PolicyID {
	ids := make([]PolicyID, len(s.policies))
	for i, p := range s.policies {
		ids[i] = p.id
	}
	return ids
}

// Policy returns the policy with an id, or nil: a workload without a policy
// reaches nothing.
func (s *Snapshot) Policy(id PolicyID) *Policy {
	for _, p := range s.policies {
		if p.id == id {
			return p
		}
	}
	return nil
}

// Cluster returns what is inside of the node's Kubernetes cluster.
func (s *Snapshot) Cluster() Cluster {
	if s.index == nil {
		return Cluster{}
	}
	return s.index.cfg.Cluster
}

// Telemetry is what the MeshConfig says of access logs and traces.
func (s *Snapshot) Telemetry() MeshTelemetry {
	if s == nil || s.index == nil {
		return MeshTelemetry{}
	}
	return s.index.cfg.Mesh.Telemetry
}

// Telemetries are the Telemetry objects, oldest first.
func (s *Snapshot) Telemetries() []*Telemetry {
	if s == nil || s.index == nil {
		return nil
	}
	return s.index.cfg.Telemetries
}

// RootNamespace is that whose objects count for all namespaces.
func (s *Snapshot) RootNamespace() string {
	if s == nil || s.index == nil {
		return DefaultRootNamespace
	}
	return s.index.cfg.Mesh.Root()
}

// IdentityOf is that of a workload, "namespace/name", and whether it is described.
func (s *Snapshot) IdentityOf(name string) (Identity, bool) {
	if s == nil {
		return Identity{}, false
	}
	for i := range s.workloads {
		if s.workloads[i].Key() == name {
			return s.workloads[i].Identity, true
		}
	}
	return Identity{}, false
}

// GatewayLabels are those of the node's gateway.
func (s *Snapshot) GatewayLabels() map[string]string {
	if s == nil || s.index == nil {
		return nil
	}
	return s.index.cfg.GatewaySelector
}

// Warnings returns what of the Config is left out and not refused.
func (s *Snapshot) Warnings() []Warning { return s.warnings }

// Listeners returns the ingress listeners of this node's gateway, sorted by
// port and address.
func (s *Snapshot) Listeners() []*GatewayListener { return s.listeners }

// Policy is what one workload may reach. It is immutable.
type Policy struct {
	id         PolicyID
	class      *identityClass
	names      *hostname.Index[*Host]
	sniVerdict Verdict // see HostPort
	addrs      addressTable
	// cluster is what is open inside of the cluster; inside are its prefixes,
	// without what is never inside, also where a Sidecar closes them; domains
	// are what names of the cluster end in.
	cluster clusterTable
	inside  []netip.Prefix
	domains []string
	// hostSum covers the hosts, sum all but the id.
	hostSum, sum digest
	// vhosts are the rules of the gateway "mesh".
	vhosts    *hostname.Index[*meshVhost]
	vhostList []*meshVhost // sorted by hostname.Compare
	// compiled are the rules of vhosts, by their VirtualServices.
	compiled map[*VirtualService]*compiledRules
	// gateways are those as which connections go on, sorted by name and port.
	gateways []*GatewayListener
	// reserved are the names of Kubernetes Services that wildcards of other
	// namespaces cover and do not stand for.
	reserved map[string]*reservedName
	// ruled are the hosts that only rules for TLS declare.
	ruled []hostname.Pattern
	// index has what the policy was compiled from, for explanations.
	index *index
}

// ID returns the policy's number in the kernel's tables.
func (p *Policy) ID() PolicyID { return p.id }

// Hosts returns all allowed hosts, most specific first.
func (p *Policy) Hosts() []*Host {
	out := make([]*Host, 0, p.names.Len())
	for _, h := range p.names.All() {
		out = append(out, h)
	}
	slices.SortFunc(out, func(x, y *Host) int { return hostname.Compare(x.Pattern, y.Pattern) })
	return out
}

// Lookup returns the most specific allowed host for a normalized name, or
// nil when the name is not allowed, or AuthorizationPolicies leave it no port.
func (p *Policy) Lookup(name string) *Host {
	h, ok := p.lookup(name)
	if !ok || h.guarded && !p.opens(name) {
		return nil
	}
	return h
}

// opens says whether any port of a name is open.
func (p *Policy) opens(name string) bool {
	w := p.walk(name)
	for h, ok := w.Next(); ok; h, ok = w.Next() {
		for _, hp := range h.Ports {
			if _, first := p.LookupPort(name, hp.Protocol.Transport(), hp.Number); first == hp && hp.wayOf(name, netip.Addr{}).Verdict != Deny {
				return true
			}
		}
	}
	return false
}

// LookupPort returns the most specific allowed host for a normalized name
// that has the port, and that port; nil when none has it.
func (p *Policy) LookupPort(name string, t Transport, number uint16) (*Host, *HostPort) {
	w := p.walk(name)
	for h, ok := w.Next(); ok; h, ok = w.Next() {
		if hp := h.Port(t, number); hp != nil {
			return h, hp
		}
	}
	return nil, nil
}

// Static returns what addresses open by themselves, without a name: the
// endpoints of STATIC services, and the addresses and CIDRs of ServiceEntries.
// It is sorted, and has one Opening per prefix, transport and port; several
// for inspected ones that prove several names.
func (p *Policy) Static() []Opening { return p.addrs.openings() }

// Openings returns what addr opens when it is an accepted answer for a
// normalized name: one Opening for each port of the hosts that match name.
// It is nil when the name is not allowed.
func (p *Policy) Openings(name string, addr netip.Addr) []Opening {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return nil
	}
	prefix := netip.PrefixFrom(addr, addr.BitLen())
	var out []Opening
	var none []bool // what a rule does not open there, by the index in out
	w := p.walk(name)
	for h, ok := w.Next(); ok; h, ok = w.Next() {
		for _, hp := range h.Ports {
			way := hp.wayOf(name, addr)
			o := Opening{Prefix: prefix, Port: hp.Number, Transport: hp.Protocol.Transport(), Verdict: way.Verdict, To: way.To}
			if o.Verdict == Inspect {
				o.Name = name
			}
			if !hasOpening(out, o) {
				out, none = append(out, o), append(none, p.outside(hp, addr))
			}
		}
	}
	for i := range out {
		if none[i] {
			out[i].Verdict = Deny
		} else if out[i].Verdict == Deny && p.opensUnnamed(addr) {
			out[i].Verdict = Proxy // which denies it; the kernel would let it pass
		}
	}
	return slices.DeleteFunc(out, func(o Opening) bool { return o.Verdict == Deny })
}

// hasOpening says whether a more specific host opened o's port already.
func hasOpening(all []Opening, o Opening) bool {
	for _, a := range all {
		if a.Port == o.Port && a.Transport == o.Transport {
			return true
		}
	}
	return false
}
