// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// Bounds of the upstream connections that nobody uses at the moment.
const (
	// maxIdle is how many a downstream connection, or a pool for one key, keeps.
	maxIdle             = 128
	idleUpstreamTimeout = 90 * time.Second
)

// ErrSpent: the upstream has ended a connection that it served requests on before it
// had a byte of this answer on it, as servers do with connections that are idle for
// too long.
var ErrSpent = errors.New("the upstream ended the connection, which was used before")

// Dialer connects to upstreams, at addresses that it resolved and checked
// itself.
type Dialer interface {
	// Dial connects to u for c. u's endpoints and names are tried in their order;
	// among the addresses of a name, c.Dst's is preferred. Errors for which
	// nothing was sent wrap dial.ErrConnect or dial.ErrResolve; a refusal by
	// address rules wraps dial.ErrAddress, one because of where an endpoint is
	// dial.ErrEndpoint, one because u asks for what is not there
	// dial.ErrUnsupported.
	Dial(ctx context.Context, c *downstream.Conn, u *policy.Upstream) (net.Conn, error)
	// Resolve returns the addresses of a name of u's that Dial would use for it.
	Resolve(ctx context.Context, c *downstream.Conn, u *policy.Upstream, name string) ([]netip.Addr, error)
}

// Conns are the upstream HTTP connections of one downstream connection. No
// other uses them: who authenticated on a connection, what it has been told and
// which address it dialled is the client's own. They end with it, and it ends
// with the last of them. Where sharing is asked for, the pool has those that are
// not in use.
type Conns struct {
	m    *ClusterManager
	info *downstream.Conn
	held *limits.Lease
	down downstreamConn
	// Multiplexed: the downstream connection is of HTTP/2; set before the first
	// request.
	Multiplexed bool

	mu      sync.Mutex
	open    []*HTTPConn
	dialing map[ConnKey]chan struct{} // HTTP/2 connections on their way
	closed  bool
	lost    bool // down was told so
	pooled  *pooled
	// proved: a connection has ended on which the client had authenticated itself.
	proved bool
}

// downstreamConn is told of its upstream connections.
type downstreamConn interface {
	// UpstreamLost says that the upstream has ended the last connection, or that
	// there is one again.
	UpstreamLost(lost bool)
}

// NewConns has no connections yet. What they take is held's, which is info's.
func (m *ClusterManager) NewConns(info *downstream.Conn, held *limits.Lease, down downstreamConn) *Conns {
	return &Conns{m: m, info: info, held: held, down: down}
}

// Sharing says whether connections to u may serve other downstream connections
// when this one does not need them, and how long they may wait for one: on the
// listeners of Gateways, and where a DestinationRule sets the idle timeout of
// the connection pool, which connections of one client do not have.
func (p *Conns) Sharing(u *policy.Upstream) (idle time.Duration, ok bool) {
	if t := u.Traffic; t != nil && t.ProxyProtocol != 0 {
		return idleUpstreamTimeout, false // a connection is one client's
	} else if t != nil && t.Pool != nil {
		switch p := t.Pool; {
		case p.HTTPIdleTimeout > 0:
			return p.HTTPIdleTimeout, true
		case p.MaxConnections > 0: // or who has one would keep it from others
			return idleUpstreamTimeout, true
		}
	}
	return idleUpstreamTimeout, p.m.o.Share
}

// Ready returns a connection for one request to u that is there, nil: it takes some
// time to have one. It is to be released.
func (p *Conns) Ready(u *policy.Upstream, http2, fresh bool) *HTTPConn {
	if fresh {
		return nil
	}
	key := KeyOf(u, http2)
	if c := p.claimed(&key); c != nil {
		return c
	}
	if _, ok := p.Sharing(u); ok && !http2 && !p.hasProved() {
		return p.m.pool.take(p, &key)
	}
	return nil
}

// claimed returns a connection with room for a request, which it has taken.
func (p *Conns) claimed(key *ConnKey) *HTTPConn {
	for i := 0; ; {
		var c *HTTPConn
		if c, i = p.claim(key, i); c == nil || c.admits() {
			return c
		}
	}
}

// Spent closes a connection of which the end is noticed when a request is to be
// sent on it.
func (p *Conns) Spent(c *HTTPConn) {
	if c.isPrivate() {
		p.mu.Lock()
		p.proved = true
		p.mu.Unlock()
	}
	c.forget(true)
	c.Close()
}

// Acquire returns a connection for one request to where it was drawn: one that is
// there, or a new one. fresh: a new one in any case. It is to be released.
func (p *Conns) Acquire(ctx context.Context, d *Drawn, http2, fresh bool) (*HTTPConn, error) {
	u := d.Upstream
	key := KeyOf(u, http2)
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
		return nil, ErrSpent // the client has to know
	}
	if _, ok := p.Sharing(u); ok && !fresh {
		if c := p.m.pool.take(p, &key); c != nil {
			return c, nil
		}
	}
	if d.Balanced != nil {
		return p.queue(ctx, d, key, fresh)
	}
	return p.connect(ctx, u, key)
}

