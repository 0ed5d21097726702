// SPDX-License-Identifier: Apache-2.0

// Package limits bounds what connections and requests may take of file
// descriptors, memory and local ports, in all and for each workload. It knows
// nothing of what they are taken for.
package limits

import (
	"errors"
	"fmt"
	"sync"

	"github.com/egressd/egressd/policy"
)

// Limits bound what all connections of a process may take together; several
// cores may share them.
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

// Cost is what something takes of the Limits.
type Cost struct{ Descriptors, Memory, Connections, Ports int64 }

// part is one of the Limits, and what a cost takes of it.
type part struct {
	name   string
	budget *Budget
	n      int64
}

func (l *Limits) parts(c Cost) [4]part {
	return [4]part{
		{"file descriptors", l.Descriptors, c.Descriptors},
		{"memory", l.Memory, c.Memory},
		{"connections", l.Connections, c.Connections},
		{"local ports", l.Ports, c.Ports},
	}
}

// Take takes all of c or nothing.
func (l *Limits) Take(h Owner, c Cost) error {
	parts := l.parts(c)
	for i, p := range parts {
		if r := p.budget.Take(h, p.n); r != "" {
			for _, q := range parts[:i] {
				q.budget.Give(h, q.n)
			}
			return outOf(r, p)
		}
	}
	return nil
}

// Give gives back what h has taken.
func (l *Limits) Give(h Owner, c Cost) {
	for _, p := range l.parts(c) {
		p.budget.Give(h, p.n)
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
		full(s.Descriptors, 1+SpliceDescriptors) || full(s.Memory, ConnMemory+SpliceMemory)
}

// ShareOf is the share of a holder.
func (l *Limits) ShareOf(h Owner) Share {
	return Share{l.Connections.UseOf(h), l.Descriptors.UseOf(h), l.Memory.UseOf(h), l.Ports.UseOf(h)}
}

// Costs in descriptors and bytes.
const (
	SpliceDescriptors = 1        // the upstream's; pipes are paid for while bytes are in them
	SpliceMemory      = 16 << 10 // the same: kernel objects, and a goroutine
	ConnMemory        = 16 << 10 // a connection: goroutines, kernel objects
)

// ExceededError is why something could not be taken.
type ExceededError struct {
	Reason policy.Reason
	Text   string
	// Budget is what there is not enough of.
	Budget *Budget
}

func (e *ExceededError) Error() string { return e.Text }

func outOf(reason policy.Reason, p part) error {
	text := fmt.Sprintf("egressd has no %s left", p.name)
	if reason == policy.ReasonQuota {
		text = fmt.Sprintf("the workload has its share of egressd's %s", p.name)
	}
	return &ExceededError{Reason: reason, Text: text, Budget: p.budget}
}

// IsExceeded says whether an error is one of a limit.
func IsExceeded(err error) bool {
	if err == nil {
		return false
	}
	var e *ExceededError
	return errors.As(err, &e)
}

// Lease is what one connection or request has taken, to be given back at once.
type Lease struct {
	limits *Limits
	holder Owner

	mu    sync.Mutex
	held  Cost
	ended bool
}

// NewLease returns a lease of h's that has nothing yet.
func NewLease(l *Limits, h Owner) *Lease { return &Lease{limits: l, holder: h} }

// Take takes both or nothing.
func (l *Lease) Take(descriptors, memory int64) error {
	return l.TakeAll(Cost{Descriptors: descriptors, Memory: memory})
}

// TakeAll takes all or nothing.
func (l *Lease) TakeAll(c Cost) error {
	if err := l.limits.Take(l.holder, c); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		l.limits.Give(l.holder, c)
		return &ExceededError{Reason: policy.ReasonOverload, Text: "the connection has ended"}
	}
	h := &l.held
	h.Descriptors, h.Memory = h.Descriptors+c.Descriptors, h.Memory+c.Memory
	h.Connections, h.Ports = h.Connections+c.Connections, h.Ports+c.Ports
	return nil
}

// Give gives a part back before the end.
func (l *Lease) Give(descriptors, memory int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.limits.Give(l.holder, Cost{Descriptors: descriptors, Memory: memory})
		l.held.Descriptors -= descriptors
		l.held.Memory -= memory
	}
}

// Become has the lease hold so much memory and nothing else.
func (l *Lease) Become(memory int64) error {
	l.mu.Lock()
	held := l.held.Memory
	l.mu.Unlock()
	if memory > held {
		return l.Take(0, memory-held)
	}
	l.Give(0, held-memory)
	return nil
}

// End gives everything back.
func (l *Lease) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		l.limits.Give(l.holder, l.held)
	}
}
