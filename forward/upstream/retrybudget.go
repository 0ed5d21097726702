// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sync"

	"github.com/egressd/egressd/policy"
)

// RetryBudgets count the requests to upstreams that have a retry budget, and how
// many of them are retries. They are for all clients together, as a cluster's are in
// Envoy (source/common/upstream/resource_manager_impl.h). The zero value is ready.
type RetryBudgets struct {
	mu sync.Mutex
	of map[ServiceKey]*retryBudget
}

type retryBudget struct{ active, retrying int }

// budgeted is a request that counts in a budget; nil: there is none.
type budgeted struct {
	all    *RetryBudgets
	key    ServiceKey
	budget policy.RetryBudget
	retry  bool // it is a retry at the moment
}

// Enter counts a request to u.
func (b *RetryBudgets) Enter(u *policy.Upstream) *budgeted {
	if u.Traffic == nil || u.Traffic.RetryBudget == nil {
		return nil
	}
	key := ServiceKey{Host: u.Host, Port: u.Port, Subset: u.Subset}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of == nil {
		b.of = map[ServiceKey]*retryBudget{}
	}
	if b.of[key] == nil {
		b.of[key] = &retryBudget{}
	}
	b.of[key].active++
	return &budgeted{all: b, key: key, budget: *u.Traffic.RetryBudget}
}

// Active is how many requests count.
func (b *RetryBudgets) Active() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.of {
		n += x.active
	}
	return n
}

// Take says whether the request may be tried again; it is a retry until given.
func (r *budgeted) Take() bool {
	if r == nil {
		return true
	}
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	b := r.all.of[r.key]
	// What waits for a connection counts as well, so one request is enough.
	most := max(int(r.budget.Percent/100*float64(b.active)), r.budget.MinConcurrency)
	if b.retrying >= most {
		return false
	}
	b.retrying++
	r.retry = true
	return true
}

// Give says that the retry has an answer.
func (r *budgeted) Give() {
	if r == nil || !r.retry {
		return
	}
	r.all.mu.Lock()
	r.all.of[r.key].retrying--
	r.all.mu.Unlock()
	r.retry = false
}

// Leave counts the request no more.
func (r *budgeted) Leave() {
	if r == nil {
		return
	}
	r.Give()
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	if b := r.all.of[r.key]; b.active > 1 {
		b.active--
	} else {
		delete(r.all.of, r.key)
	}
}
