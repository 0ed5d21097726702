// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/policy"
)

// An accepted connection takes its origin at once, so an old one belongs to
// nobody.
const (
	sweepInterval = 10 * time.Second
	originAge     = time.Minute
	// saveInterval is how much of what was learned a kill -9 may lose.
	saveInterval = time.Second
)

// housekeep sweeps original destinations and saves learned addresses.
func (a *Agent) housekeep(ctx context.Context) {
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	save := time.NewTicker(saveInterval)
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.life.beats:
		case <-sweep.C:
			if _, err := a.datapath.SweepOrigins(originAge); err != nil {
				a.log.Warn("stale entries of egd_origins could not be removed; no traffic is affected until the table is full", "error", err)
			}
			if err := a.limits.Tell(a.datapath.SetRoom); err != nil {
				a.log.Warn("the kernel could not be told how many loopback ports there are for redirected connections; the last known number counts", "error", err)
			}
			a.sockets.KeepGates(listen.NodeGates{}, a.datapath.SetListeners)
			a.control.Keep()
			if err := a.datapath.SweepFlows(a.kernel.Record); err != nil {
				a.log.Warn("ended flows of guarded interfaces could not be removed; no traffic is affected until the table is full", "error", err)
			}
		case <-save.C:
			a.recorder.Flush(false)
			a.remembered.Keep(a.log, time.Now())
		}
	}
}

// bind tells the kernel which cgroup is which workload; nil: by the snapshot of the
// time before.
func (a *Agent) bind(s *policy.Snapshot) error { return a.workloads.Bind(s) }

// updatePolicy tells the kernel of guarded interfaces that their workload has another
// policy.
func (a *Agent) updatePolicy() { a.guards.UpdatePolicy() }

// bindAgain looks for cgroups that came.
func (a *Agent) bindAgain() error {
	a.binding.Lock()
	defer a.binding.Unlock()
	return a.bind(nil)
}

// rebind looks for cgroups that came or went.
func (a *Agent) rebind() {
	a.binding.Lock()
	defer a.binding.Unlock()
	if !a.captures.Load() {
		return
	}
	err := a.bind(nil)
	if was := a.bindFailed; err != nil && (was == nil || !control.SameCause(was, err)) {
		a.log.Error("workload cgroups could not be resolved; new cgroups use the node's policy; egressd tries again every two seconds", "error", err)
	}
	a.bindFailed = err
	if fresh, _ := a.capture.Hold(a.datapath.Attach); fresh { // an error is said there, and by the status
		a.earlier.End()
	}
}
