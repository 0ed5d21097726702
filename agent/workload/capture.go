// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// Capture is what is captured, and whether it is held.
type Capture struct {
	delegated bool
	log       *slog.Logger
	// pods finds the cgroups of the node's pods, which are what is captured; nil: it
	// was said which cgroups are.
	pods *podFinder

	mu    sync.Mutex
	where place
	// attached is the id of the cgroup At that they are attached to; 0: none.
	attached uint64
	// unknown are the UIDs of pods that no Workload describes.
	unknown []string
	// unknownContainers are containers of which nothing is known, with the reasons.
	unknownContainers map[string]string
	// lost is why what is captured is not held; nil: it is.
	lost error
}

// place is what is captured, and where the programs are.
type place struct {
	// named are the directories of the captured cgroups. They come and go.
	named []string
	// at is the cgroup that the programs are attached to: the captured one, or, when
	// what is captured goes by its name, the outermost one around it. "": it is not known
	// yet where the pods are.
	at     string
	byName bool
}

func (c *Capture) place() place {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.where
}

// Named are the directories of the captured cgroups.
func (c *Capture) Named() []string { return c.place().named }

// At is the cgroup that the programs belong at; "": none yet.
func (c *Capture) At() string { return c.place().at }

// MayFollow says whether cgroups are captured by their names, or may come to be.
func (c *Capture) MayFollow() bool { return c.place().byName || c.pods != nil && c.pods.follow }

// MayHold says whether new containers that are captured can be told by their names. In pods
// there are none that Workloads select.
func (c *Capture) MayHold(canFollow func() error) bool { return c.pods == nil && canFollow() == nil }

// beside are the ids of cgroups below at that are not captured, nor around what is.
func (p place) beside() (ids []uint64, err error) {
	err = cgroup.Walk(p.at, nil, func(dir string, up []uint64) {
		around := slices.ContainsFunc(p.named, func(named string) bool { return cgroup.Contains(dir, named) })
		if !around && !p.holds(dir) {
			ids = append(ids, up[0])
		}
	})
	return ids, err
}

// ErrNotThere says that the cgroup that the programs belong at is missing.
var ErrNotThere = errors.New("the cgroup does not exist; egressd attaches its programs as soon as it does, and resets connections that are older and not allowed")

// errNotYet is the state before the first look.
var errNotYet = errors.New("the programs are not attached yet")

// CaptureOptions say what to capture.
type CaptureOptions struct {
	Cgroups []string
	// Pods captures the pods of the node instead, wherever their cgroups are, or will be.
	Pods bool
	// Follow captures what comes later, and what comes back. Without it they are
	// there, and nobody else removes them.
	Follow bool
	// Delegated accepts cgroups that processes can be taken out of by others than
	// root.
	Delegated bool
	Log       *slog.Logger
}

// NewCapture decides where the programs go. A cgroup that lies below another one
// is captured by its name from there, since it may go and come back; the outermost
// one is the likeliest to stay. Above that is only the root, and the programs would
// be over every process of the machine. canFollow says why the kernel has no names.
func NewCapture(o CaptureOptions, canFollow func() error) (*Capture, error) {
	c := &Capture{lost: errNotYet, delegated: o.Delegated, log: o.Log}
	if o.Pods {
		return c, c.findPods(canFollow())
	}
	var dirs []string
	for _, dir := range o.Cgroups {
		dir, err := cgroup.Resolve(dir)
		if err != nil {
			return nil, fmt.Errorf("the cgroup to capture: %w", err)
		}
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs) // what is around another one comes first
	w := &c.where
	for _, dir := range dirs {
		if !w.holds(dir) {
			w.named = append(w.named, dir)
		}
	}
	w.at = w.named[0]
	if !o.Follow {
		return c, nil // exec made it, and holds it
	}
	top, err := outermost(w.named)
	switch {
	case err != nil && len(w.named) > 1:
		return nil, err
	case err != nil:
		return c, nil
	}
	if err := canFollow(); err != nil {
		if len(w.named) > 1 {
			return nil, fmt.Errorf("this kernel lets one cgroup be captured, not several: %w", err)
		}
		o.Log.Warn("the cgroup cannot be captured by its name; when it is created again, its traffic is NOT filtered until egressd has attached its programs again",
			"cgroup", w.at, "error", err)
		return c, nil
	}
	w.at, w.byName = top, true
	return c, nil
}

// outermost is the cgroup directly below the root that all dirs lie in.
func outermost(dirs []string) (string, error) {
	root, err := cgroup.Root()
	if err != nil {
		return "", err
	}
	top := ""
	for _, dir := range dirs {
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return "", err
		}
		first, _, deeper := strings.Cut(rel, "/")
		at := filepath.Join(root, first)
		if !deeper || first == ".." || top != "" && at != top {
			return "", fmt.Errorf("%s can't all be captured: cgroups that are captured together lie below one that is directly below %s, such as system.slice",
				strings.Join(dirs, ", "), root)
		}
		top = at
	}
	return top, nil
}

// Holds says whether a cgroup directory is captured.
func (c *Capture) Holds(dir string) bool { return c.place().holds(dir) }

func (p place) holds(dir string) bool {
	return slices.ContainsFunc(p.named, func(outer string) bool { return cgroup.Contains(outer, dir) })
}

