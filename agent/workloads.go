// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// workloads keeps the kernel's table of workloads in step with the policy,
// which describes them, and with the cgroups, which come and go.
type workloads struct {
	mu sync.Mutex
	// root is the cgroup v2 tree that patterns begin at, own the id of
	// egressd's cgroup, 0 when it is not captured.
	root string
	own  uint64
	// before is that of the daemon that this one took over from, until it has
	// ended; 0: none.
	before uint64
	// numbers are those of the described workloads by "namespace/name"; one
	// that was given is never given to another.
	numbers map[string]uint32
	// snapshot is the one that they are bound by. It may be older than the
	// current one for a moment: while its tables are filled.
	snapshot *policy.Snapshot
	narrow   control.Narrow
	// bound is what the kernel was told, by number, and cgroups by cgroup id.
	bound   map[uint32]workload
	cgroups map[uint64]loader.Workload
	watcher *cgroup.Watcher
	// told are the directories that were said to be anybody's.
	told map[string]bool
	// above and followed are what the kernel was told of captured names.
	above    uint64
	followed []loader.Named
	short    shortage
	failed   error // of the last look for cgroups that came or went
}

// workload is one that is bound.
type workload struct {
	loader.Workload
	name string
	dirs []string // cgroup directories
	// waits says that it has changed over to its policy, by which the core does
	// not decide yet.
	waits bool
}

// capturedWorkloads prepares the binding of workloads below the captured
// cgroup.
func (a *Agent) capturedWorkloads() (*workloads, error) {
	w := &workloads{root: a.capture.at, numbers: map[string]uint32{}, bound: map[uint32]workload{},
		told: map[string]bool{}}
	if root, err := cgroup.Root(); err == nil {
		w.root = root
	} else if !errors.Is(err, cgroup.ErrNone) {
		return nil, err
	}
	if a.opts.Interfaces {
		w.watcher = cgroup.NewWatcher(a.log)
	}
	return w, nil
}

