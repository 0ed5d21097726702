// SPDX-License-Identifier: Apache-2.0

package bpffs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader/tc"
)

// detach takes the program of a pinned link from its place, for all who have the
// link (BPF_LINK_DETACH).
func detach(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pinned link: %w", err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil {
		return fmt.Errorf("detach %s: %w", filepath.Base(pin), err)
	}
	return nil
}

// AttachedTo lists the ids of the cgroups that the programs whose links are pinned
// in dir are attached to. A directory that does not exist has none.
func AttachedTo(dir string) (cgroups []uint64, err error) {
	pins, err := filepath.Glob(filepath.Join(dir, LinkPrefix+"*")) // the pattern is good
	if err != nil {
		return nil, err
	}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			return cgroups, fmt.Errorf("open the pinned link: %w", err)
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			return cgroups, fmt.Errorf("read the pinned link: %w", err)
		}
		if c := info.Cgroup(); c != nil && c.CgroupId != 0 && !slices.Contains(cgroups, c.CgroupId) {
			cgroups = append(cgroups, c.CgroupId)
		}
	}
	return cgroups, nil
}

// Unload detaches and removes everything that is pinned in dir, whoever has it
// open: first the links, connect hooks before the hooks that restore addresses,
// so that nothing is redirected without being restored; then the maps; then the
// directory. What does not exist, or goes meanwhile, is no error: the daemon and
// "egressd unload" may both be at it.
func Unload(dir string) (removed int, err error) {
	// In somebody else's directory the names below could be files of others.
	if err := securedir.Check(dir); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("read the pin directory: %w", err)
	}
	removed, err = Empty(dir)
	return removed, errors.Join(err, remove(dir))
}

// Empty is Unload for a directory that has been checked, and stays.
func Empty(dir string) (removed int, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the pin directory: %w", err)
	}
	rank := func(name string) int {
		switch {
		case strings.HasPrefix(name, LinkPrefix+"egd_connect"), strings.HasPrefix(name, LinkPrefix+"egd_sendmsg"):
			return 0
		case strings.HasPrefix(name, LinkPrefix), name == tc.FilterPin, name == tc.SteerPin:
			return 1
		}
		return 2
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == tc.FilterPin }) {
		err = tc.RemoveAllFilters(func(int) bool { return false })
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == tc.SteerPin }) {
		err = errors.Join(err, tc.RemoveSteering())
	}
	for r := 0; r <= 2; r++ {
		for _, e := range entries {
			if e.IsDir() || rank(e.Name()) != r {
				continue
			}
			// Whoever has a descriptor of the link would keep it attached.
			if strings.HasPrefix(e.Name(), LinkPrefix) {
				err = errors.Join(err, detach(filepath.Join(dir, e.Name())))
			}
			if rmErr := remove(filepath.Join(dir, e.Name())); rmErr != nil {
				err = errors.Join(err, rmErr)
				continue
			}
			removed++
		}
	}
	for _, m := range []string{BegunMark, LockedMark} {
		err = errors.Join(err, remove(filepath.Join(dir, m)))
	}
	return removed, err
}

// remove is os.Remove of what may be gone.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
