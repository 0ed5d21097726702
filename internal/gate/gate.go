// SPDX-License-Identifier: Apache-2.0

// Package gate gives the node an address of each family that the sockets of
// other network namespaces reach by their default route, as they reach the
// node's own: egressd's listeners for pods and containers stand there.
//
// The addresses lie on lo, which every namespace has (a dummy device needs a
// module that not every kernel has). They outlive egressd, on purpose: a
// connection to a gate where nobody listens is refused, one to an address that
// is gone would leave by the uplink.
package gate

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/link"
)

const (
	device = "lo"
	// label marks an IPv4 address as egressd's.
	label = "lo:egressd"
)

// The addresses that are tried, in this order. 169.254.255.0/24 is never
// assigned by chance (RFC 3927, 2.1), and not among the addresses that clouds
// and node-local DNS caches use. fd65:6772:6573:73::/64 is egressd's own ULA
// prefix (RFC 4193): the address is its own mark.
var (
	candidates4 = []netip.Addr{
		netip.AddrFrom4([4]byte{169, 254, 255, 151}),
		netip.AddrFrom4([4]byte{169, 254, 255, 152}),
		netip.AddrFrom4([4]byte{169, 254, 255, 153}),
	}
	candidates6 = []netip.Addr{
		netip.MustParseAddr("fd65:6772:6573:73::151"),
		netip.MustParseAddr("fd65:6772:6573:73::152"),
		netip.MustParseAddr("fd65:6772:6573:73::153"),
	}
)

// ErrTaken says that all addresses that could be a gate are somebody else's.
var ErrTaken = errors.New("every gate address is taken")

// Ensure returns a gate address of the family (unix.AF_INET or AF_INET6) of
// the calling thread's network namespace, and adds it unless it is there.
func Ensure(family int) (netip.Addr, error) {
	candidates := candidates4
	if family == unix.AF_INET6 {
		candidates = candidates6
	}
	have, err := addrList(nil, family)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses: %w", err)
	}
	lo, err := netlink.LinkByName(device)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find %s: %w", device, err)
	}
	for _, c := range candidates {
		for _, a := range have {
			if ours(lo, a) && addrOf(a) == c {
				return c, nil
			}
		}
	}
	for _, c := range candidates {
		free, err := isFree(c, have)
		if err != nil {
			return netip.Addr{}, err
		}
		if !free {
			continue
		}
		switch err := netlink.AddrAdd(lo, entry(c)); {
		case err == nil:
			return c, nil
		case !errors.Is(err, unix.EEXIST):
			return netip.Addr{}, fmt.Errorf("add %s to %s: %w", c, device, err)
		}
	}
	return netip.Addr{}, fmt.Errorf("%w: %v", ErrTaken, candidates)
}

// Present lists the gates that the calling thread's network namespace has.
func Present() ([]netip.Addr, error) {
	var out []netip.Addr
	err := each(func(lo netlink.Link, a netlink.Addr) error {
		out = append(out, addrOf(a))
		return nil
	})
	return out, err
}

func addrList(l netlink.Link, family int) ([]netlink.Addr, error) {
	return link.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, family) })
}

// Missing says whether a gate that was there has been taken away.
func Missing(addr netip.Addr) (bool, error) {
	lo, err := netlink.LinkByName(device)
	if err != nil {
		return false, fmt.Errorf("find %s: %w", device, err)
	}
	have, err := addrList(lo, family(addr))
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		if addrOf(a) == addr {
			return false, nil
		}
	}
	return true, nil
}

// Restore adds a gate again that was taken away.
func Restore(addr netip.Addr) error {
	lo, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	if err := netlink.AddrAdd(lo, entry(addr)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s to %s: %w", addr, device, err)
	}
	return nil
}

// Remove takes the addresses that Ensure added away again. None there is fine.
func Remove() error { return RemoveBut(nil) }

// RemoveBut is Remove for all but those in keep.
func RemoveBut(keep []netip.Addr) error {
	var errs []error
	err := each(func(lo netlink.Link, a netlink.Addr) error {
		if slices.Contains(keep, addrOf(a)) {
			return nil
		}
		if err := netlink.AddrDel(lo, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("remove %s: %w", a.IPNet, err))
		}
		return nil
	})
	return errors.Join(err, errors.Join(errs...))
}

// each calls f for every gate, until it fails.
func each(f func(lo netlink.Link, a netlink.Addr) error) error {
	lo, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	have, err := addrList(lo, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		if ours(lo, a) {
			if err := f(lo, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry is how a gate is added: never chosen as the source of what leaves
// (scope link for IPv4, deprecated for IPv6), and without duplicate address
// detection, since nobody else is on lo.
func entry(addr netip.Addr) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
	if addr.Is4() {
		a.Label = label
		a.Scope = int(netlink.SCOPE_LINK)
		return a
	}
	a.Flags = unix.IFA_F_NODAD
	a.ValidLft = math.MaxUint32 // forever
	a.PreferedLft = 0
	return a
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func addrOf(a netlink.Addr) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.IP) // of 4 or 16 bytes
	return addr.Unmap()
}

// ours tells the gate from an address that somebody else gave to lo.
func ours(lo netlink.Link, a netlink.Addr) bool {
	addr := addrOf(a)
	if a.LinkIndex != lo.Attrs().Index {
		return false
	}
	for _, c := range append(candidates4[:len(candidates4):len(candidates4)], candidates6...) {
		if c == addr {
			return addr.Is6() || a.Label == label
		}
	}
	return false
}

// isFree says whether nobody has the address, and nobody has a route to it: who
// made one wants packets for it to go elsewhere.
func isFree(c netip.Addr, have []netlink.Addr) (bool, error) {
	for _, a := range have {
		if addrOf(a) == c {
			return false, nil
		}
	}
	routes, err := link.Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family(c), &netlink.Route{Dst: entry(c).IPNet}, netlink.RT_FILTER_DST)
	})
	if err != nil {
		return false, fmt.Errorf("list routes to %s: %w", c, err)
	}
	return len(routes) == 0, nil
}
