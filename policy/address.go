// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// addressTable finds what an address and port open by themselves. The cost
// of a lookup grows with the number of different prefix lengths (at most 33
// for IPv4 and 129 for IPv6), not with the number of entries.
type addressTable struct {
	entries map[addressKey]*candidates
	// near has some rule of each prefix, whatever its port: the nearest miss.
	near map[netip.Prefix]*HostPort
	// bits4 and bits6 are the prefix lengths in use, longest first.
	bits4, bits6 []int
}

type addressKey struct {
	prefix    netip.Prefix
	transport Transport
	port      uint16
}

// addressRule is one entry of the table while it is built.
type addressRule struct {
	prefix netip.Prefix
	port   uint16
	rule   *HostPort
	// way is what the kernel does with flows there, name what a ClientHello
	// must carry.
	way  Way
	name string
}

// newAddressTable builds the table. Of rules for one key, earlier ones have
// precedence.
func newAddressTable(rules []addressRule) addressTable {
	t := addressTable{entries: map[addressKey]*candidates{}, near: map[netip.Prefix]*HostPort{}}
	for _, r := range rules {
		k := addressKey{r.prefix, r.rule.Protocol.Transport(), r.port}
		e := t.entries[k]
		if e == nil {
			e = &candidates{}
			t.entries[k] = e
		}
		e.add(r.rule, "", r.way)
		if r.name != "" {
			e.names = append(e.names, r.name)
		}
		if _, ok := t.near[r.prefix]; !ok {
			t.near[r.prefix] = r.rule
		}
		bits := &t.bits6
		if r.prefix.Addr().Is4() {
			bits = &t.bits4
		}
		if !slices.Contains(*bits, r.prefix.Bits()) {
			*bits = append(*bits, r.prefix.Bits())
		}
	}
	descending := func(a, b int) int { return b - a }
	slices.SortFunc(t.bits4, descending)
	slices.SortFunc(t.bits6, descending)
	return t
}

// lengths returns the prefix lengths to try for an unmapped address.
func (t *addressTable) lengths(a netip.Addr) []int {
	switch {
	case a.Is4():
		return t.bits4
	case a.Is6():
		return t.bits6
	}
	return nil
}

// collect adds the rules for the address and port to c, longest prefix first.
func (t *addressTable) collect(c *candidates, transport Transport, dst netip.AddrPort) {
	a := dst.Addr().Unmap().WithZone("")
	for _, bits := range t.lengths(a) {
		prefix, err := a.Prefix(bits)
		if err != nil {
			continue // cannot be: bits fits the family
		}
		if e := t.entries[addressKey{prefix, transport, dst.Port()}]; e != nil {
			c.merge(e, bits < a.BitLen())
		}
	}
}

// miss returns why no rule allows the address and port although the address
// is known: ReasonTransport or ReasonPort with the nearest rule, or "".
func (t *addressTable) miss(transport Transport, dst netip.AddrPort) (Reason, *HostPort) {
	var near *HostPort
	a := dst.Addr().Unmap().WithZone("")
	for _, bits := range t.lengths(a) {
		prefix, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if e := t.entries[addressKey{prefix, transport.other(), dst.Port()}]; e != nil {
			return ReasonTransport, e.first
		}
		if near == nil {
			near = t.near[prefix]
		}
	}
	if near == nil {
		return "", nil
	}
	return ReasonPort, near
}

// openings returns the table as the kernel wants it: sorted, one entry for
// each prefix, transport, port and proved name. The kernel finds the longest prefix only,
// so an entry carries what the prefixes around it say as well.
func (t *addressTable) openings() []Opening {
	out := make([]Opening, 0, len(t.entries))
	for k, e := range t.entries {
		way := e.way
		for _, bits := range t.lengths(k.prefix.Addr()) {
			if bits >= k.prefix.Bits() {
				continue
			}
			around := netip.PrefixFrom(k.prefix.Addr(), bits).Masked()
			if o := t.entries[addressKey{around, k.transport, k.port}]; o != nil {
				way = way.Within(o.way, k.transport)
			}
		}
		o := Opening{Prefix: k.prefix, Port: k.port, Transport: k.transport, Verdict: way.Verdict, To: way.To}
		if way.Verdict != Inspect {
			out = append(out, o)
			continue
		}
		slices.Sort(e.names)
		for _, o.Name = range slices.Compact(e.names) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b Opening) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
			cmp.Compare(a.Transport, b.Transport), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// other is the transport that t is not.
func (t Transport) other() Transport {
	if t == UDP {
		return TCP
	}
	return UDP
}
