// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import "sync"

// limiter bounds how many things are going on at once, in all and for each
// workload, so that one workload cannot take the proxy from the others. The
// last quarter of all is for workloads that have little: several that are at
// their own bound don't take it from the others either.
type limiter struct {
	total, each int

	mu  sync.Mutex
	all int
	by  map[string]int
}

func newLimiter(total, each int) *limiter {
	return &limiter{total: total, each: each, by: map[string]int{}}
}

// acquire says whether one more may start for key; each true needs a release.
func (l *limiter) acquire(key string) bool { return l.acquireUpTo(key, l.each) }

// acquireUpTo is acquire for a key that may have no more than most.
func (l *limiter) acquireUpTo(key string, most int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	has := l.by[key]
	if l.all >= l.total || has >= min(most, l.each) {
		return false
	}
	if l.all >= l.total-l.total/4 && has >= max(1, l.each/16) {
		return false
	}
	l.all++
	l.by[key]++
	return true
}

func (l *limiter) release(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.by[key]--; l.by[key] == 0 {
		delete(l.by, key)
	}
}
