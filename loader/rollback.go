// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/egressd/egressd/loader/bpffs"
)

// MarkLocked notes, until the next Attach, that the programs are attached to deny
// everything because a start failed (Pinned.Locked).
func (d *Datapath) MarkLocked() error { return bpffs.Mark(d.opts.PinDir, bpffs.LockedMark) }

// Rollback takes back what this Datapath attached and pinned, for a start that
// fails. Where programs of an earlier run were at work they go on: as before, or,
// if all of them were replaced already, with the new tables. It must still be
// closed.
func (d *Datapath) Rollback() error {
	if d.first {
		_, err := bpffs.Empty(d.opts.PinDir)
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
