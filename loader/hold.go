// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/foreign"
	"github.com/egressd/egressd/loader/tc"
)

// FaultKind says what the kernel had lost.
type FaultKind string

// The kinds.
const (
	// HookFault: a program was not at its hook of the captured cgroup.
	HookFault FaultKind = "hook"
	// InterfaceFault: a program was not on an interface, or a rule not there that
	// makes what interfaces bring come to egressd.
	InterfaceFault FaultKind = "interface"
	// PinFault: something was not pinned, or something else in its place.
	PinFault FaultKind = "pin"
	// ListenerFault: a listener was not in the table of those that flows may be
	// redirected to.
	ListenerFault FaultKind = "listener"
)

// FaultKinds lists them all.
func FaultKinds() []FaultKind {
	return []FaultKind{HookFault, InterfaceFault, PinFault, ListenerFault}
}

// Loss is something that was put in place, and was found missing.
type Loss struct {
	Kind FaultKind
	// What is the hook, the interface and the program, the pin or the listener.
	What string
	// Err is why it could not be put back; nil: it is back.
	Err error
}

// HoldOptions say how Hold puts things back.
type HoldOptions struct {
	// Lock is that of the pin directory.
	Lock *bpffs.PinLock
	// Volatile is that of bpffs.Prepare.
	Volatile bool
}

// Hold compares what was attached, pinned and published with what the kernel has,
// and puts back what is missing. It costs some hundred system calls if nothing is.
// A cgroup that is gone or was made anew is left to Attach, an interface that is
// gone to Unguard. After Unload it does nothing.
func (d *Datapath) Hold(o HoldOptions) []Loss {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unloaded {
		return nil
	}
	var faults []Loss
	// The directory first, for what is attached again is pinned at once.
	renewed, err := o.Lock.Keep(o.Volatile)
	if renewed || err != nil {
		faults = append(faults, Loss{PinFault, "the directory " + d.opts.PinDir, err})
	}
	pinnable := err == nil
	faults = append(faults, d.holdHooks(pinnable)...)
	faults = append(faults, d.holdInterfaces(pinnable)...)
	if d.steers {
		missing, err := tc.HoldSteering()
		if err != nil && len(missing) == 0 {
			missing = []string{"the rules for steered packets"}
		}
		for i, what := range missing {
			f := Loss{Kind: InterfaceFault, What: what}
			if i == len(missing)-1 {
				f.Err = err
			}
			faults = append(faults, f)
		}
	}
	if pinnable {
		faults = append(faults, d.holdPins()...)
	}
	return append(faults, d.holdListeners()...)
}

// Lasting returns a fault unless the pins outlive the process. It reads the node's
// list of mounts, which may be long.
func (d *Datapath) Lasting() []Loss {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unloaded {
		return nil
	}
	err := bpffs.Lasting(d.opts.PinDir)
	if err == nil || errors.Is(err, os.ErrNotExist) { // which is Hold's
		return nil
	}
	return []Loss{{PinFault, "the bpf filesystem at " + d.opts.PinDir, err}}
}

// holdHooks sees that the programs are at the cgroup, and notes which others are.
func (d *Datapath) holdHooks(pinnable bool) (faults []Loss) {
	if len(d.links) < len(d.hooks()) {
		return nil // a start that has not come to it, or that failed
	}
	dir, err := os.Open(d.path)
	if err != nil {
		return nil // gone
	}
	defer dir.Close()
	if id, err := cgroup.ID(d.path); err != nil || id != d.cgroup {
		return nil
	}
	var others []foreign.Program
	for _, h := range d.hooks() {
		id, err := d.programID(h.prog)
		var at []link.AttachedProgram
		if err == nil {
			at, err = effective(dir, h)
		}
		missing := false
		if err == nil {
			missing, err = d.holdHook(h, id, at, pinnable)
		}
		if missing || err != nil {
			faults = append(faults, Loss{HookFault, h.name, err})
		}
		others = append(others, d.foreign.Among(at, id, dir.Name(), h.attach)...)
	}
	d.foreign.All = others
	return faults
}

// effective lists the programs that the kernel runs at a hook of a cgroup, in their
// order: what is attached to it and above it.
func effective(dir *os.File, h hook) ([]link.AttachedProgram, error) {
	at, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: h.attach, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE})
	if err != nil {
		return nil, err
	}
	return at.Programs, nil
}

