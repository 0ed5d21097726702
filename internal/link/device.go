// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Device is a network interface with addresses of its own.
type Device struct {
	Index int
	Name  string
	// Addr4 and Addr6 are the first address of each family that stays and is
	// not link-local; the zero Addr: there is none.
	Addr4, Addr6 netip.Addr
}

// unusable are the flags of IPv6 addresses (linux/if_addr.h) that cannot be bound
// yet, or that go again by themselves.
const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY

// Devices lists the interfaces of this network namespace that have addresses,
// loopback aside, by their index.
func Devices() ([]Device, error) {
	links, err := Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := ownAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	at := map[int]*Device{}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			at[l.Attrs().Index] = &Device{Index: l.Attrs().Index, Name: l.Attrs().Name}
		}
	}
	for _, a := range addrs {
		d := at[a.LinkIndex]
		ip, ok := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		switch {
		case d == nil || !ok || ip.IsLinkLocalUnicast():
		case ip.Is4() && !d.Addr4.IsValid():
			d.Addr4 = ip
		case ip.Is6() && !d.Addr6.IsValid() && a.Flags&unusable == 0:
			d.Addr6 = ip
		}
	}
	var all []Device
	for _, index := range slices.Sorted(maps.Keys(at)) {
		if d := at[index]; d.Addr4.IsValid() || d.Addr6.IsValid() {
			all = append(all, *d)
		}
	}
	return all, nil
}
