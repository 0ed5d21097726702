// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"math/rand/v2"

	"github.com/egressd/egressd/egress"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/capacity"
)

// limits is who may have how much of what there is for egressd.
type limits struct {
	capacity.Plan
	forward *forward.Limits
	ports   int
}

func newLimits(o ConnectionLimits, log *slog.Logger) *limits {
	c := capacity.Measure(log)
	p := c.Divide()
	// Only what is open costs a descriptor, so there can be no more of them.
	conns := forward.NewBudget(p.Descriptors).Each(int64(o.WorkloadConnections))
	return &limits{Plan: p, ports: c.Ports, forward: &forward.Limits{
		Descriptors: forward.NewBudget(p.Descriptors),
		Memory:      forward.NewBudget(p.Memory),
		Connections: conns,
		Ports:       forward.NewBudget(p.Ports),
	}}
}

// tellRoom tells the kernel how many connections its ports are for, which the
// operator may change at any time. Only the sweep calls it, after the start.
func (a *Agent) tellRoom() error {
	if n := capacity.Ports(); n != a.limits.ports {
		a.limits.ports = n
		a.limits.forward.Ports.Resize(int64(capacity.LoopbackRoom(n)))
	}
	return a.datapath.SetRoom(capacity.LoopbackRoom(a.limits.ports))
}

// outgoing are the options of the egress side's core.
func (l *limits) outgoing(a *Agent, out *egress.Egress) forward.Options {
	return forward.Options{
		Decider: out, Dialer: out, Sink: a.recorder, Log: a.log, Limits: l.forward, Timeouts: a.opts.Limits.timeouts(), Rand: rand.Uint64, Locality: a.opts.Limits.Locality,
	}
}
