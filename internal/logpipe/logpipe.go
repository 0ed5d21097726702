// SPDX-License-Identifier: Apache-2.0

// Package logpipe keeps a log that nobody reads from stopping who writes it: a
// pipe whose reader hangs would block, and one whose reader has gone would fail.
package logpipe

import (
	"io"
	"sync"
	"time"
)

// Writer passes whole records to another writer, from a goroutine of its own. Its
// methods are safe for concurrent use.
type Writer struct {
	to    io.Writer
	limit int
	// lost makes the record that says how many were dropped.
	lost func(n uint64) []byte

	mu      sync.Mutex
	wake    *sync.Cond // when something is waiting, or it is the end
	idle    *sync.Cond // when nothing is, and nothing is being written
	waiting []record
	size    int    // bytes that wait, or are being written
	gap     uint64 // records that were dropped, and of which nothing is said yet
	dropped uint64
	failing bool // the last write failed
	closing bool
	ended   chan struct{}
}

// record is something to write. It stands for a number of dropped records, or is
// one itself.
type record struct {
	text []byte
	gap  uint64
}

// New returns a Writer to w that holds at most limit bytes that w has not taken;
// what comes beyond that is dropped and counted. Once w takes records again, the
// one that lost makes of their number is written in their place; nil: none. The
// caller must call Close.
func New(w io.Writer, limit int, lost func(n uint64) []byte) *Writer {
	p := &Writer{to: w, limit: limit, lost: lost, ended: make(chan struct{})}
	p.wake, p.idle = sync.NewCond(&p.mu), sync.NewCond(&p.mu)
	go p.pass()
	return p
}

// Write takes one record, a copy of b, and never blocks. It never fails: who logs
// could do nothing about it.
func (p *Writer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing || p.size+len(b) > p.limit || p.gap > 0 && !p.hasRoom() {
		p.gap++
		p.dropped++
		return len(b), nil
	}
	p.fillGap()
	p.add(record{text: append([]byte(nil), b...)})
	return len(b), nil
}

// hasRoom says whether what comes after a gap is taken: it waits for half of the
// room, so that there are few gaps, and not one for each record that goes.
func (p *Writer) hasRoom() bool { return p.size <= p.limit/2 }

// fillGap says what is missing before what comes now. The caller holds mu.
func (p *Writer) fillGap() {
	if p.gap > 0 && p.lost != nil {
		p.add(record{p.lost(p.gap), p.gap})
	}
	p.gap = 0
}

func (p *Writer) add(r record) {
	p.waiting = append(p.waiting, r)
	p.size += len(r.text)
	p.wake.Signal()
}

// Dropped is how many records were lost: there was no room, or the other writer
// failed.
func (p *Writer) Dropped() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

// Idle says whether everything has been passed on.
func (p *Writer) Idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size == 0
}

// Flush waits until what was written has been passed on, for at most that long.
func (p *Writer) Flush(wait time.Duration) {
	late := false
	t := time.AfterFunc(wait, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.idle.Broadcast()
	})
	defer t.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.size > 0 && !late {
		p.idle.Wait()
	}
}

// Close passes on what waits, for at most that long, and ends the goroutine
// unless the other writer holds it. Later records are dropped.
func (p *Writer) Close(wait time.Duration) {
	p.mu.Lock()
	if !p.closing {
		p.fillGap()
	}
	p.closing = true
	p.wake.Signal()
	p.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-p.ended:
	case <-t.C:
	}
}

// pass is the goroutine.
func (p *Writer) pass() {
	defer close(p.ended)
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		// A gap that a failure made is told with the next record: that is when
		// the other writer is tried again.
		if p.hasRoom() && !p.failing && !p.closing {
			p.fillGap()
		}
		for len(p.waiting) == 0 {
			if p.closing {
				return
			}
			p.idle.Broadcast()
			p.wake.Wait()
		}
		r := p.waiting[0]
		p.waiting[0] = record{}
		p.waiting = p.waiting[1:]
		p.mu.Unlock()
		_, err := p.to.Write(r.text)
		p.mu.Lock()
		p.size -= len(r.text) // it took room until it was taken
		if p.failing = err != nil; !p.failing {
			continue
		}
		if p.gap += r.gap; r.gap == 0 {
			p.gap++
			p.dropped++
		}
	}
}
