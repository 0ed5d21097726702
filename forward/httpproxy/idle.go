// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/relay"
)

// stall ends an exchange in which nothing has moved for too long. Somebody who
// owes bytes has the stall timeout: a client that has begun a request and does
// not send the rest, or does not take an answer that is there, or an origin that
// does not take a request's body. Where nobody does, as between the messages of a
// stream or while an origin thinks, it is the idle timeout. Only what a body has
// moves something: framing, fields and padding do not, however often a byte of them
// comes. Where bodies move for ever, the exchange ends when it is as old as it may be.
type stall struct {
	x       *exchange    // from its beginning: it may be interrupted at once
	last    atomic.Int64 // when something moved, in nanoseconds since x.start
	writing atomic.Bool  // the answer, or an informational one, is waiting for the client
	began   atomic.Bool  // an answer has begun

	mu    sync.Mutex
	timer *time.Timer
	ended bool
	// untaken: it was not the client that a request's body waited for. Whoever knows
	// that the exchange was ended may read it.
	untaken bool
}

func (s *stall) start() {
	if s.x.h1 != nil {
		return // the sweeper looks
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(s.next(0), s.look)
}

// moved is called when bytes have passed in either direction.
func (s *stall) moved() {
	switch {
	case s.x == nil: // an answer to what is no request
	case s.x.h1 != nil:
		s.x.h1.moved()
	default:
		s.last.Store(int64(time.Since(s.x.start)))
	}
}

// check is look for HTTP/1, on whose connections nothing has moved for so long.
func (s *stall) check(quiet time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended && quiet >= s.limit() {
		s.expire(errStalled)
	}
}

// outlives ends an exchange of HTTP/1 that is older than it may be, and one that has
// become a tunnel.
func (s *stall) outlives(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.x.start) < s.x.core.o.MaxStreamDuration {
		return
	}
	if s.ended { // nobody watches a tunnel but for the bytes in it
		s.x.cancel(errTooOld)
		return
	}
	s.expire(errTooOld)
}

// stop ends the watch; when it returns, the exchange is not touched any more.
func (s *stall) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended = true; s.timer != nil {
		s.timer.Stop()
	}
}

// limit is how long nothing may move in the state of this moment.
func (s *stall) limit() time.Duration {
	o := &s.x.core.o
	body := s.x.body
	switch {
	case s.writing.Load():
		return o.StallTimeout
	case !s.began.Load() && body != nil && !body.Complete() && !isGRPC(s.x.r):
		return o.StallTimeout
	}
	return o.IdleTimeout
}

// next is when to look again: states change while nobody looks.
func (s *stall) next(quiet time.Duration) time.Duration {
	next := min(s.limit()-quiet, s.x.core.o.StallTimeout)
	if most := s.x.core.o.MaxStreamDuration; most > 0 {
		next = min(next, most-time.Since(s.x.start))
	}
	return max(next, time.Millisecond)
}

func (s *stall) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	age := time.Since(s.x.start)
	quiet := age - time.Duration(s.last.Load())
	switch most := s.x.core.o.MaxStreamDuration; {
	case most > 0 && age >= most:
		s.expire(errTooOld)
	case quiet >= s.limit():
		s.expire(errStalled)
	default:
		s.timer.Reset(s.next(quiet))
	}
}

// expire ends the exchange. s.mu is held.
func (s *stall) expire(cause error) {
	if b := s.x.body; b != nil && !s.untaken {
		s.untaken = !b.Complete() && !b.Awaited()
	}
	began := s.began.Load() // before the exchange knows, which answers that its time is over
	writing := s.writing.Load()
	s.x.cancel(cause)
	switch {
	case began || writing: // an informational answer
		s.x.w.SetWriteDeadline(relay.LongAgo) // a write that waits for the client would wait on
	case s.timer != nil:
		s.timer.Reset(s.x.core.o.StallTimeout) // so may that of its answer; the sweeper looks again
	}
}

// unblock ends a read of the request's body that waits for the client.
func (s *stall) unblock() {
	if x := s.x; x != nil && x.body != nil && !x.body.Complete() {
		x.w.SetReadDeadline(relay.LongAgo)
	}
}

// isGRPC: its requests are streams that may be silent for long on both sides,
// before an answer has begun as well.
func isGRPC(r *message.Incoming) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}
