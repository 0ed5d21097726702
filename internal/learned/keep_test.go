// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/learned/learnedtest"
)

// TestKeepBounds: of more names than are kept, those asked for last are.
func TestKeepBounds(t *testing.T) {
	const most = 100
	const n = most + 10
	r := newNamesRig(t, Options{})
	r.pol.Store(learnedtest.Compile(t, learnedtest.ExactServices(n)...))
	for i := range n {
		r.clock.Advance(time.Millisecond)
		mustLearn(t, r.Names, fmt.Sprintf("h%d.example.com", i), answers(time.Minute, fmt.Sprintf("198.18.%d.%d", i>>8, i&255)))
	}
	kept := r.ExactNames(4*most, most)
	_, oldest := kept["h9.example.com"]
	_, newer := kept["h10.example.com"]
	if len(kept) != most || oldest || !newer {
		t.Errorf("%d names are kept, the oldest: %v, a newer one: %v", len(kept), oldest, newer)
	}
}

// TestHeldIsNamed: while a connection holds an address its name is told to who
// asks, or a new connection of the same program would be one without a name.
func TestHeldIsNamed(t *testing.T) {
	addr := netip.MustParseAddr("203.0.113.1")
	used := map[netip.Addr]bool{addr: true}
	r := newNamesRig(t, Options{InUse: func() (map[netip.Addr]bool, error) { return used, nil }})
	mustLearn(t, r.Names, "www.example.com", answers(time.Minute, addr.String()))
	for range 3 {
		r.clock.Advance(time.Hour)
		if err := r.Expire(); err != nil {
			t.Fatal(err)
		}
		if got := r.NamesOf(id, addr); !slices.Equal(got, []string{"www.example.com"}) || r.kernel.Opens(addr.String()) == nil {
			t.Errorf("names of an address in use: %v", got)
		}
	}
	clear(used)
	if err := r.Expire(); err != nil || len(r.NamesOf(id, addr)) > 0 || r.kernel.Opens(addr.String()) != nil {
		t.Errorf("afterwards: %v, %v", r.NamesOf(id, addr), err)
	}
}

// TestLately: what an address was learned for is known when its time is over.
func TestLately(t *testing.T) {
	r := newNamesRig(t, Options{})
	addr := netip.MustParseAddr("203.0.113.1")
	mustLearn(t, r.Names, "www.example.com", answers(time.Minute, addr.String()))
	if name, _, ok := r.Lately(id, addr); ok {
		t.Errorf("it is learned still: %s", name)
	}
	r.clock.Advance(10 * time.Minute)
	if err := r.Expire(); err != nil {
		t.Fatal(err)
	}
	name, until, ok := r.Lately(id, netip.MustParseAddr("::ffff:203.0.113.1"))
	if !ok || name != "www.example.com" || !until.Equal(r.clock.Now()) {
		t.Errorf("Lately = %s, %s, %v", name, until, ok)
	}
	if _, _, ok := r.Lately(7, addr); ok {
		t.Error("another policy knows it")
	}
	for i := range maxLately + 5 {
		a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		mustLearn(t, r.Names, "other.example.com", answers(time.Minute, a.String()))
		r.clock.Advance(10 * time.Minute)
		if err := r.Expire(); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, ok := r.Lately(id, addr); ok {
		t.Error("the oldest was not forgotten")
	}
	if n := len(r.peek(id).lately.by); n != maxLately {
		t.Errorf("%d are remembered", n)
	}
}

// TestNamesOf: the names of an address are sorted once, and anew when they change.
func TestNamesOf(t *testing.T) {
	addr := netip.MustParseAddr("203.0.113.1")
	r := newNamesRig(t, Options{})
	for _, want := range [][]string{{"www.example.com"}, {"other.example.com", "www.example.com"}} {
		mustLearn(t, r.Names, want[0], answers(time.Minute, addr.String()))
		if got := r.NamesOf(id, addr); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if n := testing.AllocsPerRun(100, func() { r.NamesOf(id, addr) }); n > 0 {
			t.Errorf("the names of an address allocate %v times", n)
		}
	}
	r.clock.Advance(10 * time.Minute)
	if err := r.Expire(); err != nil || len(r.NamesOf(id, addr)) > 0 {
		t.Errorf("afterwards: %q, %v", r.NamesOf(id, addr), err)
	}
}
