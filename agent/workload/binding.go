// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// Binding keeps the kernel's table of workloads in step with the policy,
// which describes them, and with the cgroups, which come and go.
type Binding struct {
	capture  *Capture
	datapath Datapath
	opts     Options
	log      *slog.Logger
	// held says why processes can get out of a cgroup, and into it; nil: they cannot.
	held func(dir string) error

	mu sync.Mutex
	// root is the cgroup v2 tree that patterns begin at, own the id of
	// egressd's cgroup, 0 when it is not captured.
	root string
	own  uint64
	// before is that of the daemon that this one took over from, until it has
	// ended; 0: none.
	before uint64
	// numbers are those of the described workloads by "namespace/name".
	numbers numbers
	// snapshot is the one that they are bound by. It may be older than the
	// current one for a moment: while its tables are filled.
	snapshot *policy.Snapshot
	// bound is what the kernel was told, by number, and cgroups by cgroup id.
	bound   map[uint32]Bound
	cgroups map[uint64]loader.WorkloadState
	watcher *cgroup.TreeWatcher
	// told are the directories that were said to be anybody's.
	told map[string]bool
	// above and followed are what the kernel was told of captured names.
	above    uint64
	followed []loader.Named
	short    shortage
	// heldBelow is what held said of a cgroup in a directory, at this look.
	heldBelow map[string]error
	unknown   unknownPods
	locked    unknownContainers
	holding   holding
}

// Bound is a workload that the kernel knows.
type Bound struct {
	loader.WorkloadState
	Name string
	Dirs []string // cgroup directories
	// waits says that it has changed over to its policy, by which the core does
	// not decide yet.
	waits bool
}

// NewBinding prepares the binding of workloads below the captured cgroups.
func NewBinding(c *Capture, d Datapath, o Options) (*Binding, error) {
	if o.Open == nil {
		o.Open = (*policy.Policy).AllowsUnknown
	}
	w := &Binding{
		capture: c, datapath: d, opts: o, log: o.Log, held: cgroup.Held, own: o.Own, before: o.Before,
		root: c.At(), numbers: newNumbers(), bound: map[uint32]Bound{}, told: map[string]bool{},
	}
	if root, err := cgroup.Root(); err == nil {
		w.root = root
	} else if !errors.Is(err, cgroup.ErrNone) {
		return nil, err
	}
	if o.Described {
		w.watcher = cgroup.NewWatcher(o.Log)
	}
	return w, nil
}

