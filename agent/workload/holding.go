// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// holding is in which cgroups the kernel holds a new container by itself, which it tells by
// its name, until it has an entry of its own.
type holding struct {
	on   bool
	dirs []string
	// as is what a container is that is held.
	as   loader.WorkloadState
	told bool // it was said that the kernel cannot
}

// hold decides in which cgroups the kernel holds new containers: slices and places of
// containers that a Workload describes, what is captured, and what containers are in already.
func (w *Binding) hold(at place, s *policy.Snapshot, there *container.Found, lock loader.WorkloadState, described map[string][]int, table, around map[uint64]loader.WorkloadState) {
	h := &w.holding
	if !w.opts.Holds {
		if !h.told {
			h.told = true
			w.log.Warn("the kernel does not tell the names of cgroups; a new container that is in no cgroup of containers alone has the policy around it until egressd has seen it; give containers a slice of their own (docker.slice)")
		}
		return
	}
	h.on, h.as = true, lock
	// What is locked as a whole needs nothing more.
	whole := func(dir string) bool {
		rel, err := filepath.Rel(w.root, dir)
		return err != nil || slices.Contains(there.Namespaces, rel) || described[dir] == nil && slices.Contains(there.Places, rel)
	}
	candidates := slices.Clone(at.named)
	for dir := range described {
		if strings.HasSuffix(dir, ".slice") {
			candidates = append(candidates, dir)
		}
	}
	for _, place := range there.Places {
		candidates = append(candidates, filepath.Join(w.root, place))
	}
	for path := range there.Containers {
		dir := filepath.Join(w.root, filepath.Dir(path))
		if slices.Contains(candidates, dir) || !at.holds(dir) {
			continue
		}
		if described[dir] == nil {
			put(table, w.keys(at, dir), w.stateAround(at, s, dir, around))
		}
		candidates = append(candidates, dir)
	}
	for _, dir := range candidates {
		rel, err := filepath.Rel(w.root, dir)
		if err == nil && at.holds(dir) && !whole(dir) && container.Holds(rel, w.opts.Containers.Namespaces()...) {
			h.dirs = append(h.dirs, dir)
		}
	}
}

// markHolding adds to the table what the kernel has to know to hold new containers.
func (w *Binding) markHolding(at place, s *policy.Snapshot, table map[uint64]loader.WorkloadState) {
	if !w.holding.on {
		return
	}
	table[loader.HeldKey] = w.holding.as
	for _, dir := range w.holding.dirs {
		for _, key := range w.keys(at, dir) {
			as, ok := table[key]
			if !ok {
				as = w.NodeWorkload(s) // captured by name, and no Workload describes it
			}
			if !as.Exempt {
				as.Holds = true
				table[key] = as
			}
		}
	}
}
