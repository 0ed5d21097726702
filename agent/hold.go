// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/egressd/egressd/internal/hold"
	"github.com/egressd/egressd/loader"
)

// keepHold keeps in the kernel what egressd put there, until ctx ends.
func (a *Agent) keepHold(ctx context.Context) {
	l := hold.Loop{
		Keeper: a.holding, Datapath: a.datapath, Rehooked: a.earlier.EndUnjudged,
		Options: loader.HoldOptions{Lock: a.pinLock, Volatile: a.pins.accepted != nil},
	}
	l.Run(ctx)
}
