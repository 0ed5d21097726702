// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"

	"github.com/egressd/egressd/bpf"
)

// Named is a captured cgroup that is known by its name.
type Named struct {
	// Path are the names of the cgroups from below the one that the programs
	// are attached to, down to the captured one.
	Path []string
	// As is what a cgroup of that name is from its first moment on.
	As WorkloadState
}

// Follow captures cgroups by name below the cgroup with the id above, which
// the programs are attached to. Those of them that are there need a workload of
// their own all the same, whose Home is the name's, and so does above
// (Workload.Outside), for all else below it.
func (d *Datapath) Follow(above uint64, named []Named) error {
	steps := map[bpf.EgressdEgdStepKey]bpf.EgressdEgdStep{}
	last := uint32(0)
	for _, n := range named {
		like := NamedKey(n.Path)
		if err := d.SetWorkload(like, n.As); err != nil {
			return err
		}
		from := uint32(0)
		for j, name := range n.Path {
			key := bpf.EgressdEgdStepKey{Hash: hashName(name), From: from}
			step, ok := steps[key]
			if !ok {
				last++
				step.Step = last
			}
			if j == len(n.Path)-1 {
				step.Like = like
			}
			steps[key] = step
			from = step.Step
		}
	}
	for key, step := range steps {
		if err := d.objs.EgdCaptured.Put(&key, &step); err != nil {
			return fmt.Errorf("write egd_captured: %w", err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.Above = above
	return d.writeConfig()
}

// Beside says of cgroups, by their ids, that they are neither captured by name
// nor around what is: the programs need not look at their names.
func (d *Datapath) Beside(ids []uint64) error {
	for _, id := range ids {
		if err := d.objs.EgdBeside.Put(id, uint32(1)); err != nil {
			return fmt.Errorf("write egd_beside: %w", err)
		}
	}
	return nil
}

// NamedKey is the key of egd_workloads for what a captured name stands for, by its
// path. It is the same after a restart, and no cgroup has such an id.
func NamedKey(path []string) uint64 {
	return (hashName(strings.Join(path, "/")) | 1<<63) &^ 1 // not EGD_NOBODY
}

// isNamedKey says whether it is one of NamedKey.
func isNamedKey(key uint64) bool { return key > math.MaxInt64 }

// hashName is hash_name of the kernel programs.
func hashName(name string) uint64 {
	const piece = int(bpf.EgressdEgdSizeEGD_NAME_PIECE) - 1
	h := uint64(0xcbf29ce484222325)
	for {
		var b [piece + 1]byte
		n := copy(b[:piece], name)
		for i := 0; i < len(b); i += 8 {
			h = (h ^ binary.LittleEndian.Uint64(b[i:])) * 0x100000001b3
			h ^= h >> 32
		}
		if name = name[n:]; n < piece {
			return h
		}
	}
}

// CanFollow says why cgroups cannot be captured by name on this kernel: it
// does not tell its layout (no BTF), or it is locked down to confidentiality and
// lets no program read a name. nil: they can.
var CanFollow = sync.OnceValue(func() error {
	for _, t := range []ebpf.ProgramType{ebpf.CGroupSock, ebpf.CGroupSockAddr, ebpf.CGroupSockopt, ebpf.SchedCLS} {
		if err := features.HaveProgramHelper(t, asm.FnProbeReadKernelStr); err != nil {
			return fmt.Errorf("programs may not read a cgroup's name: %w", err)
		}
	}
	_, err := kernelOffsets()
	return err
})

var errLayout = errors.New("the kernel's cgroups have a layout that is not known")

// kernelOffsets finds where the kernel has a cgroup's name.
var kernelOffsets = sync.OnceValues(func() (o bpf.EgressdEgdOffsets, err error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return o, fmt.Errorf("read the kernel's types: %w", err)
	}
	for _, f := range []struct {
		of, name string
		to       *uint32
	}{
		{"task_struct", "cgroups", &o.TaskCgroups},
		{"css_set", "dfl_cgrp", &o.CssSetCgroup},
		{"cgroup", "level", &o.CgroupLevel},
		{"cgroup", "ancestors", &o.CgroupAncestors},
		{"cgroup", "kn", &o.CgroupNode},
		{"kernfs_node", "id", &o.NodeId},
		{"kernfs_node", "name", &o.NodeName},
	} {
		var s *btf.Struct
		if err := kernel.TypeByName(f.of, &s); err != nil {
			return o, fmt.Errorf("%w: struct %s: %w", errLayout, f.of, err)
		}
		bits, ok := memberOffset(s.Members, f.name)
		if !ok || bits%8 != 0 {
			return o, fmt.Errorf("%w: %s.%s", errLayout, f.of, f.name)
		}
		*f.to = uint32(bits / 8)
	}
	return o, nil
})

// memberOffset finds a member, also one of a nameless struct or union inside.
func memberOffset(members []btf.Member, name string) (btf.Bits, bool) {
	for _, m := range members {
		if m.Name == name {
			return m.Offset, true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if off, ok := memberOffset(inner, name); ok {
			return m.Offset + off, true
		}
	}
	return 0, false
}

// tellOffsets writes the kernel's layout into the programs.
func tellOffsets(spec *ebpf.CollectionSpec) error {
	if err := CanFollow(); err != nil {
		return err
	}
	o, err := kernelOffsets()
	if err != nil {
		return err
	}
	return spec.Variables[bpf.EgressdVarEgdOffsets].Set(&o)
}
