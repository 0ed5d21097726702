// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"maps"
	"path/filepath"
	"slices"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/policy"
)

// found is what says which cgroups are which workloads, at one look.
type found struct {
	patterns []cgroup.PathPattern
	// of are the indices of the patterns' workloads; one behind the last is the node's
	// services.
	of []int
	// watch are directories in which more may come.
	watch []string
	// containers are those that there are; nil: no Workload selects any.
	containers *container.Found
}

func (f *found) add(p cgroup.PathPattern, of int) {
	f.patterns, f.of = append(f.patterns, p), append(f.of, of)
}

// look makes patterns of all selectors: those of paths are patterns, and those of names
// (containers, units) become the paths of what has these names now, or is expected to.
func (w *Binding) look(all []policy.BoundWorkload, expected []string) *found {
	f := &found{}
	root := w.capture.podRoot()
	for i, d := range all {
		for _, c := range d.Cgroups {
			if root != "" {
				c = root.Moved(c)
			}
			f.add(cgroup.PathPattern(c), i)
		}
	}
	w.lookForUnits(f, all, expected)
	w.lookForContainers(f, all)
	// Behind the described ones: of equal patterns the first counts.
	for _, p := range w.opts.Services {
		f.add(p, len(all))
	}
	return f
}

// lookForUnits adds the cgroups of systemd's units that Workloads name.
func (w *Binding) lookForUnits(f *found, all []policy.BoundWorkload, expected []string) {
	if !slices.ContainsFunc(all, func(d policy.BoundWorkload) bool { return len(d.Units)+len(d.Slices) > 0 }) {
		return
	}
	units, watch := cgroup.Units(w.root)
	f.watch = append(f.watch, watch...)
	for _, dir := range expected {
		if rel, err := filepath.Rel(w.root, dir); err == nil {
			if name, ok := cgroup.UnitOf(rel); ok {
				units[rel] = name
			}
		}
	}
	// Exact names have precedence, then those with less in the place of '*'.
	type claim struct {
		name string
		of   int
	}
	var claims []claim
	for i, d := range all {
		for _, name := range slices.Concat(d.Units, d.Slices) {
			claims = append(claims, claim{name, i})
		}
	}
	slices.SortStableFunc(claims, func(a, b claim) int {
		return cgroup.PathPattern(a.name).Compare(cgroup.PathPattern(b.name))
	})
	for _, dir := range slices.Sorted(maps.Keys(units)) {
		for _, c := range claims {
			if container.Match(c.name, units[dir]) {
				f.add(cgroup.Literal(dir), c.of)
			}
		}
	}
}
