// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader"
)

// LockFile in the state directory is locked by the egressd that runs there.
const LockFile = "lock"

// errRuns says that another egressd has the state directory. It is an ErrInUse.
var errRuns = fmt.Errorf("the state directory is %w: another egressd runs", loader.ErrInUse)

// lockState makes this the only egressd on a state directory, for as long as
// the file is open.
func lockState(dir string) (*os.File, error) {
	f, err := securedir.OpenFile(filepath.Join(dir, LockFile), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w on %s (see \"egressd status\"): %w", errRuns, dir, err)
	}
	if !securedir.IsAt(f, f.Name()) {
		f.Close()
		return nil, fmt.Errorf("%s was unloaded just now; start again", dir)
	}
	return f, nil
}

// RemoveState removes the files of an egressd that has ended from its state
// directory, and the directory if nothing else is in it. It does nothing
// where one runs.
func RemoveState(stateDir string) error {
	f, err := securedir.OpenFile(filepath.Join(stateDir, LockFile), os.O_RDONLY)
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
	for _, name := range []string{AdminSocket, handover.SocketName, control.SavedNames, control.SavedNames + securedir.NewSuffix,
		LastGoodFile, LastGoodFile + securedir.NewSuffix, LockFile} { // the lock last
		if err := os.Remove(filepath.Join(stateDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	_ = os.Remove(stateDir) // not empty while commands run under "egressd exec"
	return nil
}

// endWait bounds how long a daemon may take to end: its drain time, mostly.
const endWait = 2 * time.Minute

// WaitUnlocked waits until the egressd that runs on a state directory has
// ended, or ctx is done.
func WaitUnlocked(ctx context.Context, stateDir string) error {
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	f, err := securedir.OpenFile(filepath.Join(stateDir, LockFile), os.O_RDONLY)
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
