// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
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
