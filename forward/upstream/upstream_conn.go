// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/frames"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/policy"
)

// HTTPConn is a connection to an upstream.
type HTTPConn struct {
	net.Conn
	Client *http.ClientConn   // HTTP/2
	guard  *frames.FloodGuard // of it
	HTTP1  *HTTP1             // HTTP/1
	Peer   netip.AddrPort
	Key    ConnKey
	memory int64
	// sharing is how long it may wait in the pool, shared whether it may be
	// there, most how many requests it may serve; 0: any number.
	sharing time.Duration
	shared  bool
	most    int
	// held pays for it: the client's lease, or one of its own where others may use it.
	held *limits.Lease
	// ping is what its DestinationRule says of PINGs; nil: nothing.
	ping *policy.HTTP2Keepalive
	// mostStreams is how many requests of HTTP/2 there may be at once; 0: as many
	// as the upstream takes.
	mostStreams int
	// of is the service that it is a connection of; nil: it is not counted.
	of   *Balanced
	last *time.Timer // nil: it may be open for ever
	// young is where it goes, until the kernel looks after it: see endure.
	young *policy.Upstream
	// generation is what now was before it was dialled: see outdated.
	generation uint64
	now        *atomic.Uint64

	// No method of client is called with mu: net/http closes the connection
	// with locks of its own.
	mu      sync.Mutex
	owner   *Conns      // nil: in the pool, or gone
	pool    *pool       // while it is there
	at      poolKey     // where it is there; the pool's to read and write
	streams int         // requests under way
	served  int         // requests, ever
	private atomic.Bool // somebody has authenticated on it
	ended   bool        // it serves no more requests
	expiry  *time.Timer
	expires bool // expiry runs
	// idleFor is how long it may be idle, from idleSince on; 0: for ever.
	idleSince time.Time
	idleFor   time.Duration
	closed    atomic.Bool
	watch     parked

	Sent atomic.Int64 // bytes of the request of HTTP/1 that is under way
	// Answered: an answer has come, and so have the settings of HTTP/2.
	Answered atomic.Bool
}

// fits says whether requests for key may use c. Who has authenticated goes on
// where this was done.
func (c *HTTPConn) fits(key *ConnKey) bool {
	return c.Key == *key || c.isPrivate() && c.Key.ServiceKey == key.ServiceKey
}

// LeadsElsewhere says that c leads to another endpoint than the one that was drawn, because
// somebody has authenticated there.
func (c *HTTPConn) LeadsElsewhere(drawn *policy.Upstream) bool {
	return c.isPrivate() && c.Key != KeyOf(drawn, c.Key.HTTP2)
}

// endure has the kernel notice that the upstream is gone. Its owner calls it, or who
// makes it.
func (c *HTTPConn) endure() {
	if c.young != nil {
		setKeepAlive(c.Conn, c.young)
		SetUserTimeout(c.Conn)
		c.young = nil
	}
}

// outdated says whether the policy has changed since c was dialled. Where it goes was
// judged by the one before, so c serves the requests that it has, and no others.
func (c *HTTPConn) outdated() bool { return c.now != nil && c.now.Load() != c.generation }

// claim takes the room for one request, as far as is known without asking the
// transport: see admits.
func (c *HTTPConn) claim() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.closed.Load() || c.streams > 0 && !c.Key.HTTP2 {
		return false
	}
	c.idleFor = 0
	c.streams++
	if c.served++; c.served == c.most {
		c.ended = true
	}
	return true
}

