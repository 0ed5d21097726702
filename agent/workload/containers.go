// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// Containers says what the runtimes tell of containers; it is a containers.Directory.
type Containers interface {
	// Want says which containers there are, by the paths of their cgroups.
	Want(there container.Found)
	// Namespaces are those of containerd that have a cgroup of their name.
	Namespaces() []string
	// Describe tells what is known of a container, or why nothing is.
	Describe(id string) (container.Description, error)
	// Prime waits for answers about those that are wanted, but not for long.
	Prime()
}

// UnknownContainer is the name of the workload of containers of which nothing is known.
const UnknownContainer = "unknown-container"

// unknownContainers are the containers of which nothing is known, by id. The lock of the
// workloads guards it.
type unknownContainers struct {
	since map[string]time.Time
	told  map[string]bool
	full  bool // it was said that there are more than are looked at
}

// lookForContainers adds the cgroups of the containers that Workloads select.
func (w *Binding) lookForContainers(f *found, all []policy.BoundWorkload) {
	type claim struct {
		selector policy.ContainerSelector
		of       int
	}
	var claims []claim
	for i, d := range all {
		for _, s := range d.Containers {
			claims = append(claims, claim{s, i})
		}
	}
	if len(claims) == 0 || w.opts.Containers == nil || w.capture.pods != nil {
		return
	}
	slices.SortStableFunc(claims, func(a, b claim) int { return container.CompareSelectors(a.selector, b.selector) })
	there := w.findContainers()
	if w.cgroups == nil {
		w.opts.Containers.Prime() // else those that an earlier run knew would be locked for a moment
		if len(there.Unexplained) > 0 {
			there = w.findContainers() // with namespaces that are known by now
			w.opts.Containers.Prime()
		}
	}
	f.containers, f.watch = &there, append(f.watch, there.Watch...)
	for _, dir := range slices.Sorted(maps.Keys(there.Containers)) {
		is, err := w.opts.Containers.Describe(there.Containers[dir].ID)
		if err != nil {
			continue // lockContainers says so
		}
		for _, c := range claims {
			if container.Selects(c.selector, is) {
				f.add(cgroup.Literal(dir), c.of)
			}
		}
	}
}

// findContainers looks for containers, and tells who asks for them.
func (w *Binding) findContainers() container.Found {
	there := container.Find(w.root, w.opts.Containers.Namespaces()...)
	w.opts.Containers.Want(there)
	return there
}

// lockContainers adds containers of which nothing is known, and the cgroups in which
// containers come, so that a new one may reach nothing from its first packet on. What else
// is in these has the policy around them. described are the directories that have one. A new
// container elsewhere is what hold says.
func (w *Binding) lockContainers(at place, s *policy.Snapshot, there *container.Found, described map[string][]int, table map[uint64]loader.WorkloadState, bound map[uint32]Bound) {
	w.holding.on, w.holding.dirs = false, nil
	if there == nil {
		w.noteContainers(nil)
		return
	}
	lock := loader.WorkloadState{ID: w.numbers.of(UnknownContainer), Policy: policy.UnknownWorkload, Mode: w.opts.Mode}
	if lock.ID == 0 {
		w.short.unnumbered++ // it stays under the policy around it
		return
	}
	around := maps.Clone(table) // without what is locked here
	w.hold(at, s, there, lock, described, table, around)
	set := func(path string, as loader.WorkloadState) {
		dir := filepath.Join(w.root, path)
		if described[dir] == nil && at.holds(dir) {
			put(table, w.keys(at, dir), as)
			b, ok := bound[as.ID]
			if !ok {
				b = Bound{WorkloadState: as, Name: w.numbers.nameOf(as.ID)}
			}
			b.Dirs = append(b.Dirs, dir)
			bound[as.ID] = b
		}
	}
	free := map[string]loader.WorkloadState{}
	for _, place := range there.Places {
		dir := filepath.Join(w.root, place)
		switch {
		case slices.Contains(there.Namespaces, place) && described[dir] != nil:
			// What the operator has said is for those that are known: names tell nothing of the others.
			free[place] = w.stateAround(at, s, dir, around)
			put(table, w.keys(at, dir), lock)
		case described[dir] != nil: // the operator has said what is there
		default:
			free[place] = w.stateAround(at, s, dir, around)
			set(place, lock)
		}
	}
	for _, path := range there.Beside {
		if as, ok := free[filepath.Dir(path)]; ok {
			set(path, as)
		}
	}
	unknown := map[string]string{}
	for path, c := range there.Containers {
		_, err := w.opts.Containers.Describe(c.ID)
		as, ok := free[filepath.Dir(path)]
		if !ok && w.holding.on {
			as, ok = w.stateAround(at, s, filepath.Join(w.root, filepath.Dir(path)), around), true
		}
		switch {
		case err == nil && ok:
			set(path, as) // no Workload selects it
		case err != nil:
			set(path, lock)
			if dir := filepath.Join(w.root, path); described[dir] == nil && at.holds(dir) {
				unknown[c.ID] = err.Error()
			}
		}
	}
	if there.Incomplete && !w.locked.full {
		w.log.Warn("the cgroup tree has more containers or cgroups than egressd looks at; new containers that are left out may reach nothing, others have the policy of the cgroup around them")
	}
	w.locked.full = there.Incomplete
	w.noteContainers(unknown)
}

// stateAround is what a cgroup would be without an entry of its own.
func (w *Binding) stateAround(at place, s *policy.Snapshot, dir string, table map[uint64]loader.WorkloadState) loader.WorkloadState {
	for ; at.holds(dir); dir = filepath.Dir(dir) {
		for _, key := range w.keys(at, dir) {
			if as, ok := table[key]; ok {
				return as
			}
		}
	}
	return w.NodeWorkload(s)
}

// noteContainers remembers which containers are not known, with the reasons, and tells of those that stay so.
func (w *Binding) noteContainers(unknown map[string]string) {
	now := time.Now()
	since, told := map[string]time.Time{}, map[string]bool{}
	for id, why := range unknown {
		since[id], told[id] = now, w.locked.told[id]
		if was, ok := w.locked.since[id]; ok {
			since[id] = was
		}
		if !told[id] && now.Sub(since[id]) >= unknownWait {
			told[id] = true
			w.log.Warn("it is not known what a container is, so that it may reach nothing (workload-unknown); see whether its runtime runs, and --container-runtimes",
				"container", id, "mode", w.opts.Mode.String(), "error", why)
		}
	}
	w.locked.since, w.locked.told = since, told
	w.capture.setUnknownContainers(unknown)
}

func (c *Capture) setUnknownContainers(unknown map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unknownContainers = unknown
}

// containerAt tells which container a cgroup is of that has a path; "": of none that is known.
func (w *Binding) containerAt(path string) string {
	if w.opts.Containers == nil {
		return ""
	}
	c, ok := container.Of(path, w.opts.Containers.Namespaces()...)
	if !ok {
		return ""
	}
	is, err := w.opts.Containers.Describe(c.ID)
	if err != nil {
		return "container " + c.ID + ": " + err.Error()
	}
	return "container " + is.Name + " (" + is.Image + "), " + c.ID
}
