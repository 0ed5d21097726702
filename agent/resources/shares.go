// SPDX-License-Identifier: Apache-2.0

// Package resources is what egressd may take of the machine, and who may have how
// much of that: descriptors, memory, ports, and the kernel's tables.
package resources

import (
	"log/slog"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/internal/capacity"
)

// ConnectionLimits bound what proxied connections may take. A zero value stands for the
// default beside it.
type ConnectionLimits struct {
	forward.Timeouts
	// WorkloadConnections is how many proxied connections one workload may have
	// open, beside its share of descriptors, memory and ports; its share alone.
	WorkloadConnections int
	// Locality is where the node is; forward.Options.
	Locality string
}

// Shares are who may have how much of what there is for egressd.
type Shares struct {
	capacity.Plan
	// Forward is what the forwarding cores share.
	Forward *limits.Limits

	ports int
	count func() int // of the ephemeral ports
}

// New divides what there is.
func New(o ConnectionLimits, log *slog.Logger) *Shares { return divide(o, capacity.Measure(log)) }

func divide(o ConnectionLimits, c capacity.Capacity) *Shares {
	p := c.Divide()
	// Only what is open costs a descriptor, so there can be no more of them.
	conns := limits.NewBudget(p.Descriptors).Each(int64(o.WorkloadConnections))
	return &Shares{Plan: p, ports: c.Ports, count: capacity.Ports, Forward: &limits.Limits{
		Descriptors: limits.NewBudget(p.Descriptors),
		Memory:      limits.NewBudget(p.Memory),
		Connections: conns,
		Ports:       limits.NewBudget(p.Ports),
	}}
}

// Tell tells the kernel how many connections its ports are for, which the operator may
// change at any time. Only one goroutine calls it.
func (l *Shares) Tell(setRoom func(connections int) error) error {
	if n := l.count(); n != l.ports {
		l.ports = n
		l.Forward.Ports.Resize(int64(capacity.LoopbackRoom(n)))
	}
	return setRoom(capacity.LoopbackRoom(l.ports))
}
