// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/cgroup"
)

// Program is a program that is not this Datapath's at one of its hooks: at
// the captured cgroup, or at one above it. One below runs before ours, which
// decides about what it made of the address.
type Program struct {
	// Hook is bpftool's name for it.
	Hook string `json:"hook"`
	ID   uint32 `json:"id"`
	Name string `json:"name"`
	// Cgroup is the directory that it is attached to; empty: it was gone before
	// it could be asked for.
	Cgroup string `json:"cgroup,omitempty"`
	// Before says that it runs before ours.
	Before bool `json:"before"`
}

// Rewrites says whether it stands where it can change the destination.
func (p Program) Rewrites() bool {
	return strings.HasPrefix(p.Hook, "connect") || strings.HasPrefix(p.Hook, "sendmsg")
}

// Detach is the command that takes it away.
func (p Program) Detach() string {
	return fmt.Sprintf("bpftool cgroup detach %s %s id %d", cmp.Or(p.Cgroup, "CGROUP"), p.Hook, p.ID)
}

// bpftool's names of the hooks, that every version of it understands.
var bpftoolNames = map[ebpf.AttachType]string{
	ebpf.AttachCGroupSockOps:          "sock_ops",
	ebpf.AttachCGroupInetEgress:       "egress",
	ebpf.AttachCgroupInetSockRelease:  "sock_release",
	ebpf.AttachCGroupUDP4Recvmsg:      "recvmsg4",
	ebpf.AttachCGroupUDP6Recvmsg:      "recvmsg6",
	ebpf.AttachCgroupInet4GetPeername: "getpeername4",
	ebpf.AttachCgroupInet6GetPeername: "getpeername6",
	ebpf.AttachCGroupInet4Bind:        "bind4",
	ebpf.AttachCGroupInet6Bind:        "bind6",
	ebpf.AttachCGroupSetsockopt:       "setsockopt",
	ebpf.AttachCGroupInetSockCreate:   "sock_create",
	ebpf.AttachCGroupUDP4Sendmsg:      "sendmsg4",
	ebpf.AttachCGroupUDP6Sendmsg:      "sendmsg6",
	ebpf.AttachCGroupInet4Connect:     "connect4",
	ebpf.AttachCGroupInet6Connect:     "connect6",
}

// Seen are the foreign programs that were there at the last look.
type Seen struct{ All []Program }

// Among picks the foreign ones out of the programs that run at a hook of a cgroup.
func (f *Seen) Among(at []link.AttachedProgram, own ebpf.ProgramID, dir string, attach ebpf.AttachType) (all []Program) {
	before := true
	for _, p := range at {
		if p.ID == own {
			before = false
			continue
		}
		all = append(all, f.describe(dir, attach, p.ID, before))
	}
	return all
}

// describe names a program; one that was there before is known.
func (f *Seen) describe(dir string, attach ebpf.AttachType, id ebpf.ProgramID, before bool) Program {
	for _, p := range f.All {
		if p.ID == uint32(id) && p.Hook == bpftoolNames[attach] {
			p.Before = before
			return p
		}
	}
	p := Program{Hook: bpftoolNames[attach], ID: uint32(id), Name: programName(id), Before: before}
	dirs, err := cgroup.Upwards(dir)
	if err != nil {
		return p
	}
	for _, dir := range dirs {
		ids, _, err := programsAt(dir, attach)
		if err == nil && slices.Contains(ids, p.ID) {
			p.Cgroup = dir
			break
		}
	}
	return p
}

// programName is "" for a program that is gone.
func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}

// programsAt lists the programs that are attached to a cgroup itself, and the flags
// that they were attached with.
func programsAt(dir string, attach ebpf.AttachType) (ids []uint32, flags uint32, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	ids = make([]uint32, 64) // the kernel's bound (BPF_CGROUP_MAX_PROGS)
	// The part of union bpf_attr for BPF_PROG_QUERY; ebpf does not show the flags.
	attr := struct {
		target, attach, queryFlags, attachFlags uint32
		ids                                     uint64
		count                                   uint32
		_                                       uint32
	}{target: uint32(f.Fd()), attach: uint32(attach), ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: uint32(len(ids))}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return nil, 0, fmt.Errorf("query the programs of %s: %w", dir, errno)
	}
	return ids[:attr.count], attr.attachFlags, nil
}

// ErrInTheWay says that somebody else's program is in the way.
var ErrInTheWay = errors.New("another BPF program")

// AttachCgroup attaches a program to a cgroup. If another program forbids it, the
// error says which one, and how to be rid of it.
func AttachCgroup(path string, prog *ebpf.Program, attach ebpf.AttachType) (link.Link, error) {
	l, err := link.AttachCgroup(link.CgroupOptions{Path: path, Attach: attach, Program: prog})
	if err == nil || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EBUSY) {
		return l, err
	}
	if p := forbidding(path, attach); p != nil {
		return nil, fmt.Errorf("%w, %q (id %d), is attached to %s without BPF_F_ALLOW_MULTI, so no other can be attached there or below; "+
			"detach it (%s), attach it again with \"multi\" if it is needed, and start egressd again: %w", ErrInTheWay, p.Name, p.ID, p.Cgroup, p.Detach(), err)
	}
	return nil, err
}

// forbidding is the program because of which no other can be attached to a cgroup:
// one there, or one above that may not be overridden (kernel/bpf/cgroup.c,
// hierarchy_allows_attach). nil: none.
func forbidding(path string, attach ebpf.AttachType) *Program {
	dirs, err := cgroup.Upwards(path)
	if err != nil {
		return nil
	}
	for i, dir := range dirs {
		ids, flags, err := programsAt(dir, attach)
		if err != nil || len(ids) == 0 {
			continue
		}
		if flags&unix.BPF_F_ALLOW_MULTI != 0 || i > 0 && flags&unix.BPF_F_ALLOW_OVERRIDE != 0 {
			return nil
		}
		return &Program{
			Hook: bpftoolNames[attach], ID: ids[0], Name: programName(ebpf.ProgramID(ids[0])), Cgroup: dir, Before: true,
		}
	}
	return nil
}

// AttachedAnywhere lists the ids of all cgroups that programs of an egressd are
// attached to, wherever their links are pinned, if anywhere. Links that come or
// go meanwhile may be missing.
func AttachedAnywhere() (cgroups []uint64, err error) {
	var it link.Iterator
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil || info.Cgroup() == nil || info.Cgroup().CgroupId == 0 || slices.Contains(cgroups, info.Cgroup().CgroupId) {
			continue
		}
		if programName(info.Program) == "egd_connect4" {
			cgroups = append(cgroups, info.Cgroup().CgroupId)
		}
	}
	return cgroups, it.Err()
}
