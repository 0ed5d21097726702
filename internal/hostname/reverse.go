// SPDX-License-Identifier: Apache-2.0

package hostname

import (
	"net/netip"
	"strconv"
	"strings"
)

// Reverse reads the normalized name that stands for an address in reverse: four
// octets before in-addr.arpa (RFC 1035, section 3.5), 32 digits before ip6.arpa
// (RFC 3596, section 2.5). False: it is no such name, or that of many addresses.
func Reverse(name string) (netip.Addr, bool) {
	if head, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(head, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		var a [4]byte
		for i, l := range labels {
			n, err := strconv.ParseUint(l, 10, 8)
			if err != nil || strconv.Itoa(int(n)) != l {
				return netip.Addr{}, false
			}
			a[3-i] = byte(n)
		}
		return netip.AddrFrom4(a), true
	}
	head, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(head) != 63 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		digit := strings.IndexByte("0123456789abcdef", head[2*i])
		if digit < 0 || i > 0 && head[2*i-1] != '.' {
			return netip.Addr{}, false
		}
		at := 31 - i
		a[at/2] |= byte(digit) << (4 * (1 - at%2))
	}
	return netip.AddrFrom16(a), true
}
