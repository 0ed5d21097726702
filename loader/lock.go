// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// LockPins makes a pin directory, if it is missing, and locks it for as long
// as the file is open. Somebody else who has it is an error: two who write the
// same tables and replace each other's links would free what one of them holds.
func LockPins(dir string) (*os.File, error) {
	if err := makePins(dir); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the pin directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another egressd has the pin directory %s; end it, or choose another one with --pin-dir: %w", dir, err), f.Close())
	}
	return f, nil
}
