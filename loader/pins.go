// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/egressd/egressd/loader/bpffs"
)

// Unload detaches and unpins everything of this Datapath. It must still be
// closed.
func (d *Datapath) Unload() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unloaded = true
	_, err := bpffs.Unload(d.opts.PinDir)
	return err
}

// CheckPins returns an error unless what this Datapath has attached is pinned,
// and would outlive the process.
func (d *Datapath) CheckPins() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range d.hooks() {
		if d.links[h.name] == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(d.opts.PinDir, bpffs.LinkPrefix+h.name)); err != nil {
			return fmt.Errorf("a pin is gone: %w", err)
		}
	}
	return bpffs.Lasting(d.opts.PinDir)
}
