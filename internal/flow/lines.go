// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Bounds of Lines: how many lines there may be at once, and how many more a second.
const (
	linesEach, linesEachRate = 100, 5
	linesAll, linesAllRate   = 500, 50
)

// Lines says which denials have a line in a log: a workload that makes many fills
// it with a few lines a second, and keeps no other one's denials out of it. Of each
// workload there is a line every FoldAfter, whatever all of them do. Use NewLines.
type Lines struct {
	mu  sync.Mutex
	all bucket
	of  map[string]*lines // by workload
}

type lines struct {
	bucket
	last time.Time // when there was a line
	// suppressed is how many denials had none, the first of them at since.
	suppressed int
	since      time.Time
}

// bucket has room for a number of lines, and gets more with the time.
type bucket struct {
	room float64
	at   time.Time
}

// fill brings the bucket to a time.
func (b *bucket) fill(now time.Time, rate, most float64) {
	if b.at.IsZero() {
		b.room = most
	} else if d := now.Sub(b.at); d > 0 {
		b.room = min(most, b.room+d.Seconds()*rate)
	}
	b.at = now
}

// NewLines makes Lines.
func NewLines() *Lines { return &Lines{of: map[string]*lines{}} }

// Allow says whether an event has a line now. What has none is counted, as many
// denials as it stands for, and told by Due.
func (l *Lines) Allow(e *Event, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.of[e.Workload]
	if w == nil {
		w = &lines{}
		l.of[e.Workload] = w
	}
	l.all.fill(now, linesAllRate, linesAll)
	w.fill(now, linesEachRate, linesEach)
	owed := now.Sub(w.last) >= FoldAfter
	if !owed && (w.room < 1 || l.all.room < 1) {
		if w.suppressed == 0 {
			w.since = now
		}
		w.suppressed += max(e.More, 1)
		return false
	}
	w.last = now
	w.room, l.all.room = max(w.room-1, 0), max(l.all.room-1, 0)
	return true
}

// Suppressed is how many denials of a workload had no line within some time.
type Suppressed struct {
	Workload string
	Count    int
	Within   time.Duration
}

// Due returns what had no line since FoldAfter ago, or since earlier; all: and since.
func (l *Lines) Due(now time.Time, all bool) []Suppressed {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Suppressed
	for name, w := range l.of {
		took := now.Sub(w.since)
		switch {
		case w.suppressed > 0 && (all || took >= FoldAfter):
			out = append(out, Suppressed{name, w.suppressed, took})
			w.suppressed = 0
		case w.suppressed > 0:
		default:
			if w.fill(now, linesEachRate, linesEach); w.room >= linesEach {
				delete(l.of, name) // as if it had never been here
			}
		}
	}
	slices.SortFunc(out, func(a, b Suppressed) int { return cmp.Compare(a.Workload, b.Workload) })
	return out
}
