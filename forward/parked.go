// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/forward/relay"
)

// parked is the watch on a connection that is in the pool.
type parked struct {
	mu      sync.Mutex
	watcher *relay.EndWatcher
	c       *upstreamConn
	active  bool // in the watcher's list
	is      bool // in the pool
	ticks   int  // since it was put there
	id      uint64
}

// park has the end of a connection in the pool be noticed.
func (c *upstreamConn) park(w *relay.EndWatcher) {
	if c.http1 == nil || c.http1.src.Raw == nil {
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

func (p *parked) Tick() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.is || p.ticks > 0 {
		if p.is && p.id == 0 {
			p.id = p.watcher.Add(p.c.http1.src.Raw, unix.EPOLLIN|unix.EPOLLRDHUP, func(uint32) { p.c.idleEvent() }, false)
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
		p.watcher.Remove(p.c.http1.src.Raw, p.id)
		p.id = 0
	}
}
