// SPDX-License-Identifier: Apache-2.0

package tc

import (
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestSteering: the rules and routes are added once, what somebody removes is put
// back, and all go.
func TestSteering(t *testing.T) {
	node := testenv.World(t).Node
	do := func(name string, f func() ([]string, error), want ...string) {
		t.Helper()
		var got []string
		err := node.Do(func() (err error) {
			got, err = f()
			return err
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	remove := func() ([]string, error) { return nil, RemoveSteering() }
	all := []string{
		"the route of table 15001 for steered packets, IPv4", "the rule of priority 50 for steered packets, IPv4",
		"the route of table 15001 for steered packets, IPv6", "the rule of priority 50 for steered packets, IPv6",
	}
	do("nothing to remove", remove)
	do("at first", HoldSteering, all...)
	do("again", HoldSteering)
	do("somebody removes a rule and a route", func() ([]string, error) {
		if err := netlink.RuleDel(steerRule(netlink.FAMILY_V4)); err != nil {
			return nil, err
		}
		return nil, netlink.RouteDel(steerRoute(netlink.FAMILY_V6))
	})
	do("put back", HoldSteering, all[1], all[2])
	do("removed", remove)
	do("anew", HoldSteering, all...)
}
