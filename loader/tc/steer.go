// SPDX-License-Identifier: Apache-2.0

package tc

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
)

// Packets that the programs on interfaces give to egressd's sockets still bear
// the address that was dialled. The programs mark them, and a rule for the
// mark makes the stack take them for its own.
const (
	steerMark  = uint32(bpf.EgressdEgdMarkEGD_MARK)
	steerTable = 15001
	steerPrio  = 50
)

// SteerPin is a pinned program that says that there are rules to remove.
const SteerPin = "prog_egd_steer"

// HoldSteering adds what is missing of the rules and routes that make the stack accept what
// is steered, and lists it.
func HoldSteering() (missing []string, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("interface lo: %w", err)
	}
	for _, family := range steerFamilies {
		route := steerRoute(family)
		route.LinkIndex = lo.Attrs().Index
		for _, part := range []struct {
			what string
			err  error
		}{
			{fmt.Sprintf("the route of table %d", steerTable), netlink.RouteAdd(route)},
			{fmt.Sprintf("the rule of priority %d", steerPrio), netlink.RuleAdd(steerRule(family))},
		} {
			if errors.Is(part.err, unix.EEXIST) {
				continue
			}
			if family == netlink.FAMILY_V6 && (errors.Is(part.err, unix.EAFNOSUPPORT) || errors.Is(part.err, unix.EOPNOTSUPP) || errors.Is(part.err, unix.EACCES)) {
				break // a node without IPv6
			}
			what := part.what + " for steered packets, " + steerNames[family]
			missing = append(missing, what)
			if part.err != nil {
				return missing, fmt.Errorf("%s: %w", what, part.err)
			}
		}
	}
	return missing, nil
}

var steerNames = map[int]string{netlink.FAMILY_V4: "IPv4", netlink.FAMILY_V6: "IPv6"}

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

// RemoveSteering undoes HoldSteering; what is not there is no error.
func RemoveSteering() error {
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
