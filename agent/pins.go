// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"

	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/policy"
)

// pins knows whether what is pinned outlives the daemon.
type pins struct {
	// accepted is why it doesn't, as the operator accepted at the start; nil:
	// it did.
	accepted error
}

// preparePins makes the place where programs and tables are pinned. One that
// ends with the daemon is no place to enforce a policy from.
func (a *Agent) preparePins() error {
	accept := a.opts.VolatilePins || a.opts.Mode != policy.Enforce
	err := bpffs.Prepare(a.opts.PinDir, accept)
	if v := (*bpffs.VolatileError)(nil); !errors.As(err, &v) {
		return err
	}
	if !accept {
		return fmt.Errorf("%w. If egressd were killed, all traffic would be open. Mount a bpf filesystem for the whole node (mount -t bpf bpffs %s; "+
			"in a container, mount the node's %s into it), or start with --volatile-pins to take the risk", err, bpffs.Root, bpffs.Root)
	}
	a.pins.accepted = err
	a.log.Warn("the pins end with the daemon; if egressd ends or is killed, all traffic is open", "error", err)
	return nil
}

// lasting returns why the kernel's side would not outlive the daemon.
func (a *Agent) lasting() error {
	if a.pins.accepted != nil {
		return a.pins.accepted
	}
	return a.datapath.CheckPins()
}
