// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// upstreamConn is a connection to an upstream.
type upstreamConn struct {
	net.Conn
	client *http.ClientConn // HTTP/2
	http1  *http1Up         // HTTP/1
	peer   netip.AddrPort
	key    upstreamKey
	memory int64
	// sharing is how long it may wait in the pool, shared whether it may be
	// there, most how many requests it may serve; 0: any number.
	sharing time.Duration
	shared  bool
	most    int
	// mostStreams is how many requests of HTTP/2 there may be at once; 0: as many
	// as the upstream takes.
	mostStreams int
	// of is the service that it is a connection of; nil: it is not counted.
	of   *balanced
	last *time.Timer // nil: it may be open for ever

	// No method of client is called with mu: net/http closes the connection
	// with locks of its own.
	mu      sync.Mutex
	owner   *upstreams // nil: in the pool, or gone
	pool    *pool      // while it is there
	at      poolKey    // where it is there; the pool's to read and write
	held    *lease
	streams int  // requests under way
	served  int  // requests, ever
	private bool // somebody has authenticated on it
	ended   bool // it serves no more requests
	paid    bool // what it has taken was given back
	expiry  *time.Timer
	expires bool // expiry runs
	closed  atomic.Bool
	watch   parked

	sent atomic.Int64 // bytes of the request of HTTP/1 that is under way
	// answered: an answer has come, and so have the settings of HTTP/2.
	answered atomic.Bool
}

// fits says whether requests for key may use c. Who has authenticated goes on
// where this was done.
func (c *upstreamConn) fits(key upstreamKey) bool {
	return c.key == key || c.isPrivate() && c.key.serviceKey == key.serviceKey
}

// claim takes the room for one request, as far as is known without asking the
// transport: see admits.
func (c *upstreamConn) claim() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.closed.Load() || c.streams > 0 && !c.key.http2 {
		return false
	}
	if c.expires && !c.expiry.Stop() {
		return false // it is being closed
	}
	c.expires = false
	c.streams++
	if c.served++; c.served == c.most {
		c.ended = true
	}
	return true
}

// assumedStreams is how many requests net/http takes an HTTP/2 upstream to serve at
// once before the upstream's settings have come. More than it serves in truth must
// not be on their way: servers refuse them, some as a fault of the client's.
const assumedStreams = 100

// admits asks the transport about what claim took. False: it is given back.
// Nothing is reserved with the transport: it counts reservations as requests that
// it waits for, and when an upstream turns out to take fewer than were reserved
// before its settings came, it waits for ever. HTTP/1 has one request at a time,
// which claim has seen to; that its upstream is still there is seen when the request
// is sent.
func (c *upstreamConn) admits() bool {
	c.watch.end()
	if c.http1 != nil {
		return true
	}
	room := 1
	if c.client.Err() != nil {
		room = 0
	} else if c.key.http2 {
		if room = c.allowed(); room == assumedStreams && !c.answered.Load() {
			room = 1
		}
		if c.mostStreams > 0 {
			room = min(room, c.mostStreams)
		}
	}
	c.mu.Lock() // not before: the transport may close c while it has its own lock
	defer c.mu.Unlock()
	if c.streams <= room {
		return true
	}
	c.streams--
	c.served--
	return false
}

// allowed is how many requests the transport would have on their way at once. It
// says so in two numbers that change between one question and the next.
func (c *upstreamConn) allowed() int {
	for {
		free, under := c.client.Available(), c.client.InFlight()
		if c.client.Available() == free && c.client.InFlight() == under {
			return free + under
		}
	}
}

// used says whether c had served requests before the one at hand.
func (c *upstreamConn) used() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.served > 1
}

// done ends a request. busy: there are others; good: there may be. Nobody claims
// what is neither: it is about to be closed.
func (c *upstreamConn) done() (busy, good bool) {
	if c.http1 != nil {
		good = c.http1.usable()
		c.http1.release(good)
	} else {
		// It has room again when it has forgotten the last streams, which may
		// take a moment more.
		good = c.client.Err() == nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams--
	busy, good = c.streams > 0, good && !c.ended
	c.ended = c.ended || !busy && !good
	return busy, good
}

func (c *upstreamConn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams > 0
}

// finish says that c serves no more requests.
func (c *upstreamConn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
}

// setPrivate says that somebody authenticated on c, or is about to.
func (c *upstreamConn) setPrivate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.private = true
}

func (c *upstreamConn) isPrivate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.private
}

// shares says whether the pool may have c.
func (c *upstreamConn) shares() bool { return c.shared && !c.isPrivate() }

// setOwner says whose c is: a downstream connection's, or the pool's.
func (c *upstreamConn) setOwner(p *upstreams, in *pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner, c.pool = p, in
}

// expireAfter closes c unless it is reserved before.
func (c *upstreamConn) expireAfter(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams == 0 && !c.closed.Load() {
		if c.expires = true; c.expiry != nil {
			c.expiry.Reset(d)
		} else {
			c.expiry = time.AfterFunc(d, func() { c.Close() })
		}
	}
}

// move has another lease pay for c.
func (c *upstreamConn) move(to *lease) error {
	if err := to.take(1, c.memory); err != nil {
		return err
	}
	c.mu.Lock()
	from, paid := c.held, c.paid
	if !paid {
		c.held = to
	}
	c.mu.Unlock()
	if paid {
		to.give(1, c.memory)
		return errAtOnce
	}
	from.give(1, c.memory)
	return nil
}

// CloseWrite ends the sending side.
func (c *upstreamConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Read is for HTTP/2.
func (c *upstreamConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !c.closed.Load() {
		c.forget(true) // the transport closes it when it has seen this
	}
	return n, err
}

// idleEvent is called when something is to be read while nobody has asked for
// anything: the end, or an answer to nothing, behind which no later one can be
// trusted.
func (c *upstreamConn) idleEvent() {
	c.mu.Lock()
	if c.streams > 0 || c.ended || c.http1.quiet() {
		c.mu.Unlock()
		return
	}
	c.ended = true
	c.mu.Unlock()
	c.forget(true)
	c.Close()
}

// forget says that c is gone; lost, that the upstream has ended it.
func (c *upstreamConn) forget(lost bool) {
	c.mu.Lock()
	owner, in := c.owner, c.pool
	c.owner, c.pool, c.ended = nil, nil, true
	if c.expires {
		c.expiry.Stop()
	}
	c.mu.Unlock()
	if owner != nil {
		owner.remove(c, lost)
	}
	if in != nil {
		in.remove(c)
	}
}

// Close closes the connection, and forgets it.
func (c *upstreamConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.watch.end()
	err := c.Conn.Close()
	c.forget(false)
	c.mu.Lock()
	held := c.held
	c.paid = true
	c.mu.Unlock()
	held.give(1, c.memory)
	c.uncount()
	return err
}
