// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/agent/upkeep"
)

// originAge: an accepted connection takes its origin at once, so an old one belongs to
// nobody.
const originAge = time.Minute

// keepUp makes what sweeps and saves.
func (a *Agent) keepUp() *upkeep.Upkeep {
	save := func() {
		a.recorder.Flush(false)
		a.tellMissing()
		a.remembered.Keep(a.log, time.Now())
	}
	return upkeep.New(a.log, save,
		upkeep.Sweep{
			Do:     func() error { _, err := a.datapath.SweepOrigins(originAge); return err },
			Failed: "stale entries of egd_origins could not be removed; no traffic is affected until the table is full",
		},
		upkeep.Sweep{
			Do:     func() error { return a.limits.Tell(a.datapath.SetRoom) },
			Failed: "the kernel could not be told how many loopback ports there are for redirected connections; the last known number counts",
		},
		upkeep.Sweep{Do: func() error {
			a.sockets.KeepGates(listen.NodeGates{}, a.datapath.SetListeners)
			a.control.Keep()
			return nil // they say themselves what failed
		}},
		upkeep.Sweep{
			Do:     func() error { return a.datapath.SweepFlows(a.kernel.Record) },
			Failed: "ended flows of guarded interfaces could not be removed; no traffic is affected until the table is full",
		},
	)
}

// check passes by the daemon's loops: upkeep, the policy's updates, and the probe of
// DNS and the proxy, which must go on and find nobody stuck. What it finds that a start
// anew would not mend is no error.
func (a *Agent) check(ctx context.Context) error {
	if a.gone.Load() {
		return nil // another daemon serves
	}
	if err := a.upkeep.Beat(ctx); err != nil {
		return err
	}
	a.control.WaitIdle()
	return a.probe.Alive(ctx)
}
