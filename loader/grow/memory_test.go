// SPDX-License-Identifier: Apache-2.0

package grow

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/internal/memcg"
)

// TestEmptySize: by the kernel's formulas (htab_map_mem_usage, array_map_mem_usage,
// ringbuf_map_mem_usage).
func TestEmptySize(t *testing.T) {
	for _, c := range []struct {
		name string
		m    ebpf.MapSpec
		want uint64
	}{
		{"buckets alone", ebpf.MapSpec{Type: ebpf.Hash, MaxEntries: 4096, KeySize: 20, ValueSize: 4, Flags: noPrealloc}, 16 * 4096},
		{"buckets are a power of 2", ebpf.MapSpec{Type: ebpf.Hash, MaxEntries: 4097, KeySize: 20, ValueSize: 4, Flags: noPrealloc}, 16 * 8192},
		{"entries made with the map", ebpf.MapSpec{Type: ebpf.LRUHash, MaxEntries: 64, KeySize: 20, ValueSize: 4}, 16*64 + 64*(48+24+8)},
		{"an array takes pages", ebpf.MapSpec{Type: ebpf.Array, MaxEntries: 3, ValueSize: 5}, pageSize},
		{"an array's values are aligned", ebpf.MapSpec{Type: ebpf.Array, MaxEntries: 1024, ValueSize: 5}, 2 * pageSize},
		{"a ring and its pages", ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 1 << 20}, 1<<20 + 3*pageSize},
		{"socket storage, which sockets take", ebpf.MapSpec{Type: ebpf.SkStorage, ValueSize: 4096}, pageSize},
	} {
		if got := EmptySize(&c.m); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestCheckMemory: what nobody has is refused with what to do, and nothing is not.
func TestCheckMemory(t *testing.T) {
	if err := CheckMemory(0); err != nil {
		t.Error(err)
	}
	e := MemoryError{Need: 8 << 20, Limit: memcg.Limit{Dir: "/sys/fs/cgroup/x", Max: 32 << 20, Used: 30 << 20}}
	for _, want := range []string{"8.0 MiB of kernel memory", "/sys/fs/cgroup/x has 2.0 MiB left of its limit of 32.0 MiB", "raise the limit to 38.0 MiB or more"} {
		if !strings.Contains(e.Error(), want) {
			t.Errorf("%q does not say %q", e.Error(), want)
		}
	}
	all, err := memcg.Limits()
	if err != nil {
		t.Fatal(err)
	}
	_, limited := memcg.Tightest(all)
	if err := CheckMemory(math.MaxUint64); (err != nil) != limited {
		t.Errorf("limited: %t, %v", limited, err)
	}
}

// TestAwaitMemory: what is given back a moment later is waited for, what the limit
// never has room for is not, and what stays short is an error.
func TestAwaitMemory(t *testing.T) {
	const limit = 64
	for _, c := range []struct {
		name  string
		need  uint64
		given int // how many looks until the memory is given back
		fails bool
		looks int // 0: any number
	}{
		{"there is enough", 8, 0, false, 1},
		{"given back", 8, 3, false, 4},
		{"more than the limit", limit + 1, math.MaxInt, true, 1},
		{"never given back", 8, math.MaxInt, true, 0},
	} {
		looks := 0
		err := await(func(need uint64) error {
			if looks++; looks > c.given {
				return nil
			}
			return &MemoryError{Need: need, Limit: memcg.Limit{Max: limit, Used: limit}}
		}, c.need, 100*time.Millisecond)
		if short := new(MemoryError); errors.As(err, &short) != c.fails || c.looks != 0 && looks != c.looks {
			t.Errorf("%s: %v after %d looks", c.name, err, looks)
		}
	}
}
