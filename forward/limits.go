// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"fmt"
	"sync"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Limits bound what all connections of a process may take together; several
// Cores may share them.
type Limits struct {
	// Descriptors are file descriptors.
	Descriptors *Budget
	// Memory is in bytes: what a connection, a request or a window for data
	// that nobody reads may cost.
	Memory *Budget
	// Connections are downstream ones.
	Connections *Budget
	// Ports are those of the node's loopback: a connection that came that way has
	// one of the range that all share until it is closed on both sides.
	Ports *Budget
}

// cost is what something takes of the Limits.
type cost struct{ descriptors, memory, connections, ports int64 }

// part is one of the Limits, and what a cost takes of it.
type part struct {
	name   string
	budget *Budget
	n      int64
}

func (l *Limits) parts(c cost) [4]part {
	return [4]part{
		{"file descriptors", l.Descriptors, c.descriptors},
		{"memory", l.Memory, c.memory},
		{"connections", l.Connections, c.connections},
		{"local ports", l.Ports, c.ports},
	}
}

// take takes all of c or nothing.
func (l *Limits) take(h holder, c cost) error {
	parts := l.parts(c)
	for i, p := range parts {
		if r := p.budget.take(h, p.n); r != "" {
			for _, q := range parts[:i] {
				q.budget.give(h, q.n)
			}
			return outOf(r, p)
		}
	}
	return nil
}

func (l *Limits) give(h holder, c cost) {
	for _, p := range l.parts(c) {
		p.budget.give(h, p.n)
	}
}

// Share is what one workload has of the Limits, and could have at the most.
type Share struct {
	Connections Use `json:"connections"`
	Descriptors Use `json:"descriptors"`
	Memory      Use `json:"memory"` // bytes
	Ports       Use `json:"ports"`
}

// Full says whether the workload has so much of something that its next connection
// is refused.
func (s Share) Full() bool {
	full := func(u Use, next int64) bool { return u.Max > 0 && u.Used+next > u.Max }
	return full(s.Connections, 1) || full(s.Ports, 1) ||
		full(s.Descriptors, 1+spliceDescriptors) || full(s.Memory, connMemory+spliceMemory)
}

// ShareOf is the share of a workload, by its number.
func (c *Core) ShareOf(layer flow.Layer, workload uint32) Share {
	l, h := c.o.Limits, holder{layer, workload}
	return Share{l.Connections.useOf(h), l.Descriptors.useOf(h), l.Memory.useOf(h), l.Ports.useOf(h)}
}

// Costs in descriptors and bytes.
const (
	spliceDescriptors = 1        // the upstream's; see pipePool
	spliceMemory      = 16 << 10 // the same: kernel objects, and a goroutine
	connMemory        = 16 << 10 // a connection: goroutines, kernel objects
	httpMemory        = 32 << 10 // beside it, for HTTP/1: readers, writers, a copy buffer
	streamMemory      = 32 << 10 // a request of HTTP/2
)

// limitError is why something could not be taken.
type limitError struct {
	reason policy.Reason
	text   string
	// budget is what there is not enough of.
	budget *Budget
}

func (e *limitError) Error() string { return e.text }

func outOf(reason policy.Reason, p part) error {
	text := fmt.Sprintf("egressd has no %s left", p.name)
	if reason == policy.ReasonQuota {
		text = fmt.Sprintf("the workload has its share of egressd's %s", p.name)
	}
	return &limitError{reason, text, p.budget}
}

func isLimit(err error) bool {
	if err == nil {
		return false
	}
	var e *limitError
	return errors.As(err, &e)
}

// lease is what one connection or request has taken, to be given back at once.
type lease struct {
	limits *Limits
	holder holder

	mu    sync.Mutex
	held  cost
	ended bool
}

func (t *conn) lease() *lease {
	return &lease{limits: t.core.o.Limits, holder: t.holder()}
}

func (t *conn) holder() holder { return holder{t.info.Layer, t.info.WorkloadID} }

// take takes both or nothing.
func (l *lease) take(descriptors, memory int64) error {
	return l.takeAll(cost{descriptors: descriptors, memory: memory})
}

// takeAll takes all or nothing.
func (l *lease) takeAll(c cost) error {
	if err := l.limits.take(l.holder, c); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		l.limits.give(l.holder, c)
		return &limitError{policy.ReasonOverload, "the connection has ended", nil}
	}
	h := &l.held
	h.descriptors, h.memory = h.descriptors+c.descriptors, h.memory+c.memory
	h.connections, h.ports = h.connections+c.connections, h.ports+c.ports
	return nil
}

// give gives a part back before the end.
func (l *lease) give(descriptors, memory int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.limits.give(l.holder, cost{descriptors: descriptors, memory: memory})
		l.held.descriptors -= descriptors
		l.held.memory -= memory
	}
}

// end gives everything back.
func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		l.limits.give(l.holder, l.held)
	}
}
