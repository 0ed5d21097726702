// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/capacity"
	"github.com/egressd/egressd/loader"
)

const (
	// holdInterval is how long what somebody takes out of the kernel stays out.
	holdInterval = time.Second
	// lastingEach says at which looks the node's mounts are read as well.
	lastingEach = 10
)

// keepHold looks again and again whether the kernel still has what egressd put
// there, and puts back what is missing, until ctx ends.
func (a *Agent) keepHold(ctx context.Context) {
	tick := time.NewTicker(holdInterval)
	defer tick.Stop()
	// Whether the pins last stays as it was between two looks at that.
	var notLasting []loader.Loss
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Who cannot look knows of nothing that is missing; the probe says that there
		// are no descriptors.
		if capacity.Spent() {
			continue
		}
		faults := a.datapath.Hold(loader.HoldOptions{Lock: a.pinLock, Volatile: a.pins.accepted != nil})
		if n%lastingEach == 0 && a.pins.accepted == nil {
			notLasting = a.datapath.Lasting()
		}
		if ctx.Err() != nil {
			return // listeners close while egressd ends
		}
		if capacity.Spent() || slices.ContainsFunc(faults, func(f loader.Loss) bool { return capacity.NoDescriptors(f.Err) }) {
			continue
		}
		if a.holding.Saw(append(faults, notLasting...)) {
			a.earlier.EndUnjudged()
		}
		a.holding.SawForeign(a.datapath.Foreign())
	}
}
