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

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Bounds of the upstream pools.
const (
	maxPools               = 1024
	maxIdlePerUpstream     = 128
	idleUpstreamTimeout    = 90 * time.Second
	continueTimeout        = time.Second
	maxResponseHeaderBytes = 256 << 10
)

// poolKey says which requests may share upstream connections. The policy is
// part of it: no workload rides on a connection that another policy opened.
type poolKey struct {
	layer  flow.Layer
	policy policy.PolicyID
	host   string
	port   uint16
	http2  bool
	// endpoint and name are the first ones: the same host may be reached at
	// other places by a route.
	endpoint netip.AddrPort
	name     string
	// subset and socket tell parts of one host and port apart.
	subset, socket string
	// dst is set for upstreams without addresses or names of their own, where
	// the workload's own choice is dialled.
	dst netip.AddrPort
}

// pools holds one http.Transport for each key.
type pools struct {
	core *Core

	mu   sync.Mutex
	m    map[poolKey]*pool
	tick uint64
}

type pool struct {
	transport *http.Transport
	used      uint64 // the tick of the last use
}

func newPools(c *Core) *pools { return &pools{core: c, m: make(map[poolKey]*pool)} }

func (p *pools) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.m)
}

// get returns the transport for requests of t to u.
func (p *pools) get(t *conn, u *policy.Upstream, http2 bool) *http.Transport {
	key := poolKey{layer: t.info.Layer, policy: t.info.Policy, host: u.Host, port: u.Port, http2: http2, subset: u.Subset}
	switch {
	case len(u.Endpoints) > 0:
		key.endpoint, key.socket = u.Endpoints[0].Addr, u.Endpoints[0].Unix
	case len(u.Names) > 0:
		key.name = u.Names[0].Name
	default:
		key.dst = t.info.Dst
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tick++
	if have, ok := p.m[key]; ok {
		have.used = p.tick
		return have.transport
	}
	if len(p.m) >= maxPools {
		p.dropOldest()
	}
	fresh := &pool{transport: p.core.newTransport(http2), used: p.tick}
	p.m[key] = fresh
	return fresh.transport
}

// dropOldest forgets the pool that was not used for the longest time. Its
// requests under way are not disturbed.
func (p *pools) dropOldest() {
	var oldest poolKey
	least := uint64(1<<64 - 1)
	for key, have := range p.m {
		if have.used < least {
			oldest, least = key, have.used
		}
	}
	p.m[oldest].transport.CloseIdleConnections()
	delete(p.m, oldest)
}

// closeIdle forgets all pools and closes their idle connections; those in use
// go when they become idle.
func (p *pools) closeIdle() {
	p.mu.Lock()
	old := p.m
	p.m = make(map[poolKey]*pool)
	p.mu.Unlock()
	for _, have := range old {
		// Without keep-alives a connection in use is closed after its response.
		have.transport.CloseIdleConnections()
	}
}

// newTransport returns a transport that is as transparent as can be: no proxy
// of our environment, no compression of our own, dialling through the Dialer.
func (c *Core) newTransport(http2 bool) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	return &http.Transport{
		Protocols:              &protocols,
		DialContext:            c.dialTarget,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdlePerUpstream,
		IdleConnTimeout:        idleUpstreamTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxResponseHeaderBytes,
	}
}

// target is what a transport's dial is for.
type target struct {
	conn     *Conn
	upstream *policy.Upstream
}

type targetKey struct{}

func withTarget(ctx context.Context, c *Conn, u *policy.Upstream) context.Context {
	return context.WithValue(ctx, targetKey{}, &target{conn: c, upstream: u})
}

// dialError is an error of the Dialer: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func isDialError(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}

// dialTarget is the transports' DialContext. The address that net/http made
// up from the URL means nothing here.
func (c *Core) dialTarget(ctx context.Context, _, _ string) (net.Conn, error) {
	to, ok := ctx.Value(targetKey{}).(*target)
	if !ok {
		return nil, errors.New("forward: dial without a target")
	}
	ctx, cancel := context.WithTimeout(ctx, c.connectTimeout(to.upstream))
	defer cancel()
	stop := context.AfterFunc(c.ctx, cancel) // net/http dials on when the request is gone
	defer stop()
	nc, err := c.o.Dialer.Dial(ctx, to.conn, to.upstream)
	if err != nil {
		return nil, &dialError{err}
	}
	return nc, nil
}
