// SPDX-License-Identifier: Apache-2.0

// Package grow makes tables that grow with their entries, as far as the memory
// cgroups around egressd leave room.
package grow

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Table is a table that only the loader writes and the programs find in an
// array of one map (bpf/maps.h, EGD_TABLE). When three quarters of it are in use
// a copy of twice the size takes its place. The kernel replaces the element
// atomically, and the call returns when no program is at work on the one before,
// so that nothing that was removed is found afterwards. The caller has a lock.
type Table[K, V any] struct {
	name  string
	needs func(uint64) uint64 // see Open
	array *ebpf.Map
	spec  *ebpf.MapSpec // of the table at first
	now   *ebpf.Map
	// n is how many entries there are, limit how many there may be.
	n, limit int
	// failed is why it could not grow the last time, and it is tried again when
	// there are as many entries as again says.
	failed error
	again  int
}

// FullError says that a table of the kernel has no room for what is to be
// written.
type FullError struct {
	Table string
	// Need is how many entries it would have, Limit how many it may have
	// (Sizes.Addresses).
	Need, Limit int
	Err         error // why it could not be made bigger below the limit; or nil
}

func (e *FullError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the kernel table %s cannot have %d entries: a bigger one cannot be made: %v", e.Table, e.Need, e.Err)
	}
	return fmt.Sprintf("the kernel table %s cannot have %d entries: its limit is %d (see --max-addresses)", e.Table, e.Need, e.Limit)
}

func (e *FullError) Unwrap() error { return e.Err }

// Open finds the table in its array, or makes it as spec says. It may have limit
// entries. needs says how many bytes there must be for it to take so many more. What
// it returns is to be closed also after an error.
func Open[K, V any](name string, array *ebpf.Map, spec *ebpf.CollectionSpec, limit int, needs func(uint64) uint64) (*Table[K, V], error) {
	g := &Table[K, V]{name: name, needs: needs, array: array, spec: spec.Maps[name].InnerMap.Copy(), limit: limit}
	g.spec.Name = name
	g.spec.MaxEntries = min(g.spec.MaxEntries, uint32(limit))
	err := array.Lookup(uint32(0), &g.now)
	if err == nil {
		return g, g.Each(func(*K, *V) {})
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return g, fmt.Errorf("open the table in %s: %w", name, err)
	}
	if err := g.replace(g.spec.MaxEntries); err != nil {
		return g, fmt.Errorf("make the table in %s: %w", name, err)
	}
	return g, nil
}

// max is how many entries the table has room for now.
func (g *Table[K, V]) max() int { return int(g.now.MaxEntries()) }

// Reserve makes the table big enough for n entries.
func (g *Table[K, V]) Reserve(n int) error {
	if n > g.limit {
		return &FullError{Table: g.name, Need: n, Limit: g.limit}
	}
	size := g.max()
	for size < g.limit && n > size/4*3 {
		size = min(2*size, g.limit)
	}
	if size == g.max() {
		return nil
	}
	err := g.hasRoom(size)
	if err == nil {
		err = g.replace(uint32(size))
	}
	if err != nil {
		g.failed, g.again = err, n+g.max()/16
		if n > g.max() {
			return &FullError{Table: g.name, Need: n, Limit: g.limit, Err: err}
		}
	}
	return nil
}

// hasRoom says whether egressd may have the memory for a table of that size.
func (g *Table[K, V]) hasRoom(size int) error {
	spec := g.spec.Copy()
	spec.MaxEntries = uint32(size)
	return CheckMemory(g.needs(EmptySize(spec) + uint64(g.n)*EntrySize(spec)))
}

// replace puts a copy of the table in its place.
func (g *Table[K, V]) replace(size uint32) error {
	spec := g.spec.Copy()
	spec.MaxEntries = size
	next, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	if g.now != nil {
		err = copyAll[K, V](next, g.now)
	}
	if err == nil {
		err = g.array.Put(uint32(0), next)
	}
	if err != nil {
		next.Close()
		return err
	}
	if g.now != nil {
		g.now.Close()
	}
	g.now, g.failed, g.again = next, nil, 0
	return nil
}

// copyAll writes every entry of a table that nobody changes to another one.
func copyAll[K, V any](to, from *ebpf.Map) error {
	// The kernel hands out whole buckets; one never has as many entries as this.
	const step = 4096
	keys, values := make([]K, step), make([]V, step)
	var at ebpf.MapBatchCursor
	for {
		n, err := from.BatchLookup(&at, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read the table: %w", err)
		}
		if n > 0 {
			if _, werr := to.BatchUpdate(keys[:n], values[:n], nil); werr != nil {
				return fmt.Errorf("fill the table: %w", werr)
			}
		}
		if err != nil {
			return nil // that was the last of it
		}
	}
}

// Put writes an entry. The table grows for a new one.
func (g *Table[K, V]) Put(k *K, v *V) error {
	// Without room to grow what is free is still used.
	if n := g.n + 1; n > g.max()/4*3 && n <= g.limit && n >= g.again {
		_ = g.Reserve(n) // said below if it matters
	}
	err := g.now.Update(k, v, ebpf.UpdateNoExist)
	switch {
	case err == nil:
		g.n++
		return nil
	case errors.Is(err, ebpf.ErrKeyExist):
		err = g.now.Update(k, v, ebpf.UpdateExist)
	case errors.Is(err, unix.E2BIG):
		return &FullError{Table: g.name, Need: g.n + 1, Limit: g.limit, Err: g.failed}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", g.name, err)
	}
	return nil
}

// Remove takes an entry out, if it is there.
func (g *Table[K, V]) Remove(k *K) error {
	switch err := g.now.Delete(k); {
	case err == nil:
		g.n--
	case !errors.Is(err, ebpf.ErrKeyNotExist):
		return fmt.Errorf("remove from %s: %w", g.name, err)
	}
	return nil
}

// Each calls f for every entry, and counts them.
func (g *Table[K, V]) Each(f func(*K, *V)) error {
	var k K
	var v V
	n := 0
	it := g.now.Iterate()
	for it.Next(&k, &v) {
		f(&k, &v)
		n++
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read %s: %w", g.name, err)
	}
	g.n = n
	return nil
}

// Len is how many entries there are.
func (g *Table[K, V]) Len() int { return g.n }

// Limit is how many there may be.
func (g *Table[K, V]) Limit() int { return g.limit }

// Bytes is how much kernel memory the table takes.
func (g *Table[K, V]) Bytes() uint64 {
	spec := g.spec.Copy()
	spec.MaxEntries = uint32(g.max())
	return EmptySize(spec) + uint64(g.n)*EntrySize(spec)
}

// Close releases the handle of the table.
func (g *Table[K, V]) Close() error {
	if g == nil || g.now == nil {
		return nil
	}
	return g.now.Close()
}
