// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Connection is a connection that somebody opened to a workload.
type Connection struct {
	Index    int // the interface that the workload's packets come in by
	Protocol uint8
	// Src is the workload's end, Dst the other, as they stand in the
	// workload's packets.
	Src, Dst netip.AddrPort
}

// Inbound lists what the kernel's connection tracking knows of connections to
// addresses behind the interfaces. Where it does not track there is nothing.
func Inbound(behind map[int]bool) ([]Connection, error) {
	var all []Connection
	for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		flows, err := Whole(func() ([]*netlink.ConntrackFlow, error) {
			return netlink.ConntrackTableList(netlink.ConntrackTable, family)
		})
		if err != nil {
			return all, fmt.Errorf("read the connection tracking table: %w", err)
		}
		for _, f := range flows {
			// The reply's tuple is what the workload sends, whatever was
			// translated on the way to it.
			src, ok1 := netip.AddrFromSlice(f.Reverse.SrcIP)
			dst, ok2 := netip.AddrFromSlice(f.Reverse.DstIP)
			if !ok1 || !ok2 || f.Reverse.SrcPort == 0 {
				continue
			}
			routes, err := netlink.RouteGet(f.Reverse.SrcIP)
			if err != nil || len(routes) == 0 || !behind[routes[0].LinkIndex] {
				continue
			}
			all = append(all, Connection{
				Index: routes[0].LinkIndex, Protocol: f.Reverse.Protocol,
				Src: netip.AddrPortFrom(src.Unmap(), f.Reverse.SrcPort),
				Dst: netip.AddrPortFrom(dst.Unmap(), f.Reverse.DstPort),
			})
		}
	}
	return all, nil
}
