// SPDX-License-Identifier: Apache-2.0

package ipguard

import (
	"net/netip"
	"slices"
	"testing"
)

func TestNodeLocal(t *testing.T) {
	all := NodeLocal()
	for text, want := range map[string]bool{
		"127.0.0.1": true, "127.255.0.9": true, "0.0.0.0": true, "0.1.2.3": true, "169.254.169.254": true, "169.254.0.1": true,
		"100.100.100.200": true, "168.63.129.16": true, "192.0.0.192": true,
		"::1": true, "::": true, "fe80::1": true, "fec0::1": true, "fd00:ec2::254": true, "fd20:ce::254": true, "fd00:c1::a9fe:a9fe": true,
		"::7f00:1": true, "::a9fe:a9fe": true, "::ffff:0:a9fe:a9fe": true, "64:ff9b::7f00:1": true, "64:ff9b::a9fe:a9fe": true,
		"2002:7f00:1::1": true, "2002:a9fe:a9fe::": true, "64:ff9b::6464:64c8": true,
		"10.0.0.1": false, "100.64.0.1": false, "240.1.2.3": false, "192.0.2.1": false, "203.0.113.1": false, "192.0.0.191": false,
		"fd00:ec2::253": false, "fd00::1": false, "2001:db8::1": false, "64:ff9b::c000:201": false, "2002:c000:201::1": false,
	} {
		a := netip.MustParseAddr(text)
		if got := slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a) }); got != want {
			t.Errorf("%s: %t, want %t", text, got, want)
		}
	}
	for _, p := range all {
		if p != p.Masked() {
			t.Errorf("%v is not masked", p)
		}
	}
}
