// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"context"
	"slices"
	"sync"

	"github.com/egressd/egressd/policy"
)

// Log is a Sink that keeps the newest events, counts decisions by layer and
// reason, and lets followers read along. When it is full, who has more than a
// fair share of it loses its oldest event: a workload that floods it loses its
// own events, not those of others, and what was allowed does not push out what
// was denied. The zero value is not usable; see NewLog.
type Log struct {
	mu   sync.Mutex
	size int
	// kept are the events, oldest first. Those that were dropped from the
	// middle leave a gap, which is closed now and then.
	kept   []slot
	live   int
	next   uint64 // number of the next event
	shares map[share]*queue
	recent *queue // of the newest event, nil: look for it
	counts map[CountKey]*uint64
	// last is what the newest event was counted by: most are like the one before, and
	// need not be looked for.
	last struct {
		key   CountKey
		count *uint64
	}
	// followers are woken when there is something to read.
	followers map[chan struct{}]bool
}

// slot has an event, or nil where one was.
type slot struct {
	number uint64
	event  *Event
}

// share is what takes part in the division of the log.
type share struct {
	workload string
	denied   bool
}

// queue has the numbers of a share's events, oldest first.
type queue struct {
	share   share
	numbers []uint64
}

// CountKey is what decisions are counted by.
type CountKey struct {
	Layer   Layer
	Kind    Moment
	Allowed bool
	Reason  policy.Reason
}

// NewLog makes a Log that keeps the newest size events.
func NewLog(size int) *Log {
	return &Log{
		size:      max(size, 1),
		shares:    map[share]*queue{},
		counts:    map[CountKey]*uint64{},
		followers: map[chan struct{}]bool{},
	}
}

// Record keeps a copy of e and counts it; one that stands for several counts as many.
func (l *Log) Record(e *Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.count(CountKey{e.Layer, e.Kind, e.Allowed, e.Reason}) += uint64(max(e.More, 1))
	s := share{e.Workload, e.Denied()}
	q := l.of(s)
	var kept *Event
	if l.live >= l.size {
		loser := l.victim(q)
		kept = l.drop(loser)
		if len(loser.numbers) == 0 && loser != q {
			delete(l.shares, loser.share)
			l.recent = nil
		}
	}
	if kept == nil {
		kept = new(Event)
	}
	*kept = *e // readers have copies
	kept.Number = l.next + 1
	l.kept = append(l.kept, slot{l.next, kept})
	q.numbers = append(q.numbers, l.next)
	l.live++
	l.next++
	if len(l.kept) > 2*l.size {
		l.kept = slices.DeleteFunc(l.kept, func(s slot) bool { return s.event == nil })
	}
	for wake := range l.followers {
		select {
		case wake <- struct{}{}:
		default: // it has been woken
		}
	}
}

// of is the queue of a share.
func (l *Log) of(s share) *queue {
	if l.recent != nil && l.recent.share == s {
		return l.recent
	}
	q := l.shares[s]
	if q == nil {
		q = &queue{share: s}
		l.shares[s] = q
	}
	l.recent = q
	return q
}

// count is the counter of what k says.
func (l *Log) count(k CountKey) *uint64 {
	if l.last.count != nil && l.last.key == k {
		return l.last.count
	}
	n := l.counts[k]
	if n == nil {
		n = new(uint64)
		l.counts[k] = n
	}
	l.last.key, l.last.count = k, n
	return n
}

// victim is who loses an event for one of q: q itself when it has its fair
// share already, else who has most.
func (l *Log) victim(q *queue) *queue {
	if len(q.numbers) >= max(l.size/len(l.shares), 1) {
		return q
	}
	most := q
	for _, other := range l.shares {
		if len(other.numbers) > len(most.numbers) {
			most = other
		}
	}
	return most
}

// drop forgets the oldest event of a share, and returns where it was.
func (l *Log) drop(q *queue) (was *Event) {
	if at, ok := l.find(q.numbers[0]); ok {
		was, l.kept[at].event = l.kept[at].event, nil
		l.live--
	}
	// Appending moves what is left to the front of a new array.
	q.numbers = q.numbers[1:]
	return was
}

// find returns where the event with a number, or the first one after it, is.
func (l *Log) find(number uint64) (int, bool) {
	// Most are where they would be if none between had been taken out.
	if len(l.kept) > 0 && number >= l.kept[0].number {
		if at := number - l.kept[0].number; at < uint64(len(l.kept)) && l.kept[at].number == number {
			return int(at), true
		}
	}
	return slices.BinarySearchFunc(l.kept, number, func(s slot, n uint64) int {
		switch {
		case s.number < n:
			return -1
		case s.number > n:
			return 1
		}
		return 0
	})
}

// batch is how many events are read at a time: the log is not copied for a
// reader, who may be slow.
const batch = 64

// read fills buf with the events from a number on, and returns how many there
// are, the number to go on with, and how many on the way are gone.
func (l *Log) read(from uint64, buf *[batch]Event) (n int, next, gone uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, _ := l.find(from)
	next = from
	for ; at < len(l.kept) && n < batch; at++ {
		if s := l.kept[at]; s.event != nil {
			buf[n], next = *s.event, s.number+1
			n++
		}
	}
	return n, next, next - from - uint64(n)
}

// End is the number that the next event will have.
func (l *Log) End() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// Each calls f for the events that are kept now, oldest first, until it
// returns false. Those that are pushed out meanwhile are left out.
func (l *Log) Each(f func(Event) bool) {
	var buf [batch]Event
	end := l.End()
	for from := uint64(0); ; {
		n, next, _ := l.read(from, &buf)
		for _, e := range buf[:n] {
			if !f(e) {
				return
			}
		}
		if from = next; n < batch || from >= end {
			return
		}
	}
}

// Recent returns the kept events, oldest first.
func (l *Log) Recent() []Event {
	var out []Event
	l.Each(func(e Event) bool { out = append(out, e); return true })
	return out
}

// Counts returns a copy of the counters.
func (l *Log) Counts() map[CountKey]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[CountKey]uint64, len(l.counts))
	for k, v := range l.counts {
		out[k] = *v
	}
	return out
}

// Follow calls f for each event from a number on (see End), until ctx is done or
// f returns false. When f is so slow that events are pushed out before it has
// had them, it has an event of the kind Lost in their place.
func (l *Log) Follow(ctx context.Context, from uint64, f func(Event) bool) {
	wake := make(chan struct{}, 1)
	l.mu.Lock()
	l.followers[wake] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.followers, wake)
		l.mu.Unlock()
	}()
	var buf [batch]Event
	for {
		n, next, gone := l.read(from, &buf)
		from = next
		if gone > 0 && !f(Event{Time: buf[0].Time, Kind: Lost, More: int(gone), Number: buf[0].Number - 1}) {
			return
		}
		for _, e := range buf[:n] {
			if !f(e) {
				return
			}
		}
		if n > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
	}
}
