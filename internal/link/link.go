// SPDX-License-Identifier: Apache-2.0

// Package link finds the network interfaces that are to be guarded: those at
// whose other end a workload is, and those that lead out.
package link

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network interface of this network namespace.
type Link struct {
	Index int
	Name  string
	// Outside: its other end is not in this network namespace: a veth whose
	// peer is in another, a tap.
	Outside bool
	// Uplink: a default route goes by it.
	Uplink bool
	// L3: its packets have no link-layer header.
	L3 bool
	// Frames that a packet socket sends by it arrive somewhere.
	Frames bool
}

// Choice says which interfaces have workloads at their other end.
type Choice struct {
	// Auto takes those that are Outside.
	Auto bool
	// uplinks: those alone.
	uplinks bool
	globs   []string
}

// UplinksOnly picks no interface; uplinks are guarded.
var UplinksOnly = Choice{uplinks: true}

// ParseChoice reads "auto", "none", or names with wildcards, parted by commas
// (path.Match).
func ParseChoice(s string) (Choice, error) {
	switch s {
	case "auto":
		return Choice{Auto: true}, nil
	case "none":
		return Choice{}, nil
	}
	c := Choice{globs: strings.Split(s, ",")}
	for _, g := range c.globs {
		if _, err := path.Match(g, ""); err != nil || g == "" {
			return c, fmt.Errorf("%q is no name of interfaces", g)
		}
	}
	return c, nil
}

// None says that no interface is guarded, not even uplinks.
func (c Choice) None() bool { return !c.Auto && !c.uplinks && len(c.globs) == 0 }

// Workloads says that interfaces with workloads are guarded, not uplinks alone.
func (c Choice) Workloads() bool { return c.Auto || len(c.globs) > 0 }

// Picks says whether an interface has a workload at its other end.
func (c Choice) Picks(l Link) bool {
	if c.Auto {
		return l.Outside && !l.Uplink
	}
	return slices.ContainsFunc(c.globs, func(g string) bool {
		ok, err := path.Match(g, l.Name)
		return err == nil && ok
	})
}

// List lists the interfaces of this network namespace.
func List() ([]Link, error) {
	links, err := Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	up, err := uplinks()
	if err != nil {
		return nil, err
	}
	var all []Link
	for _, l := range links {
		a := l.Attrs()
		all = append(all, Link{
			Index: a.Index, Name: a.Name, Outside: outside(l), Uplink: up[a.Index],
			L3:     a.EncapType == "none" || a.EncapType == "ipip" || a.EncapType == "sit",
			Frames: a.Flags&net.FlagLoopback == 0 && l.Type() != "dummy",
		})
	}
	return all, nil
}

// outside: the peer of a veth has a namespace id when it is in another
// namespace (IFLA_LINK_NETNSID, rtnetlink(7)).
func outside(l netlink.Link) bool {
	switch l := l.(type) {
	case *netlink.Veth:
		return l.NetNsID >= 0
	case *netlink.Tuntap:
		return l.Mode == netlink.TUNTAP_MODE_TAP
	}
	return false
}

// tableRoutes lists the routes of a table.
func tableRoutes(family, table int) ([]netlink.Route, error) {
	return Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	})
}

// ownAddrs lists the addresses of all interfaces.
func ownAddrs() ([]netlink.Addr, error) {
	return Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
}

// uplinks are the interfaces that default routes of the main table go by.
func uplinks() (map[int]bool, error) {
	out := map[int]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := tableRoutes(family, unix.RT_TABLE_MAIN)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones != 0 {
					continue
				}
			}
			out[r.LinkIndex] = true
			for _, hop := range r.MultiPath {
				out[hop.LinkIndex] = true
			}
		}
	}
	delete(out, 0)
	return out, nil
}
