// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"context"
	"sync"

	"github.com/egressd/egressd/policy"
)

// Log is a Sink that keeps the newest events, counts decisions by layer and
// reason, and hands events to followers. The zero value is not usable; see
// NewLog.
type Log struct {
	mu        sync.Mutex
	ring      []Event
	next      uint64 // number of events recorded so far
	counts    map[CountKey]uint64
	followers map[chan Event]*follower
}

// CountKey is what decisions are counted by.
type CountKey struct {
	Layer   Layer
	Kind    Kind
	Allowed bool
	Reason  policy.Reason
}

type follower struct{ lost uint64 }

// NewLog makes a Log that keeps the newest size events.
func NewLog(size int) *Log {
	return &Log{
		ring:      make([]Event, 0, max(size, 1)),
		counts:    map[CountKey]uint64{},
		followers: map[chan Event]*follower{},
	}
}

// Record keeps e. A follower that does not keep up loses events.
func (l *Log) Record(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < cap(l.ring) {
		l.ring = append(l.ring, e)
	} else {
		l.ring[l.next%uint64(cap(l.ring))] = e
	}
	l.next++
	l.counts[CountKey{e.Layer, e.Kind, e.Allowed, e.Reason}]++
	for ch, f := range l.followers {
		select {
		case ch <- e:
		default:
			f.lost++
		}
	}
}

// Recent returns the kept events, oldest first.
func (l *Log) Recent() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent()
}

func (l *Log) recent() []Event {
	out := make([]Event, 0, len(l.ring))
	start := uint64(0)
	if len(l.ring) == cap(l.ring) {
		start = l.next % uint64(cap(l.ring))
	}
	for i := range uint64(len(l.ring)) {
		out = append(out, l.ring[(start+i)%uint64(len(l.ring))])
	}
	return out
}

// Counts returns a copy of the counters.
func (l *Log) Counts() map[CountKey]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[CountKey]uint64, len(l.counts))
	for k, v := range l.counts {
		out[k] = v
	}
	return out
}

// Follow calls f for the kept events and then for each new one, until ctx is
// done or f returns false. No event is lost between the two unless f is slower
// than the events; lost tells how many were.
func (l *Log) Follow(ctx context.Context, f func(Event) bool) (lost uint64) {
	ch := make(chan Event, 1024)
	me := &follower{}
	l.mu.Lock()
	old := l.recent()
	l.followers[ch] = me
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.followers, ch)
		lost = me.lost
		l.mu.Unlock()
	}()
	for _, e := range old {
		if !f(e) {
			return
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-ch:
			if !f(e) {
				return
			}
		}
	}
}
