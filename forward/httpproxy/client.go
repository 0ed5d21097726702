// SPDX-License-Identifier: Apache-2.0

// Package httpproxy serves the requests of HTTP connections: it reads them, has them
// decided, does what rules say, and passes them on to upstreams and their answers
// back. HTTP/1 has an engine of its own, HTTP/2 is net/http's.
package httpproxy

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/mirror"
	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Options are what a Server works with. All must be set.
type Options struct {
	Decider  downstream.Decider
	Dialer   upstream.Dialer
	Clusters *upstream.ClusterManager
	Limits   *limits.Limits
	// Originator has the values of credentials.
	Originator *originate.Originator
	Sink       flow.Sink
	// Observer and Tracer may be nil.
	Observer     flow.Observer
	Tracer       session.Tracer
	Observations *session.Observations
	Log          *slog.Logger
	// Rand draws weights, fault percentages and backoff jitter.
	Rand func() uint64
	// PeekTimeout bounds the head of a request, IdleTimeout how long nothing passes,
	// StallTimeout how long a client that owes bytes may be silent.
	PeekTimeout, IdleTimeout, StallTimeout time.Duration
	// MaxStreamDuration is how long a request, its answer and an upgrade may be under
	// way; 0: for ever.
	MaxStreamDuration time.Duration
	// RestAfter is for how long nothing passes between two requests before a
	// connection rests.
	RestAfter time.Duration

	Buffers  *relay.CopyBuffers
	Messages *http1.Buffers
	Watcher  *relay.EndWatcher
}

// Proxy serves the requests of HTTP connections. It is safe for concurrent use.
type Proxy struct {
	o Options

	handoff *handoff
	server  *http.Server
	served  chan struct{} // closed when server.Serve has returned

	requests    atomic.Uint64 // ever
	clock       clock
	clusters    *upstream.ClusterManager
	Mirrors     *mirror.Mirrors
	Retrying    upstream.RetryBudgets
	buffers     *relay.CopyBuffers
	messages    *http1.Buffers
	watcher     *relay.EndWatcher
	sweeper     *sweeper
	lingering   atomic.Bool
	safeRetries *policy.Retries
}

// New is ready to serve. Shutdown and Close end it.
func New(o Options) *Proxy {
	c := &Proxy{
		o: o, handoff: newHandoff(), served: make(chan struct{}), clusters: o.Clusters,
		buffers: o.Buffers, messages: o.Messages, watcher: o.Watcher, safeRetries: safeRetries(),
	}
	c.Mirrors = mirror.New(mirror.Options{Decider: o.Decider, Dialer: o.Dialer, Clusters: o.Clusters, Limits: o.Limits, Sink: o.Sink})
	c.sweeper = newSweeper(c)
	c.server = newHTTPServer(c)
	go func() {
		defer close(c.served)
		// Serve ends with ErrServerClosed only: handoff.Accept has no other.
		_ = c.server.Serve(c.handoff)
	}()
	return c
}

// Count is how many requests there were, ever.
func (c *Proxy) Count() uint64 { return c.requests.Load() }

// Recheck asks the Decider again about the copies that mirrors get. Requests are
// their sessions' to recheck.
func (c *Proxy) Recheck() { c.Mirrors.Recheck() }

// Linger lets clients go: a connection ends when it has no request under way
// (HTTP/1 with the next answer, HTTP/2 by GOAWAY). New ones are served.
func (c *Proxy) Linger() {
	c.lingering.Store(true)
	for _, h := range c.sweeper.all() {
		h.endIdle()
	}
	c.server.SetKeepAlivesEnabled(false)
}

// Shutdown takes no more connections of HTTP/2, and waits until those that there
// are have ended, or ctx has.
func (c *Proxy) Shutdown(ctx context.Context) error { return c.server.Shutdown(ctx) }

// Close ends everything that is left.
func (c *Proxy) Close() {
	c.Mirrors.Close()
	c.sweeper.close()
	_ = c.server.Close()
	<-c.served
}

// MemoryOf is what a connection takes of the memory beside its session.
func MemoryOf(multiplexed bool) int64 {
	memory := int64(HTTPMemory)
	if multiplexed {
		memory += DownWindow
	}
	return memory
}

// client is a session whose requests are served.
type client struct {
	*session.Session
	core *Proxy

	// requestsMu is held while something is done to requests under way.
	requestsMu sync.Mutex
	requests   map[*exchange]struct{}
	request    *exchange // of HTTP/1

	mu sync.Mutex
	// http1 is the connection as one of HTTP/1.
	http1  *http1Conn
	copies *mirror.ClientConns // nil: no mirror had a copy yet
}

// Pending is a connection that is still to be served.
type Pending interface {
	// Serve returns at the end of the connection, or when it rests: then resume is
	// called once, by anybody, when Serve is to be called again. nil: it never rests.
	Serve(resume func()) (rests bool)
}

// Open takes over a session, whose opening was decided by op, behind its first bytes.
// A connection of HTTP/2 is served by the http.Server, and is at its end when Open
// returns nil; one of HTTP/1 is to be served by the caller, who has less on the stack
// by then.
func (c *Proxy) Open(s *session.Session, op downstream.Admission, p *relay.Peeked, multiplexed bool) Pending {
	t := &client{Session: s, core: c}
	t.Ups.Multiplexed = multiplexed
	t.SetRequests(t)
	if !multiplexed {
		return t.openHTTP1(op, p)
	}
	t.serveHTTP2(op, p)
	return nil
}

// UpstreamLost tells a client of HTTP/1 that its upstream connection has ended, or
// that there is one again. HTTP/2 has other requests under way.
func (t *client) UpstreamLost(lost bool) {
	t.mu.Lock()
	h := t.http1
	t.mu.Unlock()
	if h != nil {
		h.upstreamLost(lost)
	}
}

// eachRequest calls do for each request under way, which does not end meanwhile.
func (t *client) eachRequest(do func(*exchange)) {
	t.requestsMu.Lock()
	defer t.requestsMu.Unlock()
	if t.request != nil {
		do(t.request)
	}
	for x := range t.requests {
		do(x)
	}
}

// addRequest makes x known to recheck; call it before x is decided.
func (t *client) addRequest(x *exchange) {
	t.requestsMu.Lock()
	defer t.requestsMu.Unlock()
	if x.h1 != nil {
		t.request = x
		return
	}
	if t.requests == nil {
		t.requests = make(map[*exchange]struct{})
	}
	t.requests[x] = struct{}{}
}

func (t *client) removeRequest(x *exchange) {
	t.requestsMu.Lock()
	defer t.requestsMu.Unlock()
	if t.request == x {
		t.request = nil
	}
	delete(t.requests, x)
}

// Abort ends the requests under way. The connection is about to be closed, of which one
// that rests would not learn.
func (t *client) Abort(cause error) {
	t.eachRequest(func(x *exchange) { x.cancel(cause) })
	t.mu.Lock()
	h := t.http1
	t.mu.Unlock()
	if h != nil {
		h.speaks(0)
	}
}

// Recheck ends the requests that the newest policy denies, and those to what nobody
// declares any more, but for a workload that is only watched.
func (t *client) Recheck() {
	watched := t.Info.Mode == policy.Audit
	t.eachRequest(func(x *exchange) {
		if now := t.core.o.Decider.HTTP(&t.Info, &x.req); now.Verdict == policy.Deny || now.Nowhere() && !watched {
			x.cancel(errPolicyChanged)
		}
	})
}
