// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
)

// TestOwn: the list follows addresses that come and go, interfaces that come
// later, and local routes; WatchOwn says when it changed.
func TestOwn(t *testing.T) {
	w := testenv.World(t)
	var mu sync.Mutex
	var now []netip.Prefix
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.Node.Do(func() error {
			return WatchOwn(ctx, func() {
				own, err := Own()
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				now = own
				mu.Unlock()
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		})
	}()
	has := func(addr string) bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.ContainsFunc(now, func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr(addr)) })
	}
	await := func(what string, want bool, addrs ...string) {
		t.Helper()
		// The tick of WatchOwn would find it too: events must be quicker.
		deadline := time.After(again / 2)
		for {
			if !slices.ContainsFunc(addrs, func(a string) bool { return has(a) != want }) {
				return
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("%s: %v should be %v", what, addrs, want)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	await("at the start", true, "127.0.0.1", "127.9.9.9", "::1")
	await("not there yet", false, "203.0.113.200", "2001:db8::200", "192.0.2.9", "2001:db8:9::9")
	must(w.GiveNode(netip.MustParseAddr("203.0.113.200"), netip.MustParseAddr("2001:db8::200")))
	await("added", true, "203.0.113.200", "2001:db8::200")
	must(w.TakeFromNode(netip.MustParseAddr("203.0.113.200")))
	must(w.TakeFromNode(netip.MustParseAddr("2001:db8::200")))
	await("removed", false, "203.0.113.200", "2001:db8::200")

	must(w.Node.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "late0"}, PeerName: "late1"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		for _, p := range []string{"203.0.113.201/24", "2001:db8::201/64"} {
			a, err := netlink.ParseAddr(p)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(veth, a); err != nil {
				return err
			}
		}
		return nil
	}))
	await("on an interface that came later, and is down", true, "203.0.113.201", "2001:db8::201")
	await("its network", false, "203.0.113.202", "2001:db8::202")

	route := func(change func(*netlink.Route) error, dst string, table int) error {
		return w.Node.Do(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			_, prefix, err := net.ParseCIDR(dst)
			if err != nil {
				return err
			}
			return change(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: prefix, Type: unix.RTN_LOCAL, Table: table, Scope: netlink.SCOPE_HOST})
		})
	}
	anyIP := []string{"192.0.2.0/28", "2001:db8:9::/64"}
	for _, p := range anyIP {
		must(route(netlink.RouteAdd, p, unix.RT_TABLE_LOCAL))
	}
	await("local routes", true, "192.0.2.9", "2001:db8:9::9")
	// Transparent proxies take all of a table of their own: no address of the
	// node.
	must(route(netlink.RouteAdd, "0.0.0.0/0", 100))
	must(route(netlink.RouteAdd, "::/0", 100))
	for _, p := range anyIP {
		must(route(netlink.RouteDel, p, unix.RT_TABLE_LOCAL))
	}
	await("no local routes", false, "192.0.2.9", "2001:db8:9::9")

	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
