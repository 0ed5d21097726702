// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/securedir"
)

// Unload removes everything that is pinned in dir: first the links, connect
// hooks before the hooks that restore addresses, so that nothing is redirected
// without being restored; then the maps; then the directory. A directory that
// does not exist is no error.
func Unload(dir string) (removed int, err error) {
	// In somebody else's directory the names below could be files of others.
	if err := securedir.Check(dir); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("read the pin directory: %w", err)
	}
	removed, err = unpin(dir)
	if rmErr := os.Remove(dir); !errors.Is(rmErr, os.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return removed, err
}

// unpin is Unload for a directory that has been checked, and stays.
func unpin(dir string) (removed int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("read the pin directory: %w", err)
	}
	rank := func(name string) int {
		switch {
		case strings.HasPrefix(name, linkPrefix+"egd_connect"), strings.HasPrefix(name, linkPrefix+"egd_sendmsg"):
			return 0
		case strings.HasPrefix(name, linkPrefix), name == filterPin, name == steerPin:
			return 1
		}
		return 2
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == filterPin }) {
		err = removeAllFilters(func(int) bool { return false })
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == steerPin }) {
		err = errors.Join(err, removeSteering())
	}
	for r := 0; r <= 2; r++ {
		for _, e := range entries {
			if e.IsDir() || rank(e.Name()) != r {
				continue
			}
			if rmErr := os.Remove(filepath.Join(dir, e.Name())); rmErr != nil {
				err = errors.Join(err, rmErr)
				continue
			}
			removed++
		}
	}
	for _, m := range []string{begunMark, lockedMark} {
		if rmErr := os.Remove(filepath.Join(dir, m)); !errors.Is(rmErr, os.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return removed, err
}

// Unload detaches and unpins everything of this Datapath. It must still be
// closed.
func (d *Datapath) Unload() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unloaded = true
	_, err := Unload(d.opts.PinDir)
	return err
}
