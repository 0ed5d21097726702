// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"sync"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Owner is who takes from a Budget: one workload, or the gateway.
type Owner struct {
	Layer    flow.Layer
	Workload uint32
}

// Budget is an amount that is shared. No holder may have more than what it
// leaves free: one alone gets half, each of two that want all gets a third, and
// what is left is there for the next one. A nil Budget is without end.
type Budget struct {
	mu    sync.Mutex
	total int64
	free  int64
	each  int64 // how much one workload may have at the most; 0: its share
	held  map[Owner]int64
}

// NewBudget makes a Budget of n.
func NewBudget(n int64) *Budget {
	return &Budget{total: n, free: n, held: map[Owner]int64{}}
}

// Each bounds what one workload may have, beside its share; 0 does not. It returns b.
// The gateway, whose visitors are one holder, is not bounded by it.
func (b *Budget) Each(most int64) *Budget {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.each = most
	return b
}

// Resize makes it a Budget of n. What is taken stays taken.
func (b *Budget) Resize(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n - b.total
	b.total = n
}

// Take takes n for h. What it returns otherwise says why there is none:
// ReasonQuota when others could still have some.
func (b *Budget) Take(h Owner, n int64) policy.Reason {
	if b == nil {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch held := b.held[h]; {
	case n <= 0:
		return ""
	case n > b.free:
		return policy.ReasonOverload
	case held+n > b.free-n || b.each > 0 && h.Layer != flow.Ingress && held+n > b.each:
		return policy.ReasonQuota
	default:
		b.held[h], b.free = held+n, b.free-n
	}
	return ""
}

// Give gives back what h has taken.
func (b *Budget) Give(h Owner, n int64) {
	if b == nil || n <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	if b.held[h] -= n; b.held[h] <= 0 {
		delete(b.held, h)
	}
}

// Most is who has most of it; false: nobody has any.
func (b *Budget) Most() (who Owner, ok bool) {
	if b == nil {
		return who, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var n int64
	for h, held := range b.held {
		if held > n {
			who, n = h, held
		}
	}
	return who, n > 0
}

// Use is how much of a Budget is taken.
type Use struct {
	Used int64 `json:"used"`
	Max  int64 `json:"max"`
}

// Use is how much is taken of it.
func (b *Budget) Use() Use {
	if b == nil {
		return Use{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return Use{b.total - b.free, b.total}
}

// UseOf is what h has, and the most that it could have now.
func (b *Budget) UseOf(h Owner) Use {
	if b == nil {
		return Use{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	u := Use{Used: b.held[h], Max: max(0, b.free+b.held[h]) / 2}
	if b.each > 0 && h.Layer != flow.Ingress {
		u.Max = min(u.Max, b.each)
	}
	return u
}
