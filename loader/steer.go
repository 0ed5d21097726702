// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"path/filepath"

	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/tc"
)

// Steer makes the stack accept what is steered to egressd's sockets, which
// must be transparent (ip(7) IP_TRANSPARENT). It stays until Unload.
func (d *Datapath) Steer() error {
	pin := filepath.Join(d.opts.PinDir, tc.SteerPin)
	if err := bpffs.Replace(d.objs.EgdTcFrom, pin); err != nil {
		return fmt.Errorf("pin the program: %w", err)
	}
	d.mu.Lock()
	d.steers = true
	d.mu.Unlock()
	_, err := tc.HoldSteering()
	return err
}