// bind tells the kernel which cgroup is which workload, by a snapshot whose
// policies are in its tables; nil stands for the one of the time before.
func (a *Agent) bind(s *policy.Snapshot) error {
	w := a.workloads
	w.mu.Lock()
	defer w.mu.Unlock()
	if s == nil {
		s = w.snapshot
	}
	if s == nil {
		return nil // nothing is bound yet
	}
	w.snapshot = s
	node := a.nodeWorkload(s)
	table, described := map[uint64]loader.Workload{}, map[uint64]loader.Workload{}
	bound := map[uint32]workload{workloadID: {Workload: node, name: a.opts.Workload, dirs: a.capture.named}}
	var errs []error
	if a.opts.Interfaces {
		errs = append(errs, a.bindDescribed(s, described, bound))
		defer w.short.say(a.log)
	}
	for _, dir := range a.capture.named {
		if id, err := cgroup.ID(dir); err == nil {
			table[id] = node
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, id := range []uint64{w.own, w.before} {
		if id != 0 {
			table[id] = loader.Workload{ID: ownID, Exempt: true}
		}
	}
	maps.Copy(table, described)
	a.probe.bind(table)
	errs = append(errs, a.follow(s, table))
	if !maps.Equal(table, w.cgroups) {
		err := a.datapath.SetWorkloads(table)
		if err = w.short.room(err); err != nil {
			return errors.Join(append(errs, err)...)
		}
		w.cgroups = table
		// A socket that passed because of its workload's mode is judged anew
		// by the next packet.
		errs = append(errs, a.datapath.RaiseEpoch())
	} else if a.capture.byName {
		// Programs enter cgroups by themselves, which may be gone already.
		errs = append(errs, a.datapath.DropGone(table))
	}
	w.setBound(bound)
	return errors.Join(errs...)
}

// setBound says which workloads there are by now.
func (w *workloads) setBound(bound map[uint32]workload) {
	for number, b := range bound {
		was, ok := w.bound[number]
		b.waits = w.narrow.Pending(b.Policy) && (!ok || was.waits || was.Policy != b.Policy)
		bound[number] = b
	}
	w.bound = bound
}

// nodeWorkload is everything captured that no other workload is.
func (a *Agent) nodeWorkload(s *policy.Snapshot) loader.Workload {
	return loader.Workload{ID: workloadID, Policy: policy.DefaultPolicy, Mode: a.opts.Mode,
		AllowAny: a.workloads.narrow.Open(s.Policy(policy.DefaultPolicy))}
}

// bindDescribed adds the workloads that the policy describes.
func (a *Agent) bindDescribed(s *policy.Snapshot, table map[uint64]loader.Workload, bound map[uint32]workload) error {
	w := a.workloads
	var patterns []cgroup.Pattern
	var of []int // index of the workload
	all := s.Workloads()
	for i, d := range all {
		for _, c := range d.Cgroups {
			patterns, of = append(patterns, cgroup.Pattern(c)), append(of, i)
		}
	}
	// Behind the described ones: of equal patterns the first counts.
	for _, p := range a.opts.NodeServices {
		patterns, of = append(patterns, p), append(of, len(all))
	}
	var expected []string
	if a.capture.byName {
		expected = a.capture.named
	}
	dirs, watch, err := cgroup.Assign(w.root, patterns, expected)
	if err != nil {
		return fmt.Errorf("find the cgroups of the workloads: %w", err)
	}
	watch = append(watch, a.capture.around(w.root)...)
	// What came before a directory was watched is found by a second look.
	if w.watcher != nil && w.watcher.Follow(watch) {
		if dirs, _, err = cgroup.Assign(w.root, patterns, expected); err != nil {
			return fmt.Errorf("find the cgroups of the workloads: %w", err)
		}
	}
	// It is said again of one that was gone.
	maps.DeleteFunc(w.told, func(dir string, _ bool) bool { return dirs[dir] == nil })
	w.short.unnumbered = 0
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if !a.capture.holds(dir) {
			continue // not captured
		}
		var keys []uint64
		if slices.Contains(expected, dir) {
			keys = append(keys, loader.NamedKey(a.capture.path(dir))) // for follow
		}
		if id, err := cgroup.ID(dir); err == nil && id != w.own && id != w.before {
			keys = append(keys, id)
		}
		if len(keys) == 0 {
			continue // gone meanwhile, or egressd itself
		}
		i := of[dirs[dir][0]]
		if i == len(all) {
			if !a.mayBeLax(dir, NodeServices) {
				continue
			}
			free := loader.Workload{ID: servicesID, Policy: policy.DefaultPolicy, Mode: policy.Off}
			put(table, keys, free)
			bound[servicesID] = workload{Workload: free, name: NodeServices, dirs: append(bound[servicesID].dirs, dir)}
			continue
		}
		d := all[i]
		one := loader.Workload{Policy: d.Policy, Mode: a.opts.Mode, AllowAny: w.narrow.Open(s.Policy(d.Policy))}
		name := d.Key()
		mode := a.strictest(d, dir, w.root, func(at string) (claims []policy.BoundWorkload) {
			for _, p := range dirs[at] {
				if of[p] < len(all) {
					claims = append(claims, all[of[p]])
				}
			}
			return claims
		})
		if !laxer(mode, one.Mode) || a.mayBeLax(dir, name) {
			one.Mode = mode
		}
		if one.ID = w.number(name); one.ID == 0 {
			w.short.unnumbered++
			continue
		}
		put(table, keys, one)
		b := bound[one.ID]
		bound[one.ID] = workload{Workload: one, name: name, dirs: append(b.dirs, dir)}
	}
	return nil
}

func put(table map[uint64]loader.Workload, keys []uint64, w loader.Workload) {
	for _, key := range keys {
		table[key] = w
	}
}

// strictest is the mode of the cgroup that d has: its own, or a stricter one
// that a Workload of another namespace has for that cgroup or one around it. A
// namespace does not free what another one holds.
func (a *Agent) strictest(d policy.BoundWorkload, dir, root string, claims func(dir string) []policy.BoundWorkload) policy.Mode {
	of := func(w policy.BoundWorkload) policy.Mode {
		if w.Mode != nil {
			return *w.Mode
		}
		return a.opts.Mode
	}
	mode := of(d)
	for at := dir; cgroup.Contains(root, at); at = filepath.Dir(at) {
		for _, o := range claims(at) {
			if o.Namespace != d.Namespace {
				mode = min(mode, of(o)) // enforce is the least
			}
		}
		if at == root {
			break
		}
	}
	return mode
}

// number returns the number of a workload by its name; 0: there is none left.
func (w *workloads) number(name string) uint32 {
	n, ok := w.numbers[name]
	if !ok {
		if n = probeID + 1 + uint32(len(w.numbers)); n >= loader.MaxWorkloads {
			return 0
		}
		w.numbers[name] = n
	}
	return n
}

// modeOf returns the mode that a workload has now, by its name; false: no
// cgroup is that workload.
func (w *workloads) modeOf(name string) (policy.Mode, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.bound {
		if b.name == name {
			return b.Mode, true
		}
	}
	return 0, false
}

// of returns the policy and mode that a workload has now; 0: none for a moment.
func (w *workloads) of(number uint32) (policy.PolicyID, policy.Mode, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.bound[number]
	if b.waits {
		b.Policy = 0
	}
	return b.Policy, b.Mode, ok
}

// name is how a workload is called in events.
func (w *workloads) name(number uint32) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b, ok := w.bound[number]; ok {
		return b.name
	}
	for name, n := range w.numbers { // it was one
		if n == number {
			return name
		}
	}
	return ""
}

// all lists the bound workloads by number.
func (w *workloads) all() []workload {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Collect(maps.Values(w.bound))
	slices.SortFunc(out, func(x, y workload) int { return int(x.ID) - int(y.ID) })
	return out
}

// byProcess maps every captured process to its workload.
func (w *workloads) byProcess() map[int]workload {
	out := map[int]workload{}
	w.each(func(dir string, b workload) {
		pids, err := cgroup.AllProcs(dir)
		if err != nil {
			return // gone meanwhile
		}
		for _, pid := range pids {
			out[pid] = b
		}
	})
	return out
}

// each calls f for every directory of a workload, those further down last:
// they have the last word.
func (w *workloads) each(f func(dir string, b workload)) {
	type at struct {
		dir string
		workload
	}
	var dirs []at
	for _, b := range w.all() {
		for _, dir := range b.dirs {
			dirs = append(dirs, at{filepath.Clean(dir), b})
		}
	}
	slices.SortFunc(dirs, func(x, y at) int { return strings.Count(x.dir, "/") - strings.Count(y.dir, "/") })
	for _, d := range dirs {
		f(d.dir, d.workload)
	}
}

// rebind looks for cgroups that came or went.
func (a *Agent) rebind() {
	a.binding.Lock()
	defer a.binding.Unlock()
	if !a.captures.Load() {
		return
	}
	err := a.bind(nil)
	if was := a.workloads.failed; err != nil && (was == nil || !control.SameCause(was, err)) {
		a.log.Error("workloads could not be told apart; new ones are under the policy of the node; it is tried again every two seconds", "error", err)
	}
	a.workloads.failed = err
	if fresh, _ := a.hold(); fresh { // an error is said there, and by the status
		a.endEarlier()
	}
}
