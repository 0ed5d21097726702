// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Packets that the programs on interfaces give to egressd's sockets still bear
// the address that was dialled. The programs mark them, and a rule for the
// mark makes the stack take them for its own.
const (
	steerMark  = 0x65676401 // EGD_MARK
	steerTable = 15001
	steerPrio  = 50
)

// steerPin is a pinned program that says that there are rules to remove.
const steerPin = "prog_egd_steer"

// Steer makes the stack accept what is steered to egressd's sockets, which
// must be transparent (ip(7) IP_TRANSPARENT). It stays until Unload.
func (d *Datapath) Steer() error {
	pin := filepath.Join(d.opts.PinDir, steerPin)
	if err := pinAgain(d.objs.EgdTcFrom, pin); err != nil {
		return fmt.Errorf("pin the program: %w", err)
	}
	d.mu.Lock()
	d.steers = true
	d.mu.Unlock()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	for _, family := range steerFamilies {
		route := steerRoute(family)
		route.LinkIndex = lo.Attrs().Index
		err := netlink.RouteReplace(route)
		if err == nil {
			err = netlink.RuleAdd(steerRule(family))
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			if family == netlink.FAMILY_V6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES)) {
				continue // a node without IPv6
			}
			return fmt.Errorf("the rule for steered packets: %w", err)
		}
	}
	return nil
}

var steerFamilies = [...]int{netlink.FAMILY_V4, netlink.FAMILY_V6}

func steerRule(family int) *netlink.Rule {
	mask := uint32(0xffffffff)
	r := netlink.NewRule()
	r.Family, r.Mark, r.Mask, r.Table, r.Priority = family, steerMark, &mask, steerTable, steerPrio
	return r
}

// steerRoute makes every address local.
func steerRoute(family int) *netlink.Route {
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if family == netlink.FAMILY_V6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{
		Family: family, Dst: all, Table: steerTable,
		Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: unix.RTPROT_STATIC,
	}
}

// removeSteering undoes Steer; what is not there is no error.
func removeSteering() error {
	var errs []error
	for _, family := range steerFamilies {
		gone := func(err error) bool {
			return err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EAFNOSUPPORT)
		}
		if err := netlink.RuleDel(steerRule(family)); !gone(err) {
			errs = append(errs, fmt.Errorf("remove the rule for steered packets: %w", err))
		}
		if err := netlink.RouteDel(steerRoute(family)); !gone(err) {
			errs = append(errs, fmt.Errorf("remove the route for steered packets: %w", err))
		}
	}
	return errors.Join(errs...)
}
