// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	egdlink "github.com/egressd/egressd/internal/link"
)

// Before kernel 6.6 the programs on interfaces are filters of the clsact
// qdisc, which stay when the process ends and go with the interface.

// filterPrio and filterHandle say where the filters stand: first.
const (
	filterPrio   = 1
	filterHandle = 0xe9d
)

// filterPin is a pinned program that says that there are filters to remove.
const filterPin = "prog_egd_tc"

func (d *Datapath) attachFilter(g *guard, p tcProgram) error {
	pin := filepath.Join(d.opts.PinDir, filterPin)
	if err := pinAgain(p.prog, pin); err != nil {
		return fmt.Errorf("pin the program: %w", err)
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: g.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add the clsact qdisc: %w", err)
	}
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: g.Index, Parent: filterParent(p), Handle: filterHandle,
			Protocol: unix.ETH_P_ALL, Priority: filterPrio,
		},
		Fd: p.prog.FD(), Name: p.name, DirectAction: true,
	}
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("add the filter: %w", err)
	}
	return nil
}

// errNoInterface says that an interface is gone.
var errNoInterface = errors.New("the interface is gone")

// hasFilter says whether a program is a filter of an interface.
func hasFilter(index int, p tcProgram, id uint32) (bool, error) {
	l, err := netlink.LinkByIndex(index)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, errNoInterface
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

func filterParent(p tcProgram) uint32 {
	if p.attach == ebpf.AttachTCXIngress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// removeFilters removes egressd's filters from an interface. The qdisc stays:
// others may use it.
func removeFilters(index int) error {
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
			if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, tcPrefix) {
				if err := netlink.FilterDel(f); !errors.Is(err, unix.ENOENT) { // another unload's
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// removeAllFilters removes egressd's filters from every interface of this
// network namespace but those that keep names.
func removeAllFilters(keep func(index int) bool) error {
	links, err := egdlink.Whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		if !keep(l.Attrs().Index) {
			errs = append(errs, removeFilters(l.Attrs().Index))
		}
	}
	return errors.Join(errs...)
}

func (d *Datapath) removeOtherFilters() error {
	if _, err := os.Stat(filepath.Join(d.opts.PinDir, filterPin)); err != nil {
		return nil
	}
	return removeAllFilters(func(i int) bool { return d.guards[i] != nil })
}