// holdHook sees that a program is at its hook, where these programs are.
func (d *Datapath) holdHook(h hook, id ebpf.ProgramID, at []link.AttachedProgram, pinnable bool) (missing bool, err error) {
	l := d.links[h.name]
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("read the link: %w", err)
	}
	if c := info.Cgroup(); c != nil && c.CgroupId == d.cgroup {
		if info.Program != id { // somebody updated the link
			if err := l.Update(h.prog); err != nil {
				return true, fmt.Errorf("replace another program at the hook: %w", err)
			}
			return true, nil
		}
		// What the kernel runs there counts, not what the link says.
		if slices.ContainsFunc(at, func(p link.AttachedProgram) bool { return p.ID == id }) {
			return false, nil
		}
	}
	fresh, err := foreign.AttachCgroup(d.path, h.prog, h.attach)
	if err != nil {
		return true, err
	}
	// Closing the old one ends it for good, with its pin.
	l.Close()
	d.links[h.name] = fresh
	if !pinnable {
		return true, nil
	}
	pin := filepath.Join(d.opts.PinDir, bpffs.LinkPrefix+h.name)
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return true, fmt.Errorf("replace the pin: %w", err)
	}
	if err := fresh.Pin(pin); err != nil {
		return true, fmt.Errorf("pin the link: %w", err)
	}
	return true, nil
}

// programID is the kernel's number of one of the Datapath's own programs.
func (d *Datapath) programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	if id, ok := d.ids[p]; ok {
		return id, nil
	}
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("read the program: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("the kernel does not number its programs")
	}
	d.ids[p] = id
	return id, nil
}

// holdInterfaces sees that the programs are on the guarded interfaces.
func (d *Datapath) holdInterfaces(pinnable bool) (faults []Loss) {
	for _, g := range d.guarded {
		for _, p := range d.tcPrograms(g.Kind) {
			missing, err := d.holdInterface(g, p, pinnable)
			if errors.Is(err, unix.ENODEV) || errors.Is(err, tc.ErrNoInterface) {
				continue // it is gone, which Unguard is told of
			}
			if missing || err != nil {
				faults = append(faults, Loss{InterfaceFault, g.Name + " " + p.Name, err})
			}
		}
	}
	return faults
}

func (d *Datapath) holdInterface(g *guardedInterface, p tc.InterfaceProgram, pinnable bool) (missing bool, err error) {
	id, err := d.programID(p.Prog)
	if err != nil {
		return false, err
	}
	l := g.links[p.Name]
	if l == nil {
		there, err := tc.HasFilter(g.Index, p, uint32(id))
		if there || err != nil {
			return false, err
		}
		return true, d.attachFilter(g, p)
	}
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("read the link: %w", err)
	}
	if x := info.TCX(); x != nil && int(x.Ifindex) == g.Index {
		if info.Program == id {
			return false, nil
		}
		return true, l.Update(p.Prog)
	}
	fresh, err := link.AttachTCX(link.TCXOptions{Interface: g.Index, Program: p.Prog, Attach: p.Attach, Anchor: link.Head()})
	if err != nil {
		return true, err
	}
	l.Close()
	g.links[p.Name] = fresh
	if !pinnable {
		return true, nil
	}
	pin := filepath.Join(d.opts.PinDir, tcPin(p.Name, g.Index))
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return true, fmt.Errorf("replace the pin: %w", err)
	}
	return true, fresh.Pin(pin)
}

// holdListeners sees that the listeners are in their table. One that is closed is
// left out: nothing is to be redirected to it.
func (d *Datapath) holdListeners() (faults []Loss) {
	for _, s := range d.sockets {
		missing, err := d.holdListener(s)
		if missing || err != nil {
			faults = append(faults, Loss{ListenerFault, s.String(), err})
		}
	}
	return faults
}

func (d *Datapath) holdListener(s ListenerSocket) (missing bool, err error) {
	raw, err := s.Conn.SyscallConn()
	if err != nil {
		return false, nil // closed
	}
	_ = raw.Control(func(fd uintptr) { // an error: closed
		var want, have uint64
		if want, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
			return
		}
		err = d.objs.EgdListeners.Lookup(s.key(), &have)
		if err == nil && have == want {
			return
		}
		missing = true
		err = d.objs.EgdListeners.Put(s.key(), uint64(fd))
	})
	if err != nil {
		return missing, fmt.Errorf("write egd_listeners: %w", err)
	}
	return missing, nil
}

// Foreign lists the foreign programs that Hold saw last.
func (d *Datapath) Foreign() []foreign.Program {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.foreign.All)
}
