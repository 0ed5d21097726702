// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/foreign"
)

const (
	// execName is in the name of the cgroups of exec, execPrefix begins that of
	// its state and pin directories.
	execName   = "exec"
	execPrefix = "exec-"
	// cgroupFile in the state directory of an exec names its cgroup, for
	// whoever cleans up after a killed one.
	cgroupFile = "cgroup"
)

// begin makes and locks the state directory of an exec, after it has
// removed what killed ones left. Nobody sweeps meanwhile: a directory that is
// not locked yet would be taken for one of the dead.
func begin(o Options, p Place, above string) (lock *os.File, err error) {
	if err := securedir.Ensure(o.StateRoot); err != nil {
		return nil, err
	}
	root, err := lockRoot(o.StateRoot)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	sweep(o.StateRoot, o.PinRoot)
	cgroup.SweepIn(above, execName)
	if lock, err = state.Lock(p.StateDir); err != nil {
		return nil, err
	}
	err = securedir.Replace(filepath.Join(p.StateDir, cgroupFile), func(f *os.File) error {
		_, err := f.WriteString(p.Cgroup)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, lock.Close(), os.RemoveAll(p.StateDir))
	}
	return lock, nil
}

// lockRoot keeps others from making and sweeping state directories of exec, while
// the file is open.
func lockRoot(dir string) (*os.File, error) {
	root, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(root.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// SweepLeft removes, at the start of a daemon, what killed "egressd exec" processes
// left: state and pins below the daemon's own places, and empty cgroups anywhere.
func SweepLeft(stateRoot, pinRoot string) {
	root, err := lockRoot(stateRoot)
	if err != nil {
		return // the start will say what is wrong
	}
	defer root.Close()
	sweep(stateRoot, pinRoot)
	if tree, err := cgroup.Root(); err == nil {
		cgroup.SweepBelow(tree, execName)
	}
}

// sweep removes what killed "egressd exec" processes left, unless the
// command's processes are still there: those stay locked in.
func sweep(stateRoot, pinRoot string) {
	dirs, _ := filepath.Glob(filepath.Join(stateRoot, execPrefix+"*")) // the pattern is good
	for _, dir := range dirs {
		lock, err := securedir.OpenFile(filepath.Join(dir, state.LockFile), os.O_RDONLY)
		if err != nil {
			_ = os.Remove(dir) // one that was killed before it made the lock left it empty
			continue
		}
		free := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
		if free && removeCgroup(dir) {
			if _, err := bpffs.Unload(filepath.Join(pinRoot, filepath.Base(dir))); err == nil {
				os.RemoveAll(dir)
			}
		}
		lock.Close()
	}
	sweepPins(stateRoot, pinRoot)
}

// sweepPins removes pins of execs whose state is gone, unless there are processes in
// what they hold.
func sweepPins(stateRoot, pinRoot string) {
	dirs, _ := filepath.Glob(filepath.Join(pinRoot, execPrefix+"*")) // the pattern is good
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(stateRoot, filepath.Base(dir))); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		_ = bpffs.Sweep(dir, populated) // what can't be removed stays for the next one
	}
}

// populated says whether there are processes in a cgroup, or may be.
func populated(id uint64) bool {
	dir := cgroup.PathOf(id)
	if dir == "" {
		return !cgroup.Gone(id)
	}
	pids, err := cgroup.AllProcs(dir)
	return err != nil || len(pids) > 0
}

// removeCgroup removes the empty cgroup of a dead exec; false: there are
// processes in it.
func removeCgroup(stateDir string) bool {
	path, err := securedir.ReadFile(filepath.Join(stateDir, cgroupFile))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	err = os.Remove(string(path))
	return err == nil || errors.Is(err, os.ErrNotExist)
}

// place finds the cgroup to make the command's in. It must be one that is
// root's all the way up, or the command, as the user whose cgroups these are,
// would move itself out. And it must be inside whatever policy exec itself is
// under, so that this stays over the command as well.
func place() (string, error) {
	own, err := cgroup.Own()
	if err != nil {
		return "", err
	}
	around, err := foreign.Enclosing(own)
	if err != nil {
		return "", err
	}
	place, err := cgroup.Place(own, around)
	loose := (*cgroup.LooseError)(nil)
	switch {
	case err == nil:
		return place, nil
	case !errors.As(err, &loose):
		return "", err
	case around == "":
		return "", fmt.Errorf("no cgroup from %s upwards can hold the command: %w; make root the owner of these cgroups", own, loose)
	}
	return "", fmt.Errorf("no cgroup can hold the command under the policy that exec itself is under, which begins at %s: %w; "+
		"run exec from a cgroup of root, or let that policy begin above %s", around, loose, loose.Cgroup)
}