// idle returns a connection with room for a request. For HTTP/2, wait is closed
// when one that is on its way has come; nil: the caller is to bring one.
func (p *Conns) idle(key ConnKey, fresh bool) (c *HTTPConn, wait <-chan struct{}) {
	if !fresh {
		if c := p.claimed(&key); c != nil {
			return c, nil
		}
	}
	if !key.HTTP2 {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if on := p.dialing[key]; on != nil {
		return nil, on
	}
	if p.dialing == nil {
		p.dialing = make(map[ConnKey]chan struct{})
	}
	p.dialing[key] = make(chan struct{})
	return nil, nil
}

// claim takes the first connection for key, from the i-th on; next is where to go
// on.
func (p *Conns) claim(key *ConnKey, i int) (c *HTTPConn, next int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; i < len(p.open); i++ {
		if c := p.open[i]; c.fits(key) && !c.outdated() && c.claim() {
			return c, i + 1
		}
	}
	return nil, i
}

func (p *Conns) hasProved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proved
}

// dialled wakes those who wait for what idle had the caller bring.
func (p *Conns) dialled(key ConnKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.dialing[key])
	delete(p.dialing, key)
}

// connect makes a connection, with room taken for one request.
func (p *Conns) connect(ctx context.Context, u *policy.Upstream, key ConnKey) (_ *HTTPConn, err error) {
	c := &HTTPConn{Key: key, held: p.held, generation: p.m.generation.Load(), now: &p.m.generation}
	if key.HTTP2 {
		c.memory = upWindow
	}
	if c.sharing, c.shared = p.Sharing(u); c.shared {
		c.held = limits.NewLease(p.m.o.Limits, p.info.Owner())
	}
	if u.Traffic != nil && u.Traffic.Pool != nil {
		c.most, c.mostStreams = u.Traffic.Pool.MaxRequestsPerConn, u.Traffic.Pool.MaxConcurrentStreams
		c.ping = u.Traffic.Pool.HTTP2Keepalive
	}
	if err := c.held.Take(1, c.memory); err != nil {
		return nil, &DialError{Err: err}
	}
	dial, cancel := context.WithTimeout(ctx, p.m.ConnectTimeout(u))
	defer cancel()
	if c.Conn, err = p.m.dial(dial, p.info, u, ALPN(key.HTTP2)); err != nil {
		c.held.Give(1, c.memory)
		at := TriedAt(err)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, &DialError{err, at}
	}
	c.young = u
	if c.shared || p.Multiplexed || key.HTTP2 || !p.m.o.Watcher.Watches() {
		c.endure() // nobody looks later, as Endure does
	}
	c.lastFor(u)
	c.Peer = relay.AddrPort(c.Conn.RemoteAddr())
	if err := p.m.speak(ctx, c); err != nil {
		c.Close()
		return nil, &DialError{err, c.Peer}
	}
	// Others see it when it is added, and it has room for one at first.
	if !c.claim() || !c.admits() || !p.add(c) {
		c.Close()
		return nil, &DialError{ErrAtOnce, c.Peer}
	}
	return c, nil
}

// ErrAtOnce: a connection ended before a request could be sent.
var ErrAtOnce = fmt.Errorf("%w: it ended the connection at once", dial.ErrConnect)

// add makes c one of p's; false: p is closed.
func (p *Conns) add(c *HTTPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	c.setOwner(p, nil)
	p.open = append(p.open, c)
	if p.lost {
		p.lost = false
		p.down.UpstreamLost(false)
	}
	return true
}

// remove forgets c, and says whether it was one of p's. lost says that it was the
// upstream that ended it: with the last one, the downstream connection ends.
func (p *Conns) remove(c *HTTPConn, lost bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, have := range p.open {
		if have == c {
			last := len(p.open) - 1
			p.open[i], p.open[last] = p.open[last], nil
			p.open = p.open[:last]
			if lost && last == 0 && !p.closed {
				p.lost = true
				p.down.UpstreamLost(true)
			}
			return true
		}
	}
	return false
}

// Release is called when a request on c is over. A connection that can't be used
// again is closed; others stay, or go to the pool.
func (p *Conns) Release(c *HTTPConn) {
	busy, good := c.done()
	defer c.freed()
	switch {
	case busy:
	case !good:
		if c.outdated() && c.isPrivate() {
			p.remove(c, true) // as CloseIdle does
		}
		c.Close()
	case c.Shares():
		p.m.pool.park(p, c)
	case p.full():
		c.Close()
	case p.Multiplexed:
		c.expireAfter(idleUpstreamTimeout) // of many requests at once, few may follow
		c.park(p.m.o.Watcher)
	}
}

// Endure has connections that live on since the last time be looked after by the kernel,
// which five system calls for each would be too much for those of one request.
func (p *Conns) Endure() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.endure()
	}
}

func (p *Conns) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed || len(p.open) > maxIdle
}

// CloseIdle closes what is not in use. A client that authenticated itself on
// such a connection has to know.
func (p *Conns) CloseIdle() {
	for _, c := range p.List() {
		if c.busy() {
			continue
		}
		if c.isPrivate() {
			p.remove(c, true)
		}
		c.Close()
	}
}

// Close closes all connections, in use or not, and those still to come.
func (p *Conns) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for _, c := range p.List() {
		c.Close()
	}
}

// List are the connections of this moment.
func (p *Conns) List() []*HTTPConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*HTTPConn(nil), p.open...)
}
