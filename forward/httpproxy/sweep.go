// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"sync"
	"time"
)

// sweeper looks at all connections of HTTP/1 now and then, for those on which
// nothing has moved for too long. No connection has a timer of its own.
type sweeper struct {
	core  *Proxy
	every time.Duration

	mu     sync.Mutex
	timer  *time.Timer
	list   map[*http1Conn]struct{}
	closed bool
}

func newSweeper(c *Proxy) *sweeper {
	shortest := min(c.o.PeekTimeout, c.o.IdleTimeout, c.o.StallTimeout, c.o.RestAfter)
	if most := c.o.MaxStreamDuration; most > 0 {
		shortest = min(shortest, most)
	}
	return &sweeper{core: c, every: min(max(shortest/8, time.Millisecond), time.Second), list: map[*http1Conn]struct{}{}}
}

func (s *sweeper) add(h *http1Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list[h] = struct{}{}
	if len(s.list) > 1 || s.closed {
		return
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(s.every, s.sweep)
	} else {
		s.timer.Reset(s.every)
	}
}

func (s *sweeper) remove(h *http1Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.list, h)
}

// all are the connections of this moment.
func (s *sweeper) all() []*http1Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*http1Conn, 0, len(s.list))
	for h := range s.list {
		out = append(out, h)
	}
	return out
}

func (s *sweeper) sweep() {
	now := time.Now()
	for _, h := range s.all() {
		h.sweep(now)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) > 0 && !s.closed {
		s.timer.Reset(s.every)
	}
}

func (s *sweeper) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed = true; s.timer != nil {
		s.timer.Stop()
	}
}
