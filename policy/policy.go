// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"github.com/egressd/egressd/internal/hostname"
)

// Snapshot is the compiled policy of a node. It is immutable, and everything
// decides from one Snapshot at a time.
type Snapshot struct {
	policies  []*Policy // sorted by id
	listeners []*GatewayListener
	hash      string
}

// Hash is the SHA-256 of Text, in lower-case hexadecimal. Snapshots with one
// hash decide alike.
func (s *Snapshot) Hash() string { return s.hash }

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

// Listeners returns the ingress listeners of this node's gateway, sorted by
// port and address.
func (s *Snapshot) Listeners() []*GatewayListener { return s.listeners }

// Policy is what one workload may reach. It is immutable.
type Policy struct {
	id     PolicyID
	hosts  []*Host // sorted by hostname.Compare
	names  *hostname.Index[*Host]
	static []Opening
	addrs  addressTable
	// vhosts are the HTTP rules of the gateway "mesh".
	vhosts    *hostname.Index[*meshVhost]
	vhostList []*meshVhost // sorted by hostname.Compare
}

// ID returns the policy's number in the kernel's tables.
func (p *Policy) ID() PolicyID { return p.id }

// Hosts returns all allowed hosts, most specific first.
func (p *Policy) Hosts() []*Host { return p.hosts }

// Lookup returns the most specific allowed host for a normalized name, or
// nil when the name is not allowed.
func (p *Policy) Lookup(name string) *Host {
	h, _ := p.names.Lookup(name)
	return h
}

// LookupPort returns the most specific allowed host for a normalized name
// that has the port, and that port; nil when none has it.
func (p *Policy) LookupPort(name string, t Transport, number uint16) (*Host, *HostPort) {
	w := p.names.Walk(name)
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
func (p *Policy) Static() []Opening { return p.static }

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
	w := p.names.Walk(name)
	for h, ok := w.Next(); ok; h, ok = w.Next() {
		for _, hp := range h.Ports {
			way := hp.Way(addr)
			o := Opening{Prefix: prefix, Port: hp.Number, Transport: hp.Protocol.Transport(), Verdict: way.Verdict, To: way.To}
			if o.Verdict == Inspect {
				o.Name = name
			}
			if !hasOpening(out, o) {
				out = append(out, o)
			}
		}
	}
	return out
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
