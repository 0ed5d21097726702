// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"sync"
	"time"
)

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
func (l *limiter) acquire(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	has := l.by[key]
	if l.all >= l.total || has >= l.each {
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

// once lets one event of a kind through per second.
type once struct {
	max int

	mu    sync.Mutex
	seen  map[eventKind]time.Time
	by    map[string]int // entries of seen, by workload
	swept time.Time
}

// eventKind is what makes two events alike.
type eventKind struct{ workload, what string }

// onceWindow is how long an event silences its likes.
const onceWindow = time.Second

func newOnce(n int) *once {
	return &once{max: n, seen: map[eventKind]time.Time{}, by: map[string]int{}}
}

// allow says whether k was not seen within the window. When more kinds than
// o.max are fresh, or more than an eighth of that of one workload, it says no:
// a storm of distinct names is counted, not logged, and hides nobody else's.
func (o *once) allow(k eventKind, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last, ok := o.seen[k]; ok && now.Sub(last) < onceWindow {
		return false
	}
	if o.full(k) && now.Sub(o.swept) >= onceWindow {
		o.sweep(now)
	}
	if _, known := o.seen[k]; !known {
		if o.full(k) {
			return false
		}
		o.by[k.workload]++
	}
	o.seen[k] = now
	return true
}

func (o *once) full(k eventKind) bool {
	return len(o.seen) >= o.max || o.by[k.workload] >= max(1, o.max/8)
}

func (o *once) sweep(now time.Time) {
	o.swept = now
	clear(o.by)
	for k, last := range o.seen {
		if now.Sub(last) >= onceWindow {
			delete(o.seen, k)
		} else {
			o.by[k.workload]++
		}
	}
}