// retire has nobody claim c any more; false: somebody has, or it is about to be closed.
func (c *HTTPConn) retire() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams > 0 || c.ended {
		return false
	}
	c.ended = true
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
func (c *HTTPConn) admits() bool {
	c.watch.end()
	if c.HTTP1 != nil {
		return true
	}
	room := 1
	if c.Client.Err() != nil {
		room = 0
	} else if c.Key.HTTP2 {
		if room = c.allowed(); room == assumedStreams && !c.Answered.Load() {
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
func (c *HTTPConn) allowed() int {
	for {
		free, under := c.Client.Available(), c.Client.InFlight()
		if c.Client.Available() == free && c.Client.InFlight() == under {
			return free + under
		}
	}
}

// Used says whether c had served requests before the one at hand.
func (c *HTTPConn) Used() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.served > 1
}

// done ends a request. busy: there are others; good: there may be. Nobody claims
// what is neither: it is about to be closed.
func (c *HTTPConn) done() (busy, good bool) {
	if c.HTTP1 != nil {
		good = c.HTTP1.usable()
		c.HTTP1.release(good)
	} else {
		// It has room again when it has forgotten the last streams, which may
		// take a moment more.
		good = c.Client.Err() == nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams--
	// Asked after the request is over: Recheck closes what is not busy itself.
	busy, good = c.streams > 0, good && !c.ended && !c.outdated()
	c.ended = c.ended || !busy && !good
	return busy, good
}

func (c *HTTPConn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams > 0
}

// Finish says that c serves no more requests.
func (c *HTTPConn) Finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
}

// Interrupt ends what waits for the upstream. The connection is of no use any more.
func (c *HTTPConn) Interrupt() {
	if c.HTTP1 != nil {
		c.Finish()
		_ = c.Conn.SetDeadline(relay.LongAgo) // fails on a closed connection, which is as good
	}
}

// SetPrivate says that somebody authenticated on c, or is about to.
func (c *HTTPConn) SetPrivate() { c.private.Store(true) }

func (c *HTTPConn) isPrivate() bool { return c.private.Load() }

// Shares says whether the pool may have c.
func (c *HTTPConn) Shares() bool { return c.shared && !c.isPrivate() }

// setOwner says whose c is: a downstream connection's, or the pool's.
func (c *HTTPConn) setOwner(p *Conns, in *pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner, c.pool = p, in
}

// expireAfter closes c when nobody has claimed it for d. A timer that runs from an
// earlier time is left to look again: claims are many, and each would stop it.
func (c *HTTPConn) expireAfter(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams > 0 || c.closed.Load() {
		return
	}
	c.idleSince, c.idleFor = time.Now(), d
	switch {
	case c.expires:
	case c.expiry == nil:
		c.expires, c.expiry = true, time.AfterFunc(d, c.expire)
	default:
		c.expires = true
		c.expiry.Reset(d)
	}
}

// expire closes c if its time is over.
func (c *HTTPConn) expire() {
	c.mu.Lock()
	if c.idleFor == 0 || c.closed.Load() { // it is in use, or somebody's own again
		c.expires = false
		c.mu.Unlock()
		return
	}
	if left := c.idleFor - time.Since(c.idleSince); left > 0 {
		c.expiry.Reset(left)
		c.mu.Unlock()
		return
	}
	c.expires, c.ended = false, true // nobody claims it any more
	c.mu.Unlock()
	c.Close()
}

// CloseWrite ends the sending side.
func (c *HTTPConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Read is for HTTP/2. An upstream that floods is read no more.
func (c *HTTPConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.guard != nil {
		if flood := c.guard.Received(b[:n]); flood != nil {
			n, err = 0, flood
		}
	}
	if err != nil && !c.closed.Load() {
		c.forget(true) // the transport closes it when it has seen this
	}
	return n, err
}

// Write is for HTTP/2.
func (c *HTTPConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if c.guard != nil {
		c.guard.Sent(b[:n])
	}
	return n, err
}

// IdleEvent is called when something is to be read while nobody has asked for
// anything: the end, or an answer to nothing, behind which no later one can be
// trusted.
func (c *HTTPConn) IdleEvent() {
	c.mu.Lock()
	if c.streams > 0 || c.ended || c.HTTP1.Quiet() {
		c.mu.Unlock()
		return
	}
	c.ended = true
	c.mu.Unlock()
	c.forget(true)
	c.Close()
}

// forget says that c is gone; lost, that the upstream has ended it.
func (c *HTTPConn) forget(lost bool) {
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
func (c *HTTPConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.watch.end()
	err := c.Conn.Close()
	c.forget(false)
	c.held.Give(1, c.memory)
	c.uncount()
	return err
}