// around lists the directories that have to be watched to learn that a captured
// cgroup, or one on the way to it, comes or goes.
func (p place) around(root string) (dirs []string) {
	for _, dir := range p.named {
		for dir != root && cgroup.Contains(root, dir) {
			dir = filepath.Dir(dir)
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// path are the names from below at to a captured cgroup.
func (p place) path(dir string) []string {
	return strings.Split(strings.TrimPrefix(dir, p.at+"/"), "/")
}

// Err is why what is captured is not held, nil if it is.
func (c *Capture) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// look attaches the programs if they are not where they belong, and notes
// whether what is captured is held. It says whether it attached them.
func (c *Capture) look(log *slog.Logger, attach func() error, held func(dir string) error) (fresh bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh, err = c.attach(attach)
	for _, dir := range c.where.named {
		if err == nil {
			err = held(dir)
		}
	}
	if err == nil && c.pods != nil {
		err = c.pods.elsewhere
	}
	was := c.lost
	c.lost = err
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		log.Error("the captured cgroup is not held; its traffic may NOT be filtered, and egressd is not ready", "cgroup", c.where.at, "error", err)
	case err == nil && was != nil && !errors.Is(was, errNotYet):
		log.Warn("the captured cgroup is held again", "cgroup", c.where.at)
	}
	return fresh, err
}

func (c *Capture) attach(attach func() error) (fresh bool, err error) {
	if c.where.at == "" {
		return false, fmt.Errorf("%w: %w", ErrNotThere, c.pods.missing())
	}
	id, err := cgroup.ID(c.where.at)
	if errors.Is(err, fs.ErrNotExist) {
		c.attached = 0
		return false, fmt.Errorf("%w: %s", ErrNotThere, c.where.at)
	}
	if err != nil || id == c.attached {
		return false, err
	}
	if err := attach(); err != nil {
		return false, err
	}
	c.attached = id // made anew meanwhile, it has another one at the next look
	return true, nil
}

// Hold makes the programs be where they belong, which attach does, and says whether
// it attached them. The tables must be full.
func (c *Capture) Hold(attach func(dir string) error) (fresh bool, err error) {
	first := errors.Is(c.Err(), errNotYet)
	held := func(dir string) error { return CheckHeld(dir, c.delegated) }
	fresh, err = c.look(c.log, func() error { return attach(c.where.at) }, held)
	if first && err == nil {
		for _, dir := range c.Named() {
			if _, err := cgroup.ID(dir); err != nil {
				c.log.Warn("the captured cgroup does not exist yet; it is under the policy as soon as it is created", "cgroup", dir)
			}
		}
	}
	return fresh, err
}

// Again makes the next look attach the programs.
func (c *Capture) Again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attached = 0
}

// Processes lists the captured processes.
func (c *Capture) Processes() ([]int, error) {
	var all []int
	var errs []error
	for _, dir := range c.Named() {
		pids, err := cgroup.AllProcs(dir)
		all, errs = append(all, pids...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// follow tells the kernel which names are captured, and what a cgroup that gets
// one is from its first moment on.
func (w *Binding) follow(c place, s *policy.Snapshot, table map[uint64]loader.WorkloadState) error {
	if !c.byName {
		if w.above == 0 {
			return nil
		}
		w.above, w.followed = 0, nil // the pods are elsewhere now
		return w.datapath.Follow(0, nil)
	}
	above, err := cgroup.ID(c.at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing is attached
	}
	if err != nil {
		return err
	}
	table[above] = loader.WorkloadState{Outside: true}
	named := make([]loader.Named, len(c.named))
	for i, dir := range c.named {
		key := loader.NamedKey(c.path(dir))
		as, ok := table[key]
		if !ok { // no Workload describes it
			as = w.NodeWorkload(s)
		}
		delete(table, key)
		as.Home = key
		if id, err := cgroup.ID(dir); err == nil {
			table[id] = as
		}
		named[i] = loader.Named{Path: c.path(dir), As: as}
	}
	if above == w.above && slices.EqualFunc(named, w.followed, sameNamed) {
		return nil
	}
	if err := w.datapath.Follow(above, named); err != nil {
		return err
	}
	beside, err := c.beside()
	if err := errors.Join(err, w.datapath.Beside(beside)); err != nil {
		return err
	}
	w.above, w.followed = above, named
	return nil
}

func sameNamed(x, y loader.Named) bool { return x.As == y.As && slices.Equal(x.Path, y.Path) }

// CaptureStatus says what is captured and whether it is held.
type CaptureStatus struct {
	// Cgroups are the captured directories, and whether they are there.
	Cgroups map[string]bool `json:"cgroups"`
	// Attached is the cgroup that the programs belong at. ByName: what is captured are
	// cgroups below it.
	Attached string `json:"attached"`
	ByName   bool   `json:"byName"`
	// Held says that no process in a captured cgroup is free; Error why not.
	Held  bool   `json:"held"`
	Error string `json:"error,omitempty"`
	// UnknownPods are the UIDs of captured pods that no Workload describes: they may reach
	// nothing.
	UnknownPods []string `json:"unknownPods,omitempty"`
	// UnknownContainers are the ids of captured containers of which it is not known what they
	// are, with the reasons: they may reach nothing.
	UnknownContainers map[string]string `json:"unknownContainers,omitempty"`
}

// Status says how what is captured is.
func (c *Capture) Status() CaptureStatus {
	at := c.place()
	s := CaptureStatus{Cgroups: map[string]bool{}, Attached: at.at, ByName: at.byName, Held: true}
	for _, dir := range at.named {
		_, err := cgroup.ID(dir)
		s.Cgroups[dir] = err == nil
	}
	c.mu.Lock()
	s.UnknownPods, s.UnknownContainers = c.unknown, c.unknownContainers
	c.mu.Unlock()
	if err := c.Err(); err != nil {
		s.Held, s.Error = false, err.Error()
	}
	return s
}