// Bind tells the kernel which cgroup is which workload, by a snapshot whose
// policies are in its tables; nil stands for the one of the time before.
func (w *Binding) Bind(s *policy.Snapshot) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s == nil {
		s = w.snapshot
	}
	if s == nil {
		return nil // nothing is bound yet
	}
	w.snapshot = s
	w.numbers.round++
	w.capture.seek()
	at := w.capture.place()
	node := w.NodeWorkload(s)
	table, described := map[uint64]loader.WorkloadState{}, map[uint64]loader.WorkloadState{}
	bound := map[uint32]Bound{}
	if len(at.named) > 0 {
		bound[Node] = Bound{WorkloadState: node, Name: w.opts.Name, Dirs: at.named}
	}
	var errs []error
	if w.opts.Described {
		errs = append(errs, w.bindDescribed(at, s, described, bound))
		defer w.short.say(w.log)
	}
	for _, dir := range at.named {
		if id, err := cgroup.ID(dir); err == nil {
			table[id] = node
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, id := range []uint64{w.own, w.before} {
		if id != 0 {
			table[id] = loader.WorkloadState{ID: Own, Exempt: true}
		}
	}
	maps.Copy(table, described)
	if w.opts.More != nil {
		w.opts.More(table)
	}
	w.markHolding(at, s, table)
	errs = append(errs, w.follow(at, s, table))
	if !maps.Equal(table, w.cgroups) {
		err := w.datapath.SetWorkloads(table)
		if err = w.short.room(err); err != nil {
			return errors.Join(append(errs, err)...)
		}
		w.cgroups = table
		// A socket that passed because of its workload's mode is judged anew
		// by the next packet.
		if err := w.datapath.RaiseEpoch(); err != nil {
			w.cgroups = nil // the next time does it all again
			errs = append(errs, err)
		}
	}
	if at.byName || w.opts.Holds {
		// Programs enter cgroups by themselves, which may be gone already.
		errs = append(errs, w.datapath.DropGone(table))
	}
	w.setBound(bound)
	return errors.Join(errs...)
}

// Shut takes what their policies do not know from those workloads that shut says, until
// the next Bind.
func (w *Binding) Shut(shut func(loader.WorkloadState) bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	table := maps.Clone(w.cgroups)
	for id, one := range table {
		if shut(one) {
			one.AllowAny = false
			table[id] = one
		}
	}
	if maps.Equal(table, w.cgroups) {
		return nil
	}
	if err := w.short.room(w.datapath.SetWorkloads(table)); err != nil {
		return err
	}
	w.cgroups = table
	return nil
}

// setBound says which workloads there are by now.
func (w *Binding) setBound(bound map[uint32]Bound) {
	for number, b := range bound {
		was, ok := w.bound[number]
		b.waits = w.opts.Pending != nil && w.opts.Pending(b.Policy) && (!ok || was.waits || was.Policy != b.Policy)
		bound[number] = b
	}
	w.bound = bound
}

// NodeWorkload is everything captured that no other workload is. Of pods it is those that no
// Workload describes: they may reach nothing.
func (w *Binding) NodeWorkload(s *policy.Snapshot) loader.WorkloadState {
	if w.capture.pods != nil {
		return loader.WorkloadState{ID: Node, Policy: policy.UnknownWorkload, Mode: w.opts.Mode}
	}
	return loader.WorkloadState{ID: Node, Policy: policy.DefaultPolicy, Mode: w.opts.Mode,
		AllowAny: w.opts.Open(s.Policy(policy.DefaultPolicy))}
}

// bindDescribed adds the workloads that the policy describes.
func (w *Binding) bindDescribed(at place, s *policy.Snapshot, table map[uint64]loader.WorkloadState, bound map[uint32]Bound) error {
	all := s.Workloads()
	var expected []string
	if at.byName {
		expected = at.named
	}
	found := w.look(all, expected)
	dirs, watch, err := cgroup.Assign(w.root, found.patterns, expected)
	if err != nil {
		return fmt.Errorf("find the cgroups of the workloads: %w", err)
	}
	watch = slices.Concat(watch, at.around(w.root), w.podDirs(), found.watch)
	// What came before a directory was watched is found by a second look.
	if w.watcher != nil && w.watcher.Follow(watch) {
		found = w.look(all, expected)
		if dirs, _, err = cgroup.Assign(w.root, found.patterns, expected); err != nil {
			return fmt.Errorf("find the cgroups of the workloads: %w", err)
		}
	}
	of := found.of
	// It is said again of one that was gone.
	maps.DeleteFunc(w.told, func(dir string, _ bool) bool { return dirs[dir] == nil })
	w.short.unnumbered, w.heldBelow = 0, map[string]error{}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if !at.holds(dir) {
			continue // not captured
		}
		keys := w.keys(at, dir)
		if len(keys) == 0 {
			continue // gone meanwhile, or egressd itself
		}
		i := of[dirs[dir][0]]
		if i == len(all) {
			if !w.mayBeLax(dir, NodeServices) {
				continue
			}
			free := loader.WorkloadState{ID: Services, Policy: policy.DefaultPolicy, Mode: policy.Off}
			put(table, keys, free)
			bound[Services] = Bound{WorkloadState: free, Name: NodeServices, Dirs: append(bound[Services].Dirs, dir)}
			continue
		}
		d := all[i]
		one := loader.WorkloadState{Policy: d.Policy, Mode: w.opts.Mode, AllowAny: w.opts.Open(s.Policy(d.Policy))}
		name := d.Key()
		mode := w.strictest(d, dir, w.root, func(at string) (claims []policy.BoundWorkload) {
			for _, p := range dirs[at] {
				if of[p] < len(all) {
					claims = append(claims, all[of[p]])
				}
			}
			return claims
		})
		if !laxer(mode, one.Mode) || w.mayBeLax(dir, name) {
			one.Mode = mode
		}
		if one.ID = w.numbers.of(name); one.ID == 0 {
			w.short.unnumbered++
			continue
		}
		put(table, keys, one)
		b := bound[one.ID]
		bound[one.ID] = Bound{WorkloadState: one, Name: name, Dirs: append(b.Dirs, dir)}
	}
	w.lockContainers(at, s, found.containers, dirs, table, bound)
	return w.bindUnknown(at, dirs, table, bound)
}

