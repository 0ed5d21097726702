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
}

// Costs in descriptors and bytes.
const (
	spliceDescriptors = 5        // the upstream's, and a pipe each way
	connMemory        = 16 << 10 // a connection: goroutines, kernel objects
	httpMemory        = 32 << 10 // beside it, for HTTP/1: readers, writers, a copy buffer
	streamMemory      = 32 << 10 // a request of HTTP/2
)

// holder is who takes from a Budget: one workload, or the gateway.
type holder struct {
	layer    flow.Layer
	workload uint32
}

// Budget is an amount that is shared. No holder may have more than what it
// leaves free: one alone gets half, each of two that want all gets a third, and
// what is left is there for the next one.
type Budget struct {
	mu    sync.Mutex
	total int64
	free  int64
	held  map[holder]int64
}

// NewBudget makes a Budget of n.
func NewBudget(n int64) *Budget {
	return &Budget{total: n, free: n, held: map[holder]int64{}}
}

// take takes n for h. What it returns otherwise says why there is none:
// ReasonQuota when others could still have some.
func (b *Budget) take(h holder, n int64) policy.Reason {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch held := b.held[h]; {
	case n > b.free:
		return policy.ReasonOverload
	case held+n > b.free-n:
		return policy.ReasonQuota
	default:
		b.held[h], b.free = held+n, b.free-n
	}
	return ""
}

// give gives back what h has taken.
func (b *Budget) give(h holder, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	if b.held[h] -= n; b.held[h] <= 0 {
		delete(b.held, h)
	}
}

// Use is how much of a Budget is taken.
type Use struct {
	Used int64 `json:"used"`
	Max  int64 `json:"max"`
}

func (b *Budget) use() Use {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Use{b.total - b.free, b.total}
}

// limitError is why something could not be taken.
type limitError struct {
	reason policy.Reason
	text   string
}

func (e *limitError) Error() string { return e.text }

func outOf(reason policy.Reason, what string) error {
	if reason == policy.ReasonQuota {
		return &limitError{reason, fmt.Sprintf("the workload has its share of egressd's %s", what)}
	}
	return &limitError{reason, fmt.Sprintf("egressd has no %s left", what)}
}

func isLimit(err error) bool {
	var e *limitError
	return errors.As(err, &e)
}

// lease is what one connection or request has taken, to be given back at once.
type lease struct {
	limits *Limits
	holder holder

	mu                  sync.Mutex
	descriptors, memory int64
	ended               bool
}

func (t *conn) lease() *lease {
	return &lease{limits: t.core.o.Limits, holder: holder{t.info.Layer, t.info.WorkloadID}}
}

// take takes both or nothing.
func (l *lease) take(descriptors, memory int64) error {
	if r := l.limits.Descriptors.take(l.holder, descriptors); r != "" {
		return outOf(r, "file descriptors")
	}
	if r := l.limits.Memory.take(l.holder, memory); r != "" {
		l.limits.Descriptors.give(l.holder, descriptors)
		return outOf(r, "memory")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		l.limits.Descriptors.give(l.holder, descriptors)
		l.limits.Memory.give(l.holder, memory)
		return &limitError{policy.ReasonOverload, "the connection has ended"}
	}
	l.descriptors, l.memory = l.descriptors+descriptors, l.memory+memory
	return nil
}

// give gives a part back before the end.
func (l *lease) give(descriptors, memory int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.limits.Descriptors.give(l.holder, descriptors)
		l.limits.Memory.give(l.holder, memory)
		l.descriptors, l.memory = l.descriptors-descriptors, l.memory-memory
	}
}

// end gives everything back.
func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		l.limits.Descriptors.give(l.holder, l.descriptors)
		l.limits.Memory.give(l.holder, l.memory)
	}
}
