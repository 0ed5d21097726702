// SPDX-License-Identifier: Apache-2.0

package tc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	egdlink "github.com/egressd/egressd/internal/link"
)

// filterPrio and filterHandle say where the filters stand: first.
const (
	filterPrio   = 1
	filterHandle = 0xe9d
)

// FilterPin is a pinned program that says that there are filters to remove.
const FilterPin = "prog_egd_tc"

// AddFilter makes a program a filter of an interface.
func AddFilter(index int, p InterfaceProgram) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add the clsact qdisc: %w", err)
	}
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: filterParent(p), Handle: filterHandle,
			Protocol: unix.ETH_P_ALL, Priority: filterPrio,
		},
		Fd: p.Prog.FD(), Name: p.Name, DirectAction: true,
	}
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("add the filter: %w", err)
	}
	return nil
}

// ErrNoInterface says that an interface is gone.
var ErrNoInterface = errors.New("the interface is gone")

// HasFilter says whether a program is a filter of an interface.
func HasFilter(index int, p InterfaceProgram, id uint32) (bool, error) {
	l, err := netlink.LinkByIndex(index)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, ErrNoInterface
	}
	if err != nil {
		return false, fmt.Errorf("interface %d: %w", index, err)
	}
	filters, err := egdlink.Whole(func() ([]netlink.Filter, error) { return netlink.FilterList(l, filterParent(p)) })
	if err != nil {
		return false, nil // no clsact
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Attrs().Handle == filterHandle && b.Attrs().Priority == filterPrio && b.Id == int(id) {
			return true, nil
		}
	}
	return false, nil
}

func filterParent(p InterfaceProgram) uint32 {
	if p.Attach == ebpf.AttachTCXIngress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// RemoveFilters removes egressd's filters from an interface. The qdisc stays:
// others may use it.
func RemoveFilters(index int) error {
	l, err := netlink.LinkByIndex(index)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil // and its filters are gone with it
	}
	if err != nil {
		return fmt.Errorf("interface %d: %w", index, err)
	}
	var errs []error
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := egdlink.Whole(func() ([]netlink.Filter, error) { return netlink.FilterList(l, parent) })
		if err != nil {
			continue // no clsact
		}
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, Prefix) {
				if err := netlink.FilterDel(f); !errors.Is(err, unix.ENOENT) { // another unload's
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// RemoveAllFilters removes egressd's filters from every interface of this
// network namespace but those that keep names.
func RemoveAllFilters(keep func(index int) bool) error {
	links, err := egdlink.Whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		if !keep(l.Attrs().Index) {
			errs = append(errs, RemoveFilters(l.Attrs().Index))
		}
	}
	return errors.Join(errs...)
}
