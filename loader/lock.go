// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/securedir"
)

// ErrInUse says that another egressd has what was asked for.
var ErrInUse = errors.New("in use")

// LockPins makes a pin directory, if it is missing, and locks it for as long
// as the file is open. Somebody else who has it is an error: two who write the
// same tables and replace each other's links would free what one of them holds.
// What a first start left that was killed while it attached its programs, so that
// some are there and others not, is removed.
func LockPins(dir string) (*os.File, error) {
	if err := makePins(dir); err != nil {
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
	if err := makePins(dir); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the pin directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("the pin directory is %w: another egressd has %s; end it, or choose another one with --pin-dir: %w", ErrInUse, dir, err), f.Close())
	}
	if err := sweepBegun(dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// SweepPins removes a pin directory that nobody has locked, with all that is in it,
// unless one of its programs is over a cgroup, given by its id, that is in use.
func SweepPins(dir string, used func(cgroup uint64) bool) error {
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
	over, err := pinnedCgroups(dir)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(over, used) {
		return fmt.Errorf("what is captured there is %w", ErrInUse)
	}
	_, err = Unload(dir)
	return err
}

// pinnedCgroups lists the cgroups that the pinned links are attached to.
func pinnedCgroups(dir string) (ids []uint64, err error) {
	pins, err := filepath.Glob(filepath.Join(dir, linkPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			return nil, err
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			return nil, err
		}
		if c := info.Cgroup(); c != nil && c.CgroupId != 0 {
			ids = append(ids, c.CgroupId)
		}
	}
	return ids, nil
}
