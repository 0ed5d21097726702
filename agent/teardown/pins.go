// SPDX-License-Identifier: Apache-2.0

package teardown

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/flock"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/foreign"
)

// Pins are the pin directories below a root: that of the daemon, and one of every
// exec. Each is locked by its egressd for as long as that runs.
type Pins struct {
	root   string
	open   []*os.File
	kernel kernel
}

// kernel is what Pins does to what is pinned.
type kernel struct {
	// attachedTo lists the ids of the cgroups that programs are attached to.
	attachedTo func(dir string) ([]uint64, error)
	unload     func(dir string) (removed int, err error)
	// removeProbe removes the probe's cgroup below one that programs were attached to.
	removeProbe func(attached uint64) error
}

// OpenPins opens the directories below root, which need not be there. The caller
// must Close them.
func OpenPins(root string) (*Pins, error) {
	p := &Pins{root: root, kernel: kernel{bpffs.AttachedTo, bpffs.Unload, removeProbeCgroup}}
	dirs, err := pinDirs(root)
	for _, dir := range dirs {
		if f, err := os.Open(dir); err == nil { // else it is gone meanwhile
			p.open = append(p.open, f)
		}
	}
	return p, err
}

// Close closes the directories.
func (p *Pins) Close() {
	for _, f := range p.open {
		f.Close()
	}
}

// holder is an egressd that has a pin directory.
type holder struct {
	dir string // its base name
	pid int    // 0: it is not known
}

func (h holder) String() string {
	if h.pid > 0 {
		return fmt.Sprintf("pid %d", h.pid)
	}
	return "of another pid namespace"
}

// end is how to end it.
func (h holder) end() string {
	if h.pid > 0 {
		return fmt.Sprintf("end it with: kill %d (or kill -9 %d, if it is stuck)", h.pid, h.pid)
	}
	return "end it"
}

// held lists those who still run.
func (p *Pins) held() (living []holder) {
	for _, f := range p.open {
		if pid, held, err := flock.HolderOf(f); err == nil && held {
			living = append(living, holder{filepath.Base(f.Name()), pid})
		}
	}
	return living
}

// Stuck says which daemon still runs without anything in the kernel; nil: none.
func (p *Pins) Stuck() error {
	for _, h := range p.held() {
		if h.dir == state.NodePins {
			return fmt.Errorf("all traffic is open: the programs are detached. But the daemon (%s) still runs, and is stuck. "+
				"When it goes on it may attach them again, until it reads that it is to end: %s", h, h.end())
		}
	}
	return nil
}

// Remove removes the pins of every exec that has ended, and of the daemon, if it was
// reached or has ended: who runs puts back what is removed. The errors say who that
// is.
func (p *Pins) Remove(reached bool) (removed int, err error) {
	living := p.held()
	dirs, err := pinDirs(p.root)
	if err != nil || dirs == nil {
		return 0, err
	}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		i := slices.IndexFunc(living, func(h holder) bool { return h.dir == name })
		switch {
		case i < 0, name == state.NodePins && reached:
		case name == state.NodePins:
			err = errors.Join(err, fmt.Errorf("a daemon (%s) runs and cannot be told to unload, as it has another --state-dir, or its own was removed; "+
				"its policy stays in force: %s, and unload again", living[i], living[i].end()))
			continue
		default:
			err = errors.Join(err, fmt.Errorf("an \"egressd exec\" (%s) runs, and the policy of its command stays in force: end that command, or the exec", living[i]))
			continue
		}
		attached, _ := p.kernel.attachedTo(dir) // what cannot be read fails below
		n, unloadErr := p.kernel.unload(dir)
		err = errors.Join(err, unloadErr)
		for _, id := range attached {
			err = errors.Join(err, p.kernel.removeProbe(id))
		}
		removed += n
	}
	if err != nil {
		return removed, err
	}
	if err := os.Remove(p.root); !errors.Is(err, os.ErrNotExist) {
		return removed, err
	}
	return removed, nil
}

// pinDirs lists the pin directories of the daemon and of every exec; nil: the root
// is not there.
func pinDirs(root string) (dirs []string, err error) {
	err = securedir.Check(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(root)
	}
	dirs = []string{} // the root is there
	for _, d := range entries {
		if d.IsDir() {
			dirs = append(dirs, filepath.Join(root, d.Name()))
		}
	}
	return dirs, err
}

// removeProbeCgroup removes what a daemon that was killed left of its probe, by the
// id of the cgroup that its programs were attached to. A round may be under way;
// it is ended.
func removeProbeCgroup(attached uint64) error {
	dir := cgroup.PathOf(attached)
	if dir == "" {
		return nil
	}
	dir = filepath.Join(dir, state.ProbeCgroup)
	err := cgroup.Remove(dir)
	if _, gone := os.Stat(dir); errors.Is(gone, fs.ErrNotExist) {
		return nil // the daemon that ends removes it as well
	}
	return err
}

// removeOwnCgroup removes the cgroup that an ended daemon made for itself
// below the captured one. One that is in use, or not there, is left alone.
func removeOwnCgroup(captured string) {
	if captured != "" {
		_ = os.Remove(filepath.Join(captured, state.OwnCgroup)) // rmdir(2) refuses a populated one
	}
}

// AttachedTo lists the cgroups where programs of some egressd are, wherever they are
// pinned. What cannot be read is not in it.
func AttachedTo() (dirs []string) {
	ids, _ := foreign.AttachedAnywhere()
	for _, id := range ids {
		if dir := cgroup.PathOf(id); dir != "" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}
