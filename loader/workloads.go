// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader/predecessor"
)

// WorkloadsFullError says that egd_workloads has no room for some cgroups. They are
// under the policy of the nearest cgroup around them that is in it.
type WorkloadsFullError struct{ Left, Max int }

func (e *WorkloadsFullError) Error() string {
	return fmt.Sprintf("%d cgroups have no room in the kernel's table of workloads, which has %d entries", e.Left, e.Max)
}

// SetWorkload says which workload the processes of a cgroup subtree are.
func (d *Datapath) SetWorkload(cgroup uint64, w WorkloadState) error {
	d.bound.mu.Lock()
	defer d.bound.mu.Unlock()
	return d.setWorkload(cgroup, w)
}

func (d *Datapath) setWorkload(cgroup uint64, w WorkloadState) error {
	if !d.usage.has(w.ID) {
		return fmt.Errorf("%w: %d", errWorkload, w.ID)
	}
	v := kernelWorkload(cgroup, w)
	if err := d.objs.EgdWorkloads.Put(cgroup, &v); err != nil {
		return fmt.Errorf("write egd_workloads: %w", err)
	}
	if _, ok := d.bound.have[cgroup]; ok {
		d.bound.have[cgroup] = w
	}
	return nil
}

// SetWorkloads makes w the only workloads: those of an earlier run that are
// not in it are removed, after the new ones are in place. What stays is what
// Follow says, and cgroups that a program has just entered by their names. It
// costs what has changed since the last call. Where there is not room for all the
// ones with the lowest numbers, and of these the oldest cgroups, are in the table,
// and the error is a WorkloadsFullError.
func (d *Datapath) SetWorkloads(w map[uint64]WorkloadState) error {
	b := &d.bound
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.have != nil
	have := b.have
	if !known {
		have = map[uint64]WorkloadState{}
	}
	b.have = nil // until it is done
	left, err := d.putWorkloads(w, have)
	if err != nil {
		return err
	}
	if known {
		err = d.dropWorkloads(w, have)
	} else {
		err = d.dropStale(func(id uint64, flags uint8) bool {
			// The caller may have looked for cgroups before this one was made.
			_, ok := w[id]
			return !ok && (flags&workloadFound == 0 || cgroup.Gone(id))
		})
	}
	if err == nil && left > 0 { // there may be room now
		left, err = d.putWorkloads(w, have)
	}
	if err != nil {
		return err
	}
	b.have = have
	if left > 0 {
		return &WorkloadsFullError{Left: left, Max: int(d.objs.EgdWorkloads.MaxEntries())}
	}
	return nil
}

// putWorkloads writes what is not in have, and notes it there. It returns how many
// there was no room for.
func (d *Datapath) putWorkloads(w, have map[uint64]WorkloadState) (left int, err error) {
	var todo []uint64
	for id, one := range w {
		if was, ok := have[id]; !ok || was != one {
			todo = append(todo, id)
		}
	}
	slices.SortFunc(todo, func(a, b uint64) int { return cmp.Or(cmp.Compare(w[a].ID, w[b].ID), cmp.Compare(a, b)) })
	for i, id := range todo {
		switch err := d.setWorkload(id, w[id]); {
		case err == nil:
			have[id] = w[id]
		case !errors.Is(err, unix.E2BIG):
			return 0, err
		case left == 0 && !slices.ContainsFunc(todo[i:], func(id uint64) bool { _, ok := have[id]; return ok }):
			return len(todo) - i, nil // what follows is new as well
		default:
			left++
		}
	}
	return left, nil
}

// dropWorkloads removes what is in have and not in w.
func (d *Datapath) dropWorkloads(w, have map[uint64]WorkloadState) error {
	for id := range maps.Clone(have) {
		if _, ok := w[id]; ok {
			continue
		}
		if err := d.dropWorkload(id); err != nil {
			return err
		}
		delete(have, id)
	}
	return nil
}

func (d *Datapath) dropWorkload(id uint64) error {
	if err := d.objs.EgdWorkloads.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove from egd_workloads: %w", err)
	}
	return nil
}

// countWorkloads says how many entries the table has; nearly, while programs enter
// cgroups by their names.
func (d *Datapath) countWorkloads() int {
	n := 0
	_ = predecessor.EachWorkload(d.objs.EgdWorkloads, func(uint64, uint8) { n++ }) // what was read counts
	return n
}

// DropGone removes what programs entered by name and is gone, and containers that are held
// if none are any more (HeldKey).
func (d *Datapath) DropGone(w map[uint64]WorkloadState) error {
	_, held := w[HeldKey]
	return d.dropStale(func(id uint64, flags uint8) bool {
		_, ok := w[id]
		return !ok && flags&workloadFound != 0 && (flags&workloadHeld != 0 && !held || cgroup.Gone(id))
	})
}

func (d *Datapath) dropStale(is func(id uint64, flags uint8) bool) error {
	var stale []uint64
	err := predecessor.EachWorkload(d.objs.EgdWorkloads, func(id uint64, flags uint8) {
		if is(id, flags) {
			stale = append(stale, id)
		}
	})
	if err != nil {
		return fmt.Errorf("read egd_workloads: %w", err)
	}
	for _, id := range stale {
		if err := d.dropWorkload(id); err != nil {
			return err
		}
	}
	return nil
}
