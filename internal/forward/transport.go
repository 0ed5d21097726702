// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/policy"
)

// Bounds of the upstream connections of one downstream connection.
const (
	maxTransports          = 32
	maxIdlePerUpstream     = 128
	idleUpstreamTimeout    = 90 * time.Second
	continueTimeout        = time.Second
	maxResponseHeaderBytes = 256 << 10
	// userTimeout is how long data may be unacknowledged, or a window shut,
	// before the peer counts as gone (TCP_USER_TIMEOUT); the kernel's own bound
	// is some 15 minutes.
	userTimeout = 2 * time.Minute
)

// HTTP/2 with upstreams. The windows are what one stream, and all of a
// connection, may send before the client has read it.
const (
	streamWindow = 256 << 10
	upWindow     = 512 << 10
	// pingAfter is how long an upstream connection may be silent before it is
	// asked. gRPC servers end connections that ask more often than every five
	// minutes.
	pingAfter   = 6 * time.Minute
	pingTimeout = 15 * time.Second
)

// upstreamKey says which requests of one downstream connection may share
// upstream connections.
type upstreamKey struct {
	host  string
	port  uint16
	http2 bool
	// endpoint and name are the first ones: the same host may be reached at
	// other places by a route.
	endpoint netip.AddrPort
	name     string
	// subset and socket tell parts of one host and port apart.
	subset, socket string
}

// upstreams are the upstream HTTP connections of one downstream connection. No
// other uses them: who authenticated on a connection, what it has been told and
// which address it dialled is the client's own. They end with it.
type upstreams struct {
	conn *conn

	mu     sync.Mutex
	m      map[upstreamKey]*pooled
	open   map[*upstreamConn]struct{}
	closed bool
	tick   uint64
}

type pooled struct {
	transport *http.Transport
	used      uint64 // the tick of the last use
}

func newUpstreams(t *conn) *upstreams { return &upstreams{conn: t} }

// get returns the transport for requests to u.
func (p *upstreams) get(u *policy.Upstream, http2 bool) *http.Transport {
	key := upstreamKey{host: u.Host, port: u.Port, http2: http2, subset: u.Subset}
	switch {
	case len(u.Endpoints) > 0:
		key.endpoint, key.socket = u.Endpoints[0].Addr, u.Endpoints[0].Unix
	case len(u.Names) > 0:
		key.name = u.Names[0].Name
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tick++
	if have, ok := p.m[key]; ok {
		have.used = p.tick
		return have.transport
	}
	if len(p.m) >= maxTransports {
		p.dropOldest()
	}
	if p.m == nil {
		p.m = make(map[upstreamKey]*pooled)
	}
	fresh := &pooled{transport: p.newTransport(http2), used: p.tick}
	p.m[key] = fresh
	return fresh.transport
}

// dropOldest forgets the transport that was not used for the longest time. Its
// requests under way are not disturbed.
func (p *upstreams) dropOldest() {
	var oldest upstreamKey
	least := uint64(1<<64 - 1)
	for key, have := range p.m {
		if have.used < least {
			oldest, least = key, have.used
		}
	}
	p.m[oldest].transport.CloseIdleConnections()
	delete(p.m, oldest)
}

// closeIdle forgets all transports and closes their idle connections; those in
// use go when they become idle, or with the downstream connection.
func (p *upstreams) closeIdle() {
	p.mu.Lock()
	old := p.m
	p.m = nil
	p.mu.Unlock()
	for _, have := range old {
		have.transport.CloseIdleConnections()
	}
}

// close closes all connections, idle or not, and those still to come.
func (p *upstreams) close() {
	p.mu.Lock()
	p.closed = true
	var open []*upstreamConn
	for c := range p.open {
		open = append(open, c)
	}
	p.mu.Unlock()
	p.closeIdle()
	for _, c := range open {
		c.Close()
	}
}

// add makes a connection one of p's.
func (p *upstreams) add(nc net.Conn, memory int64) (*upstreamConn, error) {
	c := &upstreamConn{Conn: nc, of: p, memory: memory}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	if p.open == nil {
		p.open = make(map[*upstreamConn]struct{})
	}
	p.open[c] = struct{}{}
	return c, nil
}

// upstreamConn is a connection to an upstream.
type upstreamConn struct {
	net.Conn
	of     *upstreams
	memory int64
	once   sync.Once
}

// CloseWrite ends the sending side.
func (c *upstreamConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *upstreamConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.of.mu.Lock()
		delete(c.of.open, c)
		c.of.mu.Unlock()
		c.of.conn.held.give(1, c.memory)
	})
	return err
}

// newTransport returns a transport that is as transparent as can be: no proxy
// of our environment, no compression of our own, dialling through the Dialer.
func (p *upstreams) newTransport(http2 bool) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	t := &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.dial(ctx, http2)
		},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdlePerUpstream,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxResponseHeaderBytes,
	}
	if p.conn.multiplexed {
		// Of many requests at once, few may follow.
		t.IdleConnTimeout = idleUpstreamTimeout
	}
	if http2 {
		t.HTTP2 = &http.HTTP2Config{
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: upWindow,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
		}
	}
	return t
}

// targetKey is the context key of the *policy.Upstream that a dial is for.
type targetKey struct{}

func withTarget(ctx context.Context, u *policy.Upstream) context.Context {
	return context.WithValue(ctx, targetKey{}, u)
}

// dialError is an error of the Dialer: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func isDialError(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}

// dial connects for a transport. The address that net/http made up from the URL
// means nothing here.
func (p *upstreams) dial(ctx context.Context, http2 bool) (_ net.Conn, err error) {
	u, ok := ctx.Value(targetKey{}).(*policy.Upstream)
	if !ok {
		return nil, errors.New("forward: dial without a target")
	}
	c := p.conn.core
	memory := int64(0)
	if http2 {
		memory = upWindow
	}
	if err := p.conn.held.take(1, memory); err != nil {
		return nil, &dialError{err}
	}
	defer func() {
		if err != nil {
			p.conn.held.give(1, memory)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, c.connectTimeout(u))
	defer cancel()
	// net/http dials on when the request is gone, but not beyond its connection.
	stop := context.AfterFunc(p.conn.ctx, cancel)
	defer stop()
	nc, err := c.o.Dialer.Dial(ctx, &p.conn.info, u)
	if err != nil {
		return nil, &dialError{err}
	}
	setUserTimeout(nc)
	up, err := p.add(nc, memory)
	if err != nil {
		nc.Close()
		return nil, &dialError{err}
	}
	return up, nil
}

// setUserTimeout has the kernel give up a TCP connection whose peer is gone.
func setUserTimeout(nc net.Conn) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return // closed: the first write shows it
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
}
