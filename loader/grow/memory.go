// SPDX-License-Identifier: Apache-2.0

package grow

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/internal/memcg"
)

const pageSize = 4096

// EmptySize is how many bytes of kernel memory a map takes before it has
// entries (kernel/bpf, htab_map_mem_usage and the like). The kernel tells it
// itself only since Linux 6.4, and only of maps that are there.
func EmptySize(m *ebpf.MapSpec) uint64 {
	n := uint64(m.MaxEntries)
	switch m.Type {
	case ebpf.Hash, ebpf.LRUHash:
		size := uint64(16) << bits.Len64(n-1) // buckets
		if m.Flags&noPrealloc == 0 {
			size += n * EntrySize(m)
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

// EntrySize is how many bytes an entry of a hash map takes: struct htab_elem, the
// key and the value.
func EntrySize(m *ebpf.MapSpec) uint64 { return 48 + round8(m.KeySize) + round8(m.ValueSize) }

func round8(n uint32) uint64 { return uint64(n+7) / 8 * 8 }

func pages(n uint64) uint64 { return (n + pageSize - 1) / pageSize * pageSize }

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

// AwaitMemory is CheckMemory, but lets the kernel have a while: what a process
// had that ended is given back some time after it, its tables and programs after
// a grace period (kernel/bpf/syscall.c, bpf_map_put), so that a daemon which
// comes back at once finds its predecessor's memory still counted.
func AwaitMemory(need uint64, wait time.Duration) error {
	return await(CheckMemory, need, wait)
}

func await(check func(need uint64) error, need uint64, wait time.Duration) error {
	for end := time.Now().Add(wait); ; time.Sleep(wait / 100) {
		err := check(need)
		var short *MemoryError
		if !errors.As(err, &short) || short.Limit.Max < need || time.Now().After(end) {
			return err
		}
	}
}

// CheckMemory returns a MemoryError when the memory cgroups around the process
// have not as many bytes left.
func CheckMemory(need uint64) error {
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
