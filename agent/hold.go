// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/egressd/egressd/internal/hold"
	"github.com/egressd/egressd/loader"
)

// holdLoop keeps in the kernel what egressd put there.
func (a *Agent) holdLoop() *hold.Loop {
	return &hold.Loop{
		Keeper: a.holding, Datapath: a.datapath, Rehooked: a.earlier.EndUnjudged,
		Options: loader.HoldOptions{Lock: a.pinLock, Volatile: a.pins.accepted != nil},
	}
}