// keys are those of a cgroup in the table: the one of its name, for follow, and its id. There are
// none of one that is gone, nor of egressd itself.
func (w *Binding) keys(at place, dir string) (keys []uint64) {
	if at.byName && slices.Contains(at.named, dir) {
		keys = append(keys, loader.NamedKey(at.path(dir)))
	}
	if id, err := cgroup.ID(dir); err == nil && id != w.own && id != w.before {
		keys = append(keys, id)
	}
	return keys
}

func put(table map[uint64]loader.WorkloadState, keys []uint64, w loader.WorkloadState) {
	for _, key := range keys {
		table[key] = w
	}
}

// strictest is the mode of the cgroup that d has: its own, or a stricter one
// that a Workload of another namespace has for that cgroup or one around it. A
// namespace does not free what another one holds.
func (w *Binding) strictest(d policy.BoundWorkload, dir, root string, claims func(dir string) []policy.BoundWorkload) policy.Mode {
	of := func(d policy.BoundWorkload) policy.Mode {
		if d.Mode != nil {
			return *d.Mode
		}
		return w.opts.Mode
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

// ModeOf returns the mode that a workload has now, by its name; false: no
// cgroup is that workload.
func (w *Binding) ModeOf(name string) (policy.Mode, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.bound {
		if b.Name == name {
			return b.Mode, true
		}
	}
	return 0, false
}

// Of returns the policy and mode that a workload has now.
func (w *Binding) Of(number uint32) (policy.PolicyID, policy.Mode, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.bound[number]
	if b.waits {
		b.Policy = 0 // none, for a moment
	}
	return b.Policy, b.Mode, ok
}

// NameOf is how a workload is called in events.
func (w *Binding) NameOf(number uint32) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b, ok := w.bound[number]; ok {
		return b.Name
	}
	return w.numbers.nameOf(number) // it was one
}

// All lists the bound workloads by number.
func (w *Binding) All() []Bound {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Collect(maps.Values(w.bound))
	slices.SortFunc(out, func(x, y Bound) int { return int(x.ID) - int(y.ID) })
	return out
}

// ByProcess maps every captured process to its workload.
func (w *Binding) ByProcess() map[int]Bound {
	out := map[int]Bound{}
	w.Each(func(dir string, b Bound) {
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

// Each calls f for every directory of a workload, those further down last:
// they have the last word.
func (w *Binding) Each(f func(dir string, b Bound)) {
	type at struct {
		dir string
		Bound
	}
	var dirs []at
	for _, b := range w.All() {
		for _, dir := range b.Dirs {
			dirs = append(dirs, at{filepath.Clean(dir), b})
		}
	}
	slices.SortFunc(dirs, func(x, y at) int { return strings.Count(x.dir, "/") - strings.Count(y.dir, "/") })
	for _, d := range dirs {
		f(d.dir, d.Bound)
	}
}

// Watch calls changed when cgroups come or go, until ctx ends.
func (w *Binding) Watch(ctx context.Context, changed func()) {
	if w.watcher != nil {
		w.watcher.Run(ctx, changed)
	}
}

// Own is the id of egressd's cgroup, 0 when it is not captured.
func (w *Binding) Own() uint64 { return w.own }

// EndedBefore says that the daemon that this one took over from has ended.
func (w *Binding) EndedBefore() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = 0
}

// NumberOf is what the kernel was told that a cgroup is; 0: nothing.
func (w *Binding) NumberOf(id uint64) uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cgroups[id].ID
}

// Unbound is how many cgroups do not have the policy of their Workload, for want of
// room, and says so in words.
func (w *Binding) Unbound() (n int64, text string) { return w.short.left.Load(), w.short.text() }
