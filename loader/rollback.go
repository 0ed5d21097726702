// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Marks are directories among the pins: nothing else than programs, maps, links and
// directories can be in a bpf filesystem, and they go with the pins.
const (
	// begunMark is there while a start attaches programs where none were.
	begunMark = "begun"
	// lockedMark says that what is attached was attached by MarkLocked's caller.
	lockedMark = "locked"
)

func mark(dir, name string) error {
	if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("mark the pins: %w", err)
	}
	return nil
}

func (d *Datapath) unmark(names ...string) error {
	var errs []error
	for _, name := range names {
		if err := os.Remove(filepath.Join(d.opts.PinDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unmark the pins: %w", err))
		}
	}
	return errors.Join(errs...)
}

func marked(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// sweepBegun removes what a start that was killed half-way attached. The caller
// has the directory's lock.
func sweepBegun(dir string) error {
	if !marked(dir, begunMark) {
		return nil
	}
	_, err := unpin(dir)
	return err
}

// MarkLocked notes, until the next Attach, that the programs are attached to deny
// everything because a start failed (Pinned.Locked).
func (d *Datapath) MarkLocked() error { return mark(d.opts.PinDir, lockedMark) }

// Locked says whether what is at work is there to deny everything, because a start
// failed.
func (p Pinned) Locked() bool { return p.AtWork() && marked(p.dir, lockedMark) }

// Rollback takes back what this Datapath attached and pinned, for a start that
// fails. Where programs of an earlier run were at work they go on: as before, or,
// if all of them were replaced already, with the new tables. It must still be
// closed.
func (d *Datapath) Rollback() error {
	if d.first {
		_, err := unpin(d.opts.PinDir)
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.committed {
		return nil
	}
	return d.unpinMaps()
}

// unpinMaps removes the pins of the maps that this Datapath has pinned.
func (d *Datapath) unpinMaps() error {
	var errs []error
	for _, name := range d.pinned {
		if err := os.Remove(filepath.Join(d.opts.PinDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	d.pinned = nil
	return errors.Join(errs...)
}
