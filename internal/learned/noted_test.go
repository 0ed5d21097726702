// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// TestNoted: what a process was told comes before what others were told, the
// latest first; workloads know nothing of each other; all is bounded.
func TestNoted(t *testing.T) {
	n := New(nil, nil, Options{})
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, a := range []netip.Addr{v4, v6} {
		n.Note("shop", "a.example", 1, []netip.Addr{a})
		n.Note("shop", "b.example", 2, []netip.Addr{netip.AddrFrom16(a.As16())}) // v4-mapped
		n.Note("shop", "c.example", 2, []netip.Addr{a})
		for _, c := range []struct {
			workload string
			pid      int
			want     []string
		}{
			{"shop", 1, []string{"a.example"}},
			{"shop", 2, []string{"c.example", "b.example"}},
			{"shop", 3, []string{"c.example", "b.example", "a.example"}},
			{"other", 1, nil},
		} {
			if got := n.Noted(c.workload, a, c.pid); !slices.Equal(got, c.want) {
				t.Errorf("%s of %s, process %d: %q, want %q", a, c.workload, c.pid, got, c.want)
			}
		}
	}
	for i := range 3 * maxNoted {
		n.Note("flood", fmt.Sprintf("n%d.example", i), 1, []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
		n.Note("flood", fmt.Sprintf("n%d.example", i), 1, []netip.Addr{v4})
	}
	if w := n.noted.by["flood"]; w.count > maxNoted || len(w.by) > maxNoted || len(w.by[v4]) > maxNotedNames {
		t.Errorf("%d pairs, %d addresses, %d names of one address are kept", w.count, len(w.by), len(w.by[v4]))
	}
	if got := n.Noted("shop", v4, 1); len(got) != 1 {
		t.Errorf("another workload pushed out what this one was told: %q", got)
	}
}
