// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/internal/cgroup"
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
	if err := d.attach(path, d.hooks()); err != nil {
		return err
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
	fresh, err := link.AttachCgroup(link.CgroupOptions{Path: path, Attach: h.attach, Program: h.prog})
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
