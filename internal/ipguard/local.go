// SPDX-License-Identifier: Apache-2.0

package ipguard

import "net/netip"

// carriers are prefixes of IPv6 addresses that carry an IPv4 address at a
// fixed place, which starts where the prefix ends: v4-compatible and
// v4-translated addresses, NAT64's well-known prefix, 6to4.
var carriers = []netip.Prefix{
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("::ffff:0:0:0/96"),
	netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("2002::/16"),
}

// NodeLocal lists the prefixes whose addresses lead to another place from
// each node that dials them, or to what only the node is meant to reach:
// loopback, the unspecified addresses, link-local addresses, metadata
// services, and IPv6 addresses that carry such an IPv4 address.
func NodeLocal() []netip.Prefix {
	local := func(c Class) bool {
		return c == Loopback || c == Unspecified || c == LinkLocal || c == Metadata
	}
	var out []netip.Prefix
	for _, b := range blocks4 {
		if !local(b.class) {
			continue
		}
		out = append(out, b.prefix)
		v4 := b.prefix.Addr().As4()
		for _, c := range carriers {
			a := c.Addr().As16()
			copy(a[c.Bits()/8:], v4[:])
			out = append(out, netip.PrefixFrom(netip.AddrFrom16(a), c.Bits()+b.prefix.Bits()))
		}
	}
	for _, b := range blocks6 {
		if local(b.class) {
			out = append(out, b.prefix)
		}
	}
	return out
}

// Without lists the prefixes that are left of p when holes are taken out.
func Without(p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	inside := false
	for _, h := range holes {
		if h.Overlaps(p) {
			if h.Bits() <= p.Bits() {
				return nil
			}
			inside = true
		}
	}
	if !inside {
		return []netip.Prefix{p}
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	high, _ := netip.AddrFromSlice(b) // of the length of an address
	return append(Without(low, holes), Without(netip.PrefixFrom(high, p.Bits()+1), holes)...)
}
