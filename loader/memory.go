// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/internal/memcg"
)

// Sizes bound the kernel's tables. The zero value of a field is its default.
type Sizes struct {
	// Addresses is how many entries egd_addrs and egd_known may have (1048576);
	// egd_names and egd_endpoints may have a quarter of it. They begin small and
	// grow.
	Addresses int
	// Flows is how many entries egd_flows, egd_flow_hello and egd_dialled have
	// room for (131072); egd_peers has a quarter of it. Their room is made at the start.
	Flows int
	// NoInterfaces says that no interface will be guarded: egd_flows and
	// egd_flow_hello have no room to speak of.
	NoInterfaces bool
}

// Defaults of Sizes, and the least that a table is worth having for.
const (
	DefaultAddresses = 1 << 20
	DefaultFlows     = 1 << 17
	MinAddresses     = 1 << 12
	MinFlows         = 1 << 10
	// MaxSize is the most that either may be: what 32 bits can count, and the
	// kernel still allocates.
	MaxSize = 1 << 26
)

func (s Sizes) withDefaults() Sizes {
	if s.Addresses == 0 {
		s.Addresses = DefaultAddresses
	}
	if s.Flows == 0 {
		s.Flows = DefaultFlows
	}
	return s
}

// apply gives the tables that programs fill their sizes. egd_dialled belongs to
// open sockets: one that is pinned keeps its size.
func (s Sizes) apply(spec *ebpf.CollectionSpec) {
	spec.Maps["egd_dialled"].MaxEntries = uint32(s.Flows)
	ofInterfaces := s.Flows
	if s.NoInterfaces {
		ofInterfaces = 1
	}
	for _, name := range []string{"egd_flows", "egd_flow_hello"} {
		spec.Maps[name].MaxEntries = uint32(ofInterfaces)
	}
	spec.Maps["egd_peers"].MaxEntries = uint32(s.Flows / 4)
}

const pageSize = 4096

// emptySize is how many bytes of kernel memory a map takes before it has
// entries (kernel/bpf, htab_map_mem_usage and the like). The kernel tells it
// itself only since Linux 6.4, and only of maps that are there.
func emptySize(m *ebpf.MapSpec) uint64 {
	n := uint64(m.MaxEntries)
	switch m.Type {
	case ebpf.Hash, ebpf.LRUHash:
		size := uint64(16) << bits.Len64(n-1) // buckets
		if m.Flags&noPrealloc == 0 {
			size += n * entrySize(m)
		}
		return size
	case ebpf.Array:
		return pages(n * round8(m.ValueSize))
	case ebpf.PerCPUArray:
		return n*round8(m.ValueSize)*uint64(ebpf.MustPossibleCPU()) + pageSize
	case ebpf.RingBuf:
		return n + 3*pageSize
	}
	return pageSize
}

// noPrealloc is BPF_F_NO_PREALLOC.
const noPrealloc = 1

// entrySize is how many bytes an entry of a hash map takes: struct htab_elem, the
// key and the value.
func entrySize(m *ebpf.MapSpec) uint64 { return 48 + round8(m.KeySize) + round8(m.ValueSize) }

func round8(n uint32) uint64 { return uint64(n+7) / 8 * 8 }

func pages(n uint64) uint64 { return (n + pageSize - 1) / pageSize * pageSize }

// Kernel memory of the programs, in bytes: what verifying them takes for a
// moment (measured on Linux 6.18, which charges it to the process as older kernels
// do in part; TestMemoryLimit), and what they take as long as they are there.
const (
	verifying    = 27 << 20
	programsSize = 4 << 20
)

// startNeeds is how many bytes of kernel memory a start takes at most beside what
// is pinned. Where nothing is, what the next one will take is part of it: a limit
// that lets the daemon start must let it come back.
func startNeeds(spec *ebpf.CollectionSpec, old map[string]*ebpf.Map) uint64 {
	var sum, renewing uint64
	for name, m := range spec.Maps {
		size := withTable(m)
		if slices.Contains(renewed[policyTables], name) {
			renewing += size
		}
		if old[name] == nil {
			sum += size
		}
	}
	if len(old) == 0 {
		sum += renewing + programsSize
	}
	return sum + verifying
}

func withTable(m *ebpf.MapSpec) uint64 {
	if m.InnerMap != nil {
		return emptySize(m) + emptySize(m.InnerMap)
	}
	return emptySize(m)
}

// growthNeeds is how many bytes of kernel memory there must be for a table to take
// n: a restart makes the policy's tables a second time. While one is at work
// those that it replaces are there already.
func (d *Datapath) growthNeeds(n uint64) uint64 {
	if d.waiting != nil {
		return n
	}
	return n + n + d.grown.bytes() + d.renewing + verifying
}

// MemoryError says that a memory cgroup leaves too little room for the kernel's
// tables, whose memory is that of the process that makes them.
type MemoryError struct {
	Need  uint64 // bytes
	Limit memcg.Limit
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("%s of kernel memory are needed and the memory cgroup %s has %s left of its limit of %s; raise the limit to %s or more",
		memcg.MiB(e.Need), e.Limit.Dir, memcg.MiB(e.Limit.Left()), memcg.MiB(e.Limit.Max), memcg.MiB(e.Limit.Used+e.Need))
}

// checkMemory returns a MemoryError when the memory cgroups around the process
// have not as many bytes left.
func checkMemory(need uint64) error {
	all, err := memcg.Limits()
	if errors.Is(err, os.ErrNotExist) {
		return nil // no cgroups to be seen: the kernel will tell
	}
	if err != nil {
		return fmt.Errorf("read the limits of memory: %w", err)
	}
	if l, ok := memcg.Tightest(all); ok && l.Left() < need {
		return &MemoryError{Need: need, Limit: l}
	}
	return nil
}

// Memory is how many bytes of kernel memory the tables take, by their sizes and
// the entries of those that the loader writes.
func (d *Datapath) Memory() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fixed + d.grown.bytes()
}
