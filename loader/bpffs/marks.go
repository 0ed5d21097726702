// SPDX-License-Identifier: Apache-2.0

package bpffs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Marks are directories among the pins: nothing else than programs, maps, links and
// directories can be in a bpf filesystem, and they go with the pins.
const (
	// BegunMark is there while a start attaches programs where none were.
	BegunMark = "begun"
	// LockedMark says that what is attached was attached by MarkLocked's caller.
	LockedMark = "locked"
)

// Mark makes one, if it is not there.
func Mark(dir, name string) error {
	if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("mark the pins: %w", err)
	}
	return nil
}

// Unmark removes some, if they are there.
func Unmark(dir string, names ...string) error {
	var errs []error
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unmark the pins: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Marked says whether one is there.
func Marked(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}
