// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/tc"
)

// stagedPrefix is of maps that are about to replace pinned ones. Names of pins
// have no dots.
const stagedPrefix = "new_"

// stagedPins are the pins of a commit that was interrupted.
func stagedPins(dir string) (map[string]bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the pin directory: %w", err)
	}
	out := map[string]bool{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stagedPrefix) {
			out[e.Name()] = true
		}
	}
	return out, nil
}

// commit makes the maps that the programs use now those that the next start
// finds, and removes what this version does not have. The programs of all links
// have been replaced. While it is at work there is a pin with stagedPrefix, by
// which the next start knows that it was interrupted.
func (d *Datapath) commit() error {
	names, err := d.pinStaged()
	if err != nil {
		return err
	}
	if err := d.publish(names); err != nil {
		return err
	}
	d.staged = nil
	return d.removeStale()
}

// pinStaged pins the maps that are to replace others beside these.
func (d *Datapath) pinStaged() (names []string, err error) {
	dir := d.opts.PinDir
	stale, err := stagedPins(dir)
	if err != nil {
		return nil, err
	}
	all := pinnable(&d.objs.EgressdMaps)
	names = slices.Sorted(maps.Keys(d.staged))
	// Those whose name is free come first: the stale ones then go one by one.
	slices.SortStableFunc(names, func(x, y string) int {
		taken := func(name string) int {
			if stale[stagedPrefix+name] {
				return 1
			}
			return 0
		}
		return cmp.Compare(taken(x), taken(y))
	})
	for _, name := range names {
		at := filepath.Join(dir, stagedPrefix+name)
		if stale[stagedPrefix+name] {
			if err := os.Remove(at); err != nil {
				return nil, fmt.Errorf("replace a pin: %w", err)
			}
		}
		if err := bpffs.PinClone(all[name], at); err != nil {
			return nil, fmt.Errorf("pin %s: %w", name, err)
		}
	}
	return names, nil
}

// publish replaces the pins of older maps.
func (d *Datapath) publish(names []string) error {
	dir := d.opts.PinDir
	for _, name := range names {
		if err := os.Rename(filepath.Join(dir, stagedPrefix+name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("replace a pin: %w", err)
		}
	}
	return nil
}

// removeStale removes the pins of maps and links of cgroups that another version
// had and this one has not. Links of interfaces: ForgetOtherInterfaces.
func (d *Datapath) removeStale() error {
	entries, err := os.ReadDir(d.opts.PinDir)
	if err != nil {
		return fmt.Errorf("read the pin directory: %w", err)
	}
	known := map[string]bool{}
	for name := range pinnable(&d.objs.EgressdMaps) {
		known[name] = true
	}
	for _, h := range d.hooks() {
		known[bpffs.LinkPrefix+h.name] = true
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		ours := strings.HasPrefix(name, "egd_") || strings.HasPrefix(name, stagedPrefix) ||
			strings.HasPrefix(name, bpffs.LinkPrefix) && !strings.HasPrefix(name, bpffs.LinkPrefix+tc.Prefix)
		if ours && !known[name] {
			errs = append(errs, os.Remove(filepath.Join(d.opts.PinDir, name)))
		}
	}
	return errors.Join(errs...)
}
