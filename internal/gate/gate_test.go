// SPDX-License-Identifier: Apache-2.0

package gate_test

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/gate"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ensure(t *testing.T, w *world.World, family int) netip.Addr {
	t.Helper()
	var g netip.Addr
	must(t, w.Node.Do(func() (err error) {
		g, err = gate.Ensure(family)
		return err
	}))
	return g
}

func nodeHas(t *testing.T, w *world.World, a netip.Addr) bool {
	t.Helper()
	all, err := w.NodeAddrs()
	must(t, err)
	return slices.Contains(all, a)
}

// TestEnsure: a gate is found again, put back, and taken away.
func TestEnsure(t *testing.T) {
	w := testenv.World(t)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		g := ensure(t, w, family)
		if !nodeHas(t, w, g) {
			t.Errorf("%s is not there", g)
		}
		if again := ensure(t, w, family); again != g {
			t.Errorf("%s at first, then %s", g, again)
		}
		missing := func() (gone bool) {
			must(t, w.Node.Do(func() (err error) {
				gone, err = gate.Missing(g)
				return err
			}))
			return gone
		}
		if missing() {
			t.Errorf("%s is missing", g)
		}
		must(t, w.Node.Do(gate.Remove))
		if nodeHas(t, w, g) || !missing() {
			t.Errorf("%s is left", g)
		}
		must(t, w.Node.Do(func() error { return gate.Restore(g) }))
		must(t, w.Node.Do(func() error { return gate.Restore(g) }))
		if missing() {
			t.Errorf("%s was not put back", g)
		}
		must(t, w.Node.Do(gate.Remove))
		must(t, w.Node.Do(gate.Remove)) // nothing is no error
	}
}

// TestTaken: what somebody else has, on lo too, or routes elsewhere, is no gate
// and stays.
func TestTaken(t *testing.T) {
	w := testenv.World(t)
	for family, taken := range map[int][]string{
		unix.AF_INET:  {"169.254.255.151", "169.254.255.152"},
		unix.AF_INET6: {"fd65:6772:6573:73::151", "fd65:6772:6573:73::152"},
	} {
		first, second := netip.MustParseAddr(taken[0]), netip.MustParseAddr(taken[1])
		must(t, w.GiveNode(first))
		must(t, w.Node.Do(func() error {
			bits := second.BitLen()
			dst := &net.IPNet{IP: second.AsSlice(), Mask: net.CIDRMask(bits, bits)}
			link, err := netlink.LinkByName(world.Uplink)
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst})
		}))
		g := ensure(t, w, family)
		if g == first || g == second {
			t.Errorf("the gate is %s", g)
		}
		must(t, w.Node.Do(gate.Remove))
		if !nodeHas(t, w, first) || nodeHas(t, w, g) {
			t.Errorf("Remove left %s or took %s", g, first)
		}
	}
}
