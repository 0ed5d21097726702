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
)

// InterfaceKind says what is on the other side of an interface.
type InterfaceKind uint8

// The kinds.
const (
	// Workload: what comes in by the interface is a workload's, which has no
	// sockets in this kernel or is not to be trusted to use them.
	WorkloadInterface InterfaceKind = iota
	// Uplink: the interface leads elsewhere. Only frames that did not come from
	// the IP stack are looked at.
	Uplink
)

func (k InterfaceKind) String() string {
	if k == Uplink {
		return "uplink"
	}
	return "workload"
}

// Interface is a network interface of the daemon's network namespace that is
// to be guarded.
type Interface struct {
	Index int
	Name  string
	Kind  InterfaceKind
	// L3: its packets have no link-layer header (tun).
	L3 bool
	// Workload is who is behind it; not for uplinks.
	Workload WorkloadState
	// Share is how many flows it may have; 0: a quarter of the table.
	Share uint32
}

// guard is a guarded interface.
type guard struct {
	Interface
	// links are the TCX links by the name of the program; empty where the
	// programs are filters of the clsact qdisc.
	links map[string]link.Link
}

// flowShares is what part of egd_flows one interface may have: a quarter.
const flowShares = 4

// tcProgram is a program and the direction in which it sees an interface.
type tcProgram struct {
	name   string
	prog   *ebpf.Program
	attach ebpf.AttachType
}

// tcPrograms lists the programs of a kind in the order in which they are
// attached: who answers others is known before what it sends is looked at.
func (d *Datapath) tcPrograms(k InterfaceKind) []tcProgram {
	p := &d.objs.EgressdPrograms
	if k == Uplink {
		return []tcProgram{{"egd_tc_uplink", p.EgdTcUplink, ebpf.AttachTCXEgress}}
	}
	return []tcProgram{
		{"egd_tc_to", p.EgdTcTo, ebpf.AttachTCXEgress},
		{"egd_tc_from", p.EgdTcFrom, ebpf.AttachTCXIngress},
	}
}

// tcPrefix begins the names of the programs on interfaces.
const tcPrefix = "egd_tc_"

// tcPin is the name of a pinned TCX link: the interface's index tells two
// apart whose names are the same, one after the other.
func tcPin(program string, index int) string {
	return linkPrefix + program + "_" + strconv.Itoa(index)
}

// Guard puts an interface under policy, or changes whose it is. Programs of an
// earlier run are replaced without a gap.
func (d *Datapath) Guard(i Interface) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i.Kind == WorkloadInterface {
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
	if g := d.guards[i.Index]; g != nil {
		g.Interface = i
		return nil
	}
	g := &guard{Interface: i, links: map[string]link.Link{}}
	for _, p := range d.tcPrograms(i.Kind) {
		if err := d.attachTC(g, p); err != nil {
			g.close()
			return fmt.Errorf("attach %s to %s: %w", p.name, i.Name, err)
		}
	}
	d.guards[i.Index] = g
	return nil
}

// The flags of an interface's entry.
const (
	interfaceL3       = uint8(bpf.EgressdEgdIfaceFlagEGD_IF_L3)
	interfaceAllowAny = uint8(bpf.EgressdEgdIfaceFlagEGD_IF_ALLOW_ANY)
)

// attachTC attaches a program with a TCX link where the kernel has them (6.6),
// in front of other programs; else as a filter.
func (d *Datapath) attachTC(g *guard, p tcProgram) error {
	if !hasTCX() {
		return d.attachFilter(g, p)
	}
	pin := filepath.Join(d.opts.PinDir, tcPin(p.name, g.Index))
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		if info, err := l.Info(); err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == g.Index {
			if err := l.Update(p.prog); err != nil {
				l.Close()
				return fmt.Errorf("replace the program: %w", err)
			}
			g.links[p.name] = l
			return nil
		}
		// Of an interface that is gone, or that was in another namespace.
		if err := errors.Join(l.Unpin(), l.Close()); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open the pinned link: %w", err)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: g.Index, Program: p.prog, Attach: p.attach, Anchor: link.Head()})
	if err != nil {
		return err
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return fmt.Errorf("pin the link: %w", err)
	}
	g.links[p.name] = l
	return nil
}

func (g *guard) close() error {
	var err error
	for _, l := range g.links {
		err = errors.Join(err, l.Close())
	}
	return err
}

// Unguard takes the programs from an interface, which may be gone already.
func (d *Datapath) Unguard(index int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.guards[index]
	if g == nil {
		return nil
	}
	delete(d.guards, index)
	var err error
	for _, l := range g.links {
		err = errors.Join(err, l.Unpin(), l.Close())
	}
	if len(g.links) == 0 {
		err = errors.Join(err, removeFilters(index))
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
		if !strings.HasPrefix(e.Name(), linkPrefix+tcPrefix) {
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
		if d.guards[int(index)] == nil {
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
	g := d.guards[index]
	return g != nil && slices.ContainsFunc(d.tcPrograms(g.Kind), func(p tcProgram) bool {
		return pin == tcPin(p.name, index)
	})
}

// Guarded lists the guarded interfaces.
func (d *Datapath) Guarded() []Interface {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Interface
	for _, g := range d.guards {
		all = append(all, g.Interface)
	}
	return all
}
