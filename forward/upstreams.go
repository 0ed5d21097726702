// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// Bounds of the upstream connections that nobody uses at the moment.
const (
	// maxIdle is how many a downstream connection, or a pool for one key, keeps.
	maxIdle             = 128
	idleUpstreamTimeout = 90 * time.Second
)

// errSpent: the upstream has ended a connection that it served requests on before it
// had a byte of this answer on it, as servers do with connections that are idle for
// too long.
var errSpent = errors.New("the upstream ended the connection, which was used before")

// serviceKey names what requests are for, upstreamKey where they are sent:
// requests of one downstream connection with the same upstreamKey share upstream
// connections.
type serviceKey struct {
	host  string
	port  uint16
	http2 bool
	// name and subset tell parts of one host and port apart.
	name, subset string
}

type upstreamKey struct {
	serviceKey
	// endpoint, or socket, is the one that was drawn.
	endpoint netip.AddrPort
	socket   string
}

func keyOf(u *policy.Upstream, http2 bool) upstreamKey {
	key := upstreamKey{serviceKey: serviceKey{host: u.Host, port: u.Port, http2: http2, subset: u.Subset}}
	switch {
	case len(u.Endpoints) > 0:
		key.endpoint, key.socket = u.Endpoints[0].Addr, u.Endpoints[0].Unix
	case len(u.Names) > 0:
		key.name = u.Names[0].Name
	}
	return key
}

// upstreams are the upstream HTTP connections of one downstream connection. No
// other uses them: who authenticated on a connection, what it has been told and
// which address it dialled is the client's own. They end with it, and it ends
// with the last of them. Where sharing is asked for, the pool has those that are
// not in use.
type upstreams struct {
	conn *conn

	mu      sync.Mutex
	open    []*upstreamConn
	dialing map[upstreamKey]chan struct{} // HTTP/2 connections on their way
	closed  bool
	// proved: a connection has ended on which the client had authenticated itself.
	proved bool
}

func newUpstreams(t *conn) *upstreams { return &upstreams{conn: t} }

// sharing says whether connections to u may serve other downstream connections
// when this one does not need them, and how long they may wait for one: on the
// listeners of Gateways, and where a DestinationRule sets the idle timeout of
// the connection pool, which connections of one client do not have.
func (p *upstreams) sharing(u *policy.Upstream) (idle time.Duration, ok bool) {
	if t := u.Traffic; t != nil && t.Pool != nil {
		switch p := t.Pool; {
		case p.HTTPIdleTimeout > 0:
			return p.HTTPIdleTimeout, true
		case p.MaxConnections > 0: // or who has one would keep it from others
			return idleUpstreamTimeout, true
		}
	}
	return idleUpstreamTimeout, p.conn.core.o.Share
}

// ready returns a connection for one request to u that is there, nil: it takes some
// time to have one. It is to be released.
func (p *upstreams) ready(u *policy.Upstream, http2, fresh bool) *upstreamConn {
	if fresh {
		return nil
	}
	key := keyOf(u, http2)
	if c := p.claimed(key); c != nil {
		return c
	}
	if _, ok := p.sharing(u); ok && !http2 {
		return p.conn.core.pool.take(p, key)
	}
	return nil
}

// claimed returns a connection with room for a request, which it has taken.
func (p *upstreams) claimed(key upstreamKey) *upstreamConn {
	for i := 0; ; {
		var c *upstreamConn
		if c, i = p.claim(key, i); c == nil || c.admits() {
			return c
		}
	}
}

// spent closes a connection of which the end is noticed when a request is to be
// sent on it.
func (p *upstreams) spent(c *upstreamConn) {
	if c.isPrivate() {
		p.mu.Lock()
		p.proved = true
		p.mu.Unlock()
	}
	c.forget(true)
	c.Close()
}

