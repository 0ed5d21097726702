// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/forward/relay"
)

// parked is the watch on a connection that is in the pool.
type parked struct {
	mu      sync.Mutex
	watcher *relay.EndWatcher
	c       *HTTPConn
	active  bool // in the watcher's list
	is      bool // in the pool
	ticks   int  // since it was put there
	id      uint64
}

// park has the end of a connection in the pool be noticed.
func (c *HTTPConn) park(w *relay.EndWatcher) {
	if c.HTTP1 == nil || c.HTTP1.Stream.Raw == nil {
		return
	}
	p := &c.watch
	p.mu.Lock()
	p.watcher, p.c, p.is, p.ticks = w, c, true, 0
	add := !p.active
	p.active = true
	p.mu.Unlock()
	if add {
		w.Activate(p)
	}
}

// Tick has the connection watched when it has been in the pool for a while.
func (p *parked) Tick() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.is || p.ticks > 0 {
		if p.is && p.id == 0 {
			p.id = p.watcher.Add(p.c.HTTP1.Stream.Raw, unix.EPOLLIN|unix.EPOLLRDHUP, func(uint32) { p.c.IdleEvent() }, false)
		}
		p.active = false
		return false
	}
	p.ticks++
	return true
}

// end ends the watch.
func (p *parked) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.is = false; p.id != 0 {
		p.watcher.Remove(p.c.HTTP1.Stream.Raw, p.id)
		p.id = 0
	}
}
