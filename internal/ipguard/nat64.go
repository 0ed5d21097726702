// SPDX-License-Identifier: Apache-2.0

package ipguard

import "net/netip"

var (
	// wellKnown64 is NAT64's well-known prefix: the IPv4 address is at its end
	// (RFC 6052, section 2.1).
	wellKnown64 = netip.MustParsePrefix("64:ff9b::/96")
	// localUse64 is for translators inside a network, which may use any part
	// of it (RFC 8215), so where the IPv4 address is can't be told from the
	// address.
	localUse64 = netip.MustParsePrefix("64:ff9b:1::/48")
)

// readings64 are the places of the IPv4 address in an address with a prefix
// of 48, 56, 64 and 96 bits (RFC 6052, section 2.2; 32 and 40 are shorter than
// localUse64). Byte 8 is never part of it.
var readings64 = [][4]int{{6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}, {12, 13, 14, 15}}

// inside64 returns the IPv4 addresses that a NAT64 translator may deliver a to;
// none when a is not of NAT64.
func inside64(a netip.Addr) []netip.Addr {
	b := a.As16()
	read := func(at [4]int) netip.Addr { return netip.AddrFrom4([4]byte{b[at[0]], b[at[1]], b[at[2]], b[at[3]]}) }
	switch {
	case wellKnown64.Contains(a):
		return []netip.Addr{read(readings64[3])}
	case localUse64.Contains(a):
		out := make([]netip.Addr, 0, len(readings64))
		for _, at := range readings64 {
			out = append(out, read(at))
		}
		return out
	}
	return nil
}

// classify64 is the class of an address of NAT64 by what is inside: the class
// of the one IPv4 address under the well-known prefix. Under the local one,
// where there are several readings, none may be forbidden except those that no
// translator delivers anywhere (0.0.0.0/8 and reserved addresses: so read the
// wrong places of an ordinary address), and a private one counts before a
// public one.
func classify64(inside []netip.Addr, classOf func(netip.Addr) Class) Class {
	if len(inside) == 1 {
		return classOf(inside[0])
	}
	out := Embedded
	for _, v4 := range inside {
		switch c := classOf(v4); c {
		case Unspecified, Reserved:
		case Private:
			out = Private
		case Public:
			if out == Embedded {
				out = Public
			}
		default:
			return Embedded
		}
	}
	return out
}
