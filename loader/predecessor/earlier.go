// SPDX-License-Identifier: Apache-2.0

// Package predecessor reads what an egressd that is at work already has, of whatever
// version it is: its programs, and over whom they are.
package predecessor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// EarlierPrograms is what the programs that a start finds at work were over.
type EarlierPrograms struct {
	// Cgroup is the id of the cgroup that they are attached to; 0: none, or
	// one that is gone.
	Cgroup uint64
	// workloads are those that they know, by cgroup id, and whether these are
	// captured.
	workloads map[uint64]bool
}

// ReadEarlier reads what is pinned.
func ReadEarlier(dir, lastLink string) (e EarlierPrograms, err error) {
	l, err := link.LoadPinnedLink(filepath.Join(dir, lastLink), nil)
	if errors.Is(err, os.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, fmt.Errorf("open the pinned link: %w", err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return e, fmt.Errorf("read the pinned link: %w", err)
	}
	if c := info.Cgroup(); c != nil {
		e.Cgroup = c.CgroupId
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "egd_workloads"), nil)
	if errors.Is(err, os.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, fmt.Errorf("open the pinned egd_workloads: %w", err)
	}
	defer m.Close()
	e.workloads = map[uint64]bool{}
	if m.KeySize() != 8 {
		return e, nil // of a version that is not known: it saw nothing
	}
	err = EachWorkload(m, func(cgroup uint64, flags uint8) { e.workloads[cgroup] = flags&exempt == 0 })
	return e, err
}

// Saw says whether these programs have decided about all that the sockets of a cgroup
// did. The cgroup is given by its id and those of the cgroups around it, the
// nearest first.
func (e EarlierPrograms) Saw(ids []uint64) bool {
	if e.Cgroup == 0 || !slices.Contains(ids, e.Cgroup) {
		return false
	}
	for _, id := range ids {
		if captured, ok := e.workloads[id]; ok {
			return captured
		}
	}
	return false
}

// Captured lists the ids of the workloads that they were over.
func (e EarlierPrograms) Captured() []uint64 {
	var out []uint64
	for _, id := range slices.Sorted(maps.Keys(e.workloads)) {
		if e.workloads[id] {
			out = append(out, id)
		}
	}
	return out
}
