// SPDX-License-Identifier: Apache-2.0

// Package bpffs keeps what outlives the process: programs, maps and links that are
// pinned in a directory of a bpf filesystem, whoever has that directory, and how all
// of it is removed.
package bpffs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/flock"
	"github.com/egressd/egressd/internal/securedir"
)

// ErrInUse says that another egressd has what was asked for.
var ErrInUse = errors.New("in use")

// ErrTaken says that another egressd has a pin directory. It is an ErrInUse.
var ErrTaken = fmt.Errorf("the pin directory is %w: another egressd has it", ErrInUse)

// PinLock is a lock on a pin directory. It is on the directory's inode, which is
// the same one in every network and mount namespace and whatever state directory
// who asks has.
type PinLock struct {
	dir string
	at  *os.File
}

// LockDir makes a pin directory, if it is missing, and locks it until Close.
// Somebody else who has it is ErrTaken: two who write the same tables and
// replace each other's links would free what one of them holds. What a first start
// left that was killed while it attached its programs, so that some are there and
// others not, is removed.
func LockDir(dir string) (*PinLock, error) {
	if err := Make(dir); err != nil {
		return nil, err
	}
	// Nobody sweeps before it is locked.
	around, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return nil, fmt.Errorf("open the directory of the pin directory: %w", err)
	}
	defer around.Close()
	if err := unix.Flock(int(around.Fd()), unix.LOCK_SH); err != nil {
		return nil, fmt.Errorf("lock the directory of the pin directory: %w", err)
	}
	at, err := lock(dir)
	if err != nil {
		return nil, err
	}
	if err := sweepBegun(dir); err != nil {
		return nil, errors.Join(err, at.Close())
	}
	return &PinLock{dir: dir, at: at}, nil
}

// lockTries bounds how often a directory that is removed while it is being locked
// is made again.
const lockTries = 8

func lock(dir string) (*os.File, error) {
	for range lockTries {
		if err := Make(dir); err != nil {
			return nil, err
		}
		at, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // it is being removed
		}
		if err != nil {
			return nil, fmt.Errorf("open the pin directory: %w", err)
		}
		if err := flock.Take(at); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %s; end it, or choose another one with --pin-dir: %w", ErrTaken, dir, err), at.Close())
		}
		// Who removed the directory meanwhile leaves a lock on nothing.
		if securedir.IsAt(at, dir) {
			return at, nil
		}
		at.Close()
	}
	return nil, fmt.Errorf("the pin directory %s is removed as often as it is made", dir)
}

// Keep locks the directory that is at the lock's path now, if it is another one
// than before: it was removed, or its bpf filesystem unmounted. volatile is that of
// Prepare.
func (l *PinLock) Keep(volatile bool) (renewed bool, err error) {
	if securedir.IsAt(l.at, l.dir) {
		return false, nil
	}
	v := (*VolatileError)(nil)
	if err := Prepare(l.dir, volatile); err != nil && !(volatile && errors.As(err, &v)) {
		return false, err
	}
	at, err := lock(l.dir)
	if err != nil {
		return false, err
	}
	l.at.Close()
	l.at = at
	return true, nil
}

// TakeLock makes a PinLock of the open, locked directory of another one, which
// has to be the one at the path. It takes the file over.
func TakeLock(dir string, at *os.File) (*PinLock, error) {
	if at == nil || !securedir.IsAt(at, dir) {
		return nil, fmt.Errorf("the lock is not that of the pin directory %s", dir)
	}
	return &PinLock{dir: dir, at: at}, nil
}

// SyscallConn gives access to the lock's descriptor: who has a duplicate has the
// lock.
func (l *PinLock) SyscallConn() (syscall.RawConn, error) { return l.at.SyscallConn() }

// Close lets go of the directory.
func (l *PinLock) Close() error { return l.at.Close() }

// Sweep removes a pin directory that nobody has locked, with all that is in it,
// unless one of its programs is over a cgroup, given by its id, that is in use.
func Sweep(dir string, used func(cgroup uint64) bool) error {
	if err := securedir.Check(dir); err != nil {
		return err
	}
	around, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer around.Close()
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, lock := range []*os.File{around, f} {
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return fmt.Errorf("the pin directory is %w: %w", ErrInUse, err)
		}
	}
	over, err := AttachedTo(dir)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(over, used) {
		return fmt.Errorf("what is captured there is %w", ErrInUse)
	}
	_, err = Unload(dir)
	return err
}

// sweepBegun removes what a start that was killed half-way attached. The caller
// has the directory's lock.
func sweepBegun(dir string) error {
	if !Marked(dir, BegunMark) {
		return nil
	}
	_, err := Empty(dir)
	return err
}
