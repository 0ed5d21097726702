// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Own lists what the node receives itself: the addresses of its interfaces,
// and what local routes send to it besides (AnyIP; anycast addresses of IPv6
// routers). Of the routing tables it reads those that are always asked: local
// and main. A local default route is left out: that is how transparent proxies
// are fed, and not an address.
func Own() ([]netip.Prefix, error) {
	var out []netip.Prefix
	add := func(ip []byte, bits int) {
		if a, ok := netip.AddrFromSlice(ip); ok && bits > 0 {
			if p := netip.PrefixFrom(a, bits); p.IsValid() {
				out = append(out, p)
			}
		}
	}
	addrs, err := ownAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	for _, a := range addrs {
		ip := a.IP
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		add(ip, 8*len(ip))
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		for _, table := range []int{unix.RT_TABLE_LOCAL, unix.RT_TABLE_MAIN} {
			routes, err := tableRoutes(family, table)
			if err != nil {
				return nil, fmt.Errorf("list local routes: %w", err)
			}
			for _, r := range routes {
				if !toNode(r) || r.Dst == nil {
					continue
				}
				bits, _ := r.Dst.Mask.Size()
				add(r.Dst.IP, bits)
			}
		}
	}
	return out, nil
}

// toNode says whether the node itself receives what takes the route.
func toNode(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL || r.Type == unix.RTN_ANYCAST }

// WatchOwn calls changed whenever Own may have changed, also for interfaces
// that come later, until ctx is done. The caller's thread must be in the
// namespace when WatchOwn is called.
func WatchOwn(ctx context.Context, changed func()) error {
	tick := time.NewTicker(again)
	defer tick.Stop()
	for ctx.Err() == nil {
		addrs := make(chan netlink.AddrUpdate, 64)
		routes := make(chan netlink.RouteUpdate, 64)
		done := make(chan struct{})
		if err := netlink.AddrSubscribe(addrs, done); err != nil {
			close(done)
			return fmt.Errorf("subscribe to addresses: %w", err)
		}
		if err := netlink.RouteSubscribe(routes, done); err != nil {
			close(done)
			for range addrs {
			}
			return fmt.Errorf("subscribe to routes: %w", err)
		}
		look := true // what changed between the last look and the subscription
		for open := true; open; {
			if look {
				changed()
			}
			look = true
			select {
			case <-ctx.Done():
				open = false
			case _, open = <-addrs:
			case r, ok := <-routes:
				open, look = ok, toNode(r.Route)
			case <-tick.C:
			}
		}
		close(done)
		// Their senders end when they see done; a closed channel is not
		// subscribed again.
		for range addrs {
		}
		for range routes {
		}
	}
	return nil
}

// Loopbacks are the loopback addresses that this machine has: ::1 only where IPv6 is
// there.
func Loopbacks() []netip.Addr {
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return []netip.Addr{v4}
	}
	l.Close()
	return []netip.Addr{v4, v6}
}