// acquire returns a connection for one request to where it was drawn: one that is
// there, or a new one. fresh: a new one in any case. It is to be released.
func (p *upstreams) acquire(ctx context.Context, d *drawn, http2, fresh bool) (*upstreamConn, error) {
	u := d.up
	key := keyOf(u, http2)
	for {
		c, wait := p.idle(key, fresh)
		if c != nil {
			return c, nil
		}
		if wait == nil {
			break
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if http2 {
		defer p.dialled(key)
	}
	if p.hasProved() {
		return nil, errSpent // the client has to know
	}
	if _, ok := p.sharing(u); ok && !fresh {
		if c := p.conn.core.pool.take(p, key); c != nil {
			return c, nil
		}
	}
	if d.of != nil {
		return p.queue(ctx, d, key, fresh)
	}
	return p.connect(ctx, u, key)
}

// idle returns a connection with room for a request. For HTTP/2, wait is closed
// when one that is on its way has come; nil: the caller is to bring one.
func (p *upstreams) idle(key upstreamKey, fresh bool) (c *upstreamConn, wait <-chan struct{}) {
	if !fresh {
		if c := p.claimed(key); c != nil {
			return c, nil
		}
	}
	if !key.http2 {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if on := p.dialing[key]; on != nil {
		return nil, on
	}
	if p.dialing == nil {
		p.dialing = make(map[upstreamKey]chan struct{})
	}
	p.dialing[key] = make(chan struct{})
	return nil, nil
}

// claim takes the first connection for key, from the i-th on; next is where to go
// on.
func (p *upstreams) claim(key upstreamKey, i int) (c *upstreamConn, next int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; i < len(p.open); i++ {
		if c := p.open[i]; c.fits(key) && c.claim() {
			return c, i + 1
		}
	}
	return nil, i
}

func (p *upstreams) hasProved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proved
}

// dialled wakes those who wait for what idle had the caller bring.
func (p *upstreams) dialled(key upstreamKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.dialing[key])
	delete(p.dialing, key)
}

// connect makes a connection, with room taken for one request.
func (p *upstreams) connect(ctx context.Context, u *policy.Upstream, key upstreamKey) (_ *upstreamConn, err error) {
	core := p.conn.core
	c := &upstreamConn{key: key, held: p.conn.held}
	if key.http2 {
		c.memory = upWindow
	}
	c.sharing, c.shared = p.sharing(u)
	if u.Traffic != nil && u.Traffic.Pool != nil {
		c.most, c.mostStreams = u.Traffic.Pool.MaxRequestsPerConn, u.Traffic.Pool.MaxConcurrentStreams
	}
	if err := c.held.take(1, c.memory); err != nil {
		return nil, &dialError{err}
	}
	dial, cancel := context.WithTimeout(ctx, core.connectTimeout(u))
	defer cancel()
	if c.Conn, err = core.o.Dialer.Dial(dial, &p.conn.info, u); err != nil {
		c.held.give(1, c.memory)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, &dialError{err}
	}
	setUserTimeout(c.Conn)
	keepalive(c.Conn, u)
	c.lastFor(u)
	c.peer = addrPort(c.Conn.RemoteAddr())
	if err := core.speak(ctx, c); err != nil {
		c.Close()
		return nil, &dialError{err}
	}
	// Others see it when it is added, and it has room for one at first.
	if !c.claim() || !c.admits() || !p.add(c) {
		c.Close()
		return nil, &dialError{errAtOnce}
	}
	return c, nil
}

// errAtOnce: a connection ended before a request could be sent.
var errAtOnce = fmt.Errorf("%w: it ended the connection at once", dial.ErrConnect)

// add makes c one of p's; false: p is closed.
func (p *upstreams) add(c *upstreamConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	c.setOwner(p, nil)
	p.open = append(p.open, c)
	p.conn.upstreamLost(false)
	return true
}

// remove forgets c. lost says that it was the upstream that ended it: with the
// last one, the downstream connection ends.
func (p *upstreams) remove(c *upstreamConn, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, have := range p.open {
		if have == c {
			last := len(p.open) - 1
			p.open[i], p.open[last] = p.open[last], nil
			p.open = p.open[:last]
			if lost && last == 0 && !p.closed {
				p.conn.upstreamLost(true)
			}
			return
		}
	}
}

// release is called when a request on c is over. A connection that can't be used
// again is closed; others stay, or go to the pool.
func (p *upstreams) release(c *upstreamConn) {
	busy, good := c.done()
	defer c.freed()
	switch {
	case busy:
	case !good:
		c.Close()
	case c.shares():
		p.conn.core.pool.park(p, c)
	case p.full():
		c.Close()
	case p.conn.multiplexed:
		c.expireAfter(idleUpstreamTimeout) // of many requests at once, few may follow
		c.park(p.conn.core.watcher)
	}
}

func (p *upstreams) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed || len(p.open) > maxIdle
}

// closeIdle closes what is not in use. A client that authenticated itself on
// such a connection has to know.
func (p *upstreams) closeIdle() {
	for _, c := range p.list() {
		if c.busy() {
			continue
		}
		if c.isPrivate() {
			p.remove(c, true)
		}
		c.Close()
	}
}

// close closes all connections, in use or not, and those still to come.
func (p *upstreams) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for _, c := range p.list() {
		c.Close()
	}
}

func (p *upstreams) list() []*upstreamConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*upstreamConn(nil), p.open...)
}
