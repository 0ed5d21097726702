// SPDX-License-Identifier: Apache-2.0

// Package state knows the state directory of an egressd: its lock, which says that
// one runs, and the names of all that an egressd keeps outside of its process.
package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/flock"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader/bpffs"
)

// Files of the state directory.
const (
	// LockFile is locked by the egressd that runs there.
	LockFile = "lock"
	// AdminSocket is where root may connect, and to read the admin group;
	// everything that changes something goes through it.
	AdminSocket = "admin.sock"
	// LearnedFile keeps the learned addresses over a restart: programs that
	// resolved a name before it go on connecting after it.
	LearnedFile = "learned.json"
	// LastGoodFile keeps the policy in force, in a state directory of one's own.
	LastGoodFile = "last-good.json"
)

const (
	// NodePins is the pin directory of the daemon, below the pin root; exec
	// makes one beside it for each command.
	NodePins = "node"
	// OwnCgroup is the name of the cgroup that a daemon makes for itself below
	// the captured one.
	OwnCgroup = "egressd"
	// ProbeCgroup is made below the cgroup that the programs are attached to.
	ProbeCgroup = "egressd-probe"
)

// ErrRuns says that another egressd has the state directory. It is an ErrInUse.
var ErrRuns = fmt.Errorf("the state directory is %w: another egressd runs", bpffs.ErrInUse)

// Lock makes this the only egressd on a state directory, for as long as
// the file is open. It waits for one that was killed just now (flock.Take).
func Lock(dir string) (*os.File, error) { return lock(dir, flock.Take) }

// TryLock is Lock without waiting, for who knows what to do where one lives.
func TryLock(dir string) (*os.File, error) {
	return lock(dir, func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
}

func lock(dir string, take func(*os.File) error) (*os.File, error) {
	f, err := securedir.OpenFile(filepath.Join(dir, LockFile), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("the state directory: %w", err)
	}
	if err := take(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w on %s (see \"egressd status\"): %w", ErrRuns, dir, err)
	}
	if !securedir.IsAt(f, f.Name()) {
		f.Close()
		return nil, fmt.Errorf("%s was unloaded just now; start again", dir)
	}
	return f, nil
}

// Remove removes the files of an egressd that has ended from its state
// directory, and the directory if nothing else is in it. It does nothing
// where one runs.
func Remove(dir string) error {
	f, err := securedir.OpenFile(filepath.Join(dir, LockFile), os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	for _, name := range []string{AdminSocket, handover.SocketName, LearnedFile, LearnedFile + securedir.NewSuffix,
		LastGoodFile, LastGoodFile + securedir.NewSuffix, LockFile} { // the lock last
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	_ = os.Remove(dir) // not empty while commands run under "egressd exec"
	return nil
}

// endWait bounds how long a daemon may take to end: its drain time, mostly.
const endWait = 2 * time.Minute

// WaitUnlocked waits until the egressd that runs on a state directory has
// ended, or ctx is done.
func WaitUnlocked(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	f, err := securedir.OpenFile(filepath.Join(dir, LockFile), os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// flock(2) has no deadline of its own.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
		select {
		case <-ctx.Done():
			return errors.New("the daemon did not end in time")
		case <-tick.C:
		}
	}
	return nil
}

// Made lists what locking a state directory makes.
func Made(dir string) []string { return Absent(dir, filepath.Join(dir, LockFile)) }

// Absent lists those of the paths where nothing is.
func Absent(paths ...string) (out []string) {
	for _, p := range paths {
		if _, err := os.Lstat(p); errors.Is(err, os.ErrNotExist) {
			out = append(out, p)
		}
	}
	return out
}
