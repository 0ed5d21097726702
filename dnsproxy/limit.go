// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"sync"
	"time"
)

// limiter bounds how many things are going on at once, in all and for each
// workload, so that one workload cannot take the proxy from the others.
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
func (l *limiter) acquire(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.total || l.by[key] >= l.each {
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

// once lets one event of a kind through per second.
type once struct {
	max int

	mu   sync.Mutex
	seen map[string]time.Time
}

// onceWindow is how long an event silences its likes.
const onceWindow = time.Second

// allow says whether key was not seen within the window. When more keys than
// o.max are fresh it says no: a storm of distinct names is counted, not logged.
func (o *once) allow(key string, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last, ok := o.seen[key]; ok && now.Sub(last) < onceWindow {
		return false
	}
	if len(o.seen) >= o.max {
		for k, last := range o.seen {
			if now.Sub(last) >= onceWindow {
				delete(o.seen, k)
			}
		}
		if len(o.seen) >= o.max {
			return false
		}
	}
	o.seen[key] = now
	return true
}
