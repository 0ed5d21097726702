// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/policy"
)

// hook is one program and the place where it is attached.
type hook struct {
	name   string
	prog   *ebpf.Program
	attach ebpf.AttachType
}

// hooks lists the programs in the order in which they are attached: what
// publishes and restores comes before what redirects, so that no flow is
// redirected without its original destination being recorded.
func (d *Datapath) hooks() []hook {
	p := &d.objs.EgressdPrograms
	return []hook{
		{"egd_sock_ops", p.EgdSockOps, ebpf.AttachCGroupSockOps},
		{"egd_skb_egress", p.EgdSkbEgress, ebpf.AttachCGroupInetEgress},
		{"egd_sock_release", p.EgdSockRelease, ebpf.AttachCgroupInetSockRelease},
		{"egd_recvmsg4", p.EgdRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
		{"egd_recvmsg6", p.EgdRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
		{"egd_peername4", p.EgdPeername4, ebpf.AttachCgroupInet4GetPeername},
		{"egd_peername6", p.EgdPeername6, ebpf.AttachCgroupInet6GetPeername},
		{"egd_bind4", p.EgdBind4, ebpf.AttachCGroupInet4Bind},
		{"egd_bind6", p.EgdBind6, ebpf.AttachCGroupInet6Bind},
		{"egd_setsockopt", p.EgdSetsockopt, ebpf.AttachCGroupSetsockopt},
		{"egd_sock_create", p.EgdSockCreate, ebpf.AttachCGroupInetSockCreate},
		{"egd_sendmsg4", p.EgdSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
		{"egd_sendmsg6", p.EgdSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
		{"egd_connect4", p.EgdConnect4, ebpf.AttachCGroupInet4Connect},
		{"egd_connect6", p.EgdConnect6, ebpf.AttachCGroupInet6Connect},
	}
}

// linkPrefix distinguishes pinned links from pinned maps.
const linkPrefix = "link_"

// Attach attaches every program to the cgroup at path and pins the links. A
// link that is pinned already is kept and its program replaced atomically. The
// tables must be full: the first program that is replaced goes by them. Then
// what another version left is removed. Attaching again, when the cgroup was made
// anew, leaves the one before.
func (d *Datapath) Attach(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	hooks := d.hooks()
	if err := d.attach(path, hooks); err != nil {
		return err
	}
	info, err := d.links[hooks[0].name].Info()
	if err != nil {
		return fmt.Errorf("read a link: %w", err)
	}
	d.path, d.cgroup = path, 0
	if c := info.Cgroup(); c != nil { // which may be gone again
		d.cgroup = c.CgroupId
	}
	return d.commit()
}

// attach is Attach for some of the programs.
func (d *Datapath) attach(path string, hooks []hook) error {
	for _, h := range hooks {
		l, err := d.attachOne(path, h)
		if err != nil {
			return fmt.Errorf("attach %s to cgroup %s: %w", h.name, path, err)
		}
		if before := d.links[h.name]; before != nil {
			before.Close() // its pin is gone, and with this the link
		}
		d.links[h.name] = l
	}
	return nil
}

func (d *Datapath) attachOne(path string, h hook) (link.Link, error) {
	pin := filepath.Join(d.opts.PinDir, linkPrefix+h.name)
	l, err := link.LoadPinnedLink(pin, nil)
	switch {
	case err == nil:
		id, err := cgroup.ID(path)
		if err != nil {
			l.Close()
			return nil, err
		}
		if info, err := l.Info(); err == nil && info.Cgroup() != nil && info.Cgroup().CgroupId == id {
			if err := l.Update(h.prog); err != nil {
				l.Close()
				return nil, fmt.Errorf("replace the program: %w", err)
			}
			return l, nil
		}
		// Pinned for another cgroup, or for one that is gone: attach anew
		// before the old link goes, so that there is no gap.
		defer l.Close()
		defer l.Unpin()
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("open the pinned link: %w", err)
	}
	fresh, err := attachCgroup(path, h)
	if err != nil {
		return nil, err
	}
	if l != nil {
		if err := l.Unpin(); err != nil {
			fresh.Close()
			return nil, err
		}
	}
	if err := fresh.Pin(pin); err != nil {
		fresh.Close()
		return nil, fmt.Errorf("pin the link: %w", err)
	}
	return fresh, nil
}

// Attached lists the attached programs with their kernel ids.
func (d *Datapath) Attached() map[string]uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := map[string]uint32{}
	for name, l := range d.links {
		// One whose cgroup is gone is attached to nothing.
		if info, err := l.Info(); err == nil && info.Cgroup() != nil && info.Cgroup().CgroupId != 0 {
			ids[name] = uint32(info.Program)
		}
	}
	for _, g := range d.guards {
		for _, p := range d.tcPrograms(g.Kind) {
			if info, err := p.prog.Info(); err == nil {
				if id, ok := info.ID(); ok {
					ids[p.name] = uint32(id)
				}
			}
		}
	}
	return ids
}

// MaxWorkloads bounds the numbers of workloads (EGD_MAX_WORKLOADS).
const MaxWorkloads = 16384

// Workload is what the kernel knows of a workload.
type Workload struct {
	ID     uint32 // below MaxWorkloads
	Policy policy.PolicyID
	Mode   policy.Mode
	// Exempt is for egressd's own cgroup only: nothing is decided there.
	Exempt bool
	// AllowAny lets what no rule names go straight there
	// (policy.Policy.AllowsUnknown).
	AllowAny bool
	// Outside is for the cgroup that the programs are attached to when it is
	// captured only in parts (Follow): all else below it is free.
	Outside bool
	// Home is the key that sockets remember the workload by, if it is another
	// than the cgroup's id (NamedKey).
	Home uint64
}

// Flags of enum EGD_WL_*.
const (
	workloadExempt   = 1
	workloadAllowAny = 2
	workloadOutside  = 4
	workloadFound    = 8
)

// SetWorkload says which workload the processes of a cgroup subtree are.
func (d *Datapath) SetWorkload(cgroup uint64, w Workload) error {
	if !d.usage.has(w.ID) {
		return fmt.Errorf("%w: %d", errWorkload, w.ID)
	}
	v := kernelWorkload(cgroup, w)
	if err := d.objs.EgdWorkloads.Put(cgroup, &v); err != nil {
		return fmt.Errorf("write egd_workloads: %w", err)
	}
	return nil
}

func kernelWorkload(cgroup uint64, w Workload) bpf.EgressdEgdWorkload {
	v := bpf.EgressdEgdWorkload{Id: w.ID, Policy: uint32(w.Policy), Mode: uint8(w.Mode), Home: cmp.Or(w.Home, cgroup)}
	if w.Exempt {
		v.Flags |= workloadExempt
	}
	if w.AllowAny {
		v.Flags |= workloadAllowAny
	}
	if w.Outside {
		v.Flags |= workloadExempt | workloadOutside
	}
	return v
}

// SetWorkloads makes w the only workloads: those of an earlier run that are
// not in it are removed, after the new ones are in place. What stays is what
// Follow says, and cgroups that a program has just entered by their names.
func (d *Datapath) SetWorkloads(w map[uint64]Workload) error {
	for id, one := range w {
		if err := d.SetWorkload(id, one); err != nil {
			return err
		}
	}
	return d.dropStale(func(id uint64, flags uint8) bool {
		// The caller may have looked for cgroups before this one was made.
		_, ok := w[id]
		return !ok && (flags&workloadFound == 0 || cgroup.Gone(id))
	})
}

// DropGone removes what programs entered by name and is gone.
func (d *Datapath) DropGone(w map[uint64]Workload) error {
	return d.dropStale(func(id uint64, flags uint8) bool {
		_, ok := w[id]
		return !ok && flags&workloadFound != 0 && cgroup.Gone(id)
	})
}

func (d *Datapath) dropStale(is func(id uint64, flags uint8) bool) error {
	var stale []uint64
	err := eachWorkload(d.objs.EgdWorkloads, func(id uint64, flags uint8) {
		if is(id, flags) {
			stale = append(stale, id)
		}
	})
	if err != nil {
		return fmt.Errorf("read egd_workloads: %w", err)
	}
	for _, id := range stale {
		if err := d.objs.EgdWorkloads.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove from egd_workloads: %w", err)
		}
	}
	return nil
}
