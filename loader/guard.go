// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/kernel"
	"github.com/egressd/egressd/loader/tc"
)

// flowShares is what part of egd_flows one interface may have: a quarter.
const flowShares = 4

// Guard puts an interface under policy, or changes whose it is. Programs of an
// earlier run are replaced without a gap.
func (d *Datapath) Guard(i Interface) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i.Kind == WorkloadInterface {
		if d.objs.EgdTcFrom == nil {
			return errors.New("the programs of interfaces with workloads were not loaded (Sizes.NoInterfaces)")
		}
		v := bpf.EgressdEgdIface{
			Workload: i.Workload.ID, Policy: uint32(i.Workload.Policy),
			Mode: uint8(i.Workload.Mode), Share: i.Share,
		}
		if v.Share == 0 {
			v.Share = uint32(d.opts.Sizes.Flows / flowShares)
		}
		if i.L3 {
			v.Flags |= interfaceL3
		}
		if i.Workload.AllowAny {
			v.Flags |= interfaceAllowAny
		}
		if err := d.objs.EgdIfaces.Put(uint32(i.Index), &v); err != nil {
			return fmt.Errorf("write egd_ifaces: %w", err)
		}
		err := d.objs.EgdShares.Update(uint32(i.Index), &bpf.EgressdEgdShare{}, ebpf.UpdateNoExist)
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("write egd_shares: %w", err)
		}
	}
	if g := d.guarded[i.Index]; g != nil {
		g.Interface = i
		return nil
	}
	g := &guardedInterface{Interface: i, links: map[string]link.Link{}}
	for _, p := range d.tcPrograms(i.Kind) {
		if err := d.attachTC(g, p); err != nil {
			g.close()
			return fmt.Errorf("attach %s to %s: %w", p.Name, i.Name, err)
		}
	}
	d.guarded[i.Index] = g
	return nil
}

// The flags of an interface's entry.
const (
	interfaceL3       = uint8(bpf.EgressdEgdIfaceFlagEGD_IF_L3)
	interfaceAllowAny = uint8(bpf.EgressdEgdIfaceFlagEGD_IF_ALLOW_ANY)
)

// attachTC attaches a program with a TCX link where the kernel has them (6.6),
// in front of other programs; else as a filter.
func (d *Datapath) attachTC(g *guardedInterface, p tc.InterfaceProgram) error {
	if !kernel.HasTCX() {
		return d.attachFilter(g, p)
	}
	pin := filepath.Join(d.opts.PinDir, tcPin(p.Name, g.Index))
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		if info, err := l.Info(); err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == g.Index {
			if err := l.Update(p.Prog); err != nil {
				l.Close()
				return fmt.Errorf("replace the program: %w", err)
			}
			g.links[p.Name] = l
			return nil
		}
		// Of an interface that is gone, or that was in another namespace.
		if err := errors.Join(l.Unpin(), l.Close()); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open the pinned link: %w", err)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: g.Index, Program: p.Prog, Attach: p.Attach, Anchor: link.Head()})
	if err != nil {
		return err
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return fmt.Errorf("pin the link: %w", err)
	}
	g.links[p.Name] = l
	return nil
}

// Unguard takes the programs from an interface, which may be gone already.
func (d *Datapath) Unguard(index int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.guarded[index]
	if g == nil {
		return nil
	}
	delete(d.guarded, index)
	var err error
	for _, l := range g.links {
		err = errors.Join(err, l.Unpin(), l.Close())
	}
	if len(g.links) == 0 {
		err = errors.Join(err, tc.RemoveFilters(index))
	}
	if g.Kind == WorkloadInterface {
		err = errors.Join(err, d.forgetInterface(index))
	}
	return err
}

// forgetInterface removes what the tables have of an interface; its flows go
// with the next sweep.
func (d *Datapath) forgetInterface(index int) error {
	key := uint32(index)
	var err error
	for _, m := range []*ebpf.Map{d.objs.EgdIfaces, d.objs.EgdShares} {
		if e := m.Delete(key); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, fmt.Errorf("forget interface %d: %w", index, e))
		}
	}
	return err
}

// ForgetOtherInterfaces removes what an earlier run left of interfaces that
// are not guarded now: their programs, pins and entries.
func (d *Datapath) ForgetOtherInterfaces() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	entries, err := os.ReadDir(d.opts.PinDir)
	if err != nil {
		return fmt.Errorf("read the pin directory: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), bpffs.LinkPrefix+tc.Prefix) {
			continue
		}
		index, err := strconv.Atoi(e.Name()[strings.LastIndexByte(e.Name(), '_')+1:])
		if err == nil && !d.hasTC(index, e.Name()) {
			errs = append(errs, os.Remove(filepath.Join(d.opts.PinDir, e.Name())))
		}
	}
	errs = append(errs, d.removeOtherFilters())
	var stale []int
	var index uint32
	var v bpf.EgressdEgdIface
	it := d.objs.EgdIfaces.Iterate()
	for it.Next(&index, &v) {
		if d.guarded[int(index)] == nil {
			stale = append(stale, int(index))
		}
	}
	errs = append(errs, it.Err())
	for _, index := range stale {
		errs = append(errs, d.forgetInterface(index))
	}
	return errors.Join(errs...)
}

// hasTC says whether a pin is one of a guarded interface and of a program that
// this version has.
func (d *Datapath) hasTC(index int, pin string) bool {
	g := d.guarded[index]
	return g != nil && slices.ContainsFunc(d.tcPrograms(g.Kind), func(p tc.InterfaceProgram) bool {
		return pin == tcPin(p.Name, index)
	})
}

// Guarded lists the guarded interfaces.
func (d *Datapath) Guarded() []Interface {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Interface
	for _, g := range d.guarded {
		all = append(all, g.Interface)
	}
	return all
}

// attachFilter is attachTC before kernel 6.6: the programs are filters of the clsact
// qdisc, which stay when the process ends and go with the interface.
func (d *Datapath) attachFilter(g *guardedInterface, p tc.InterfaceProgram) error {
	pin := filepath.Join(d.opts.PinDir, tc.FilterPin)
	if err := bpffs.Replace(p.Prog, pin); err != nil {
		return fmt.Errorf("pin the program: %w", err)
	}
	return tc.AddFilter(g.Index, p)
}

// removeOtherFilters removes filters from interfaces that are not guarded.
func (d *Datapath) removeOtherFilters() error {
	if _, err := os.Stat(filepath.Join(d.opts.PinDir, tc.FilterPin)); err != nil {
		return nil
	}
	return tc.RemoveAllFilters(func(i int) bool { return d.guarded[i] != nil })
}
