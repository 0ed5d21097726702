// SPDX-License-Identifier: Apache-2.0

package hostname

import (
	"net/netip"
	"strings"
	"testing"
)

func TestReverse(t *testing.T) {
	six := "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa" // RFC 3596
	for name, want := range map[string]string{
		"10.0.96.10.in-addr.arpa": "10.96.0.10", "255.1.2.3.in-addr.arpa": "3.2.1.255",
		six: "4321:0:1:2:3:4:567:89ab",
	} {
		if a, ok := Reverse(name); !ok || a != netip.MustParseAddr(want) {
			t.Errorf("%s: %v %v, want %s", name, a, ok, want)
		}
	}
	for _, name := range []string{
		"", "10.in-addr.arpa", "0.96.10.in-addr.arpa", "1.10.0.96.10.in-addr.arpa", "256.0.96.10.in-addr.arpa", "01.0.96.10.in-addr.arpa",
		"+1.0.96.10.in-addr.arpa", "x.0.96.10.in-addr.arpa", "10.0.96.10.in-addr.arpa.example", "10.0.96.10.notin-addr.arpa",
		six[2:], "a." + six, strings.Replace(six, "b.", "g.", 1), strings.Replace(six, "b.", "bb", 1), "ip6.arpa", "in-addr.arpa",
	} {
		if a, ok := Reverse(name); ok {
			t.Errorf("%s is taken for %v", name, a)
		}
	}
}
