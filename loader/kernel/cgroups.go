// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"

	"github.com/egressd/egressd/bpf"
)

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

// Reads say what the programs read names of cgroups for.
type Reads struct {
	// Captured: cgroups are captured by their names. Containers: new containers are held.
	Captured, Containers bool
}

// TellReads writes into the programs what they read names for, and the kernel's layout if
// they read any.
func TellReads(spec *ebpf.CollectionSpec, n Reads) error {
	var names uint32
	if n.Captured {
		names |= uint32(bpf.EgressdEgdReadEGD_READS_CAPTURED)
	}
	if n.Containers {
		names |= uint32(bpf.EgressdEgdReadEGD_READS_CONTAINERS)
	}
	if names == 0 {
		return nil
	}
	if err := CanFollow(); err != nil {
		return err
	}
	o, err := kernelOffsets()
	if err != nil {
		return err
	}
	if err := spec.Variables[bpf.EgressdVarEgdReads].Set(names); err != nil {
		return err
	}
	return spec.Variables[bpf.EgressdVarEgdOffsets].Set(&o)
}
