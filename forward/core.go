// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/httpproxy"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Timeouts are those of a Core; zero means the default named beside it.
type Timeouts struct {
	// PeekTimeout bounds the first bytes of a connection (the whole
	// ClientHello, a request's header), in all and not for each read. 10 s.
	PeekTimeout time.Duration
	// SniffTimeout is how long a Sniff connection may be silent before it is
	// taken for a protocol in which the server speaks first. 300 ms.
	SniffTimeout time.Duration
	// ConnectTimeout bounds Dialer.Dial. 10 s.
	ConnectTimeout time.Duration
	// IdleTimeout ends what has been without a byte either way: spliced and
	// upgraded connections, HTTP connections between requests, and requests
	// whose origin is silent. One hour, as in Envoy.
	IdleTimeout time.Duration
	// StallTimeout ends a request whose client owes bytes: of its body, before
	// an answer has begun (gRPC excepted, whose streams may be silent), or in
	// taking an answer; or whose origin does not take its body. Five minutes, as
	// Envoy's stream_idle_timeout.
	StallTimeout time.Duration
	// MaxStreamDuration ends a request that has been under way for so long, with its
	// answer and what an upgrade has made of it, whatever moves. None, as in Envoy
	// (max_stream_duration).
	MaxStreamDuration time.Duration
	// RecycleTimeout is for how long nothing must have passed on a connection that
	// is closed when a workload has all that it may have. One minute.
	RecycleTimeout time.Duration
	// RestAfter is for how long a client of HTTP/1 must be silent between two requests
	// for its connection to give back its goroutine, and what requests need. Ten
	// seconds.
	RestAfter time.Duration
}

// Options are what a Core works with. Decider, Dialer and Sink must be set;
// a zero duration or count means the default named beside it.
type Options struct {
	Decider Decider
	Dialer  upstream.Dialer
	Sink    flow.Sink
	// Observer is told of what has ended, Tracer of requests; nil: nobody.
	Observer flow.Observer
	Tracer   session.Tracer
	Log      *slog.Logger // none: discarded

	Timeouts
	// Limits bound what connections and requests take. Some of its own: 131072
	// descriptors, 4 GiB.
	Limits *limits.Limits
	// Originator makes connections with TLS and the like; nil: upstreams that ask for
	// it are refused.
	Originator *originate.Originator
	// Share: upstream connections may serve several downstream connections, one
	// after the other. It is for the listeners of Gateways, whose visitors the
	// origin does not know apart by their connections.
	Share bool
	// Locality is where the node is ("region/zone/subzone", as far as it is known),
	// for what DestinationRules say about the localities of endpoints; "": nothing
	// is known of it, and all endpoints are as near.
	Locality string
	// Now is the clock of load balancing and outlier detection. time.Now.
	Now func() time.Time
	// Rand draws weights, fault percentages and backoff jitter; it must be
	// safe for concurrent use. math/rand/v2.Uint64.
	Rand func() uint64
}

func (o *Options) setDefaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v       *time.Duration
		initial time.Duration
	}{
		{&o.PeekTimeout, 10 * time.Second},
		{&o.SniffTimeout, 300 * time.Millisecond},
		{&o.ConnectTimeout, 10 * time.Second},
		{&o.IdleTimeout, time.Hour},
		{&o.StallTimeout, 5 * time.Minute},
		{&o.RecycleTimeout, time.Minute},
		{&o.RestAfter, 10 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.initial
		}
	}
	if o.Limits == nil {
		o.Limits = &limits.Limits{Descriptors: limits.NewBudget(128 << 10), Memory: limits.NewBudget(4 << 30)}
	}
	if o.Rand == nil {
		o.Rand = rand.Uint64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Core forwards connections. It is safe for concurrent use.
type Core struct {
	o Options

	mu       sync.Mutex
	conns    map[*conn]struct{}
	draining bool
	serving  sync.WaitGroup // ServeConn calls

	// generation counts Recheck calls: a connection that decided under an
	// older one asks again before it forwards.
	generation atomic.Uint64
	counters   counters
	accepting  atomic.Int64 // connections that Serve accepted and that have not ended

	clusters   *upstream.ClusterManager
	http       *httpproxy.Proxy
	shared     *session.Shared
	buffers    relay.CopyBuffers
	messages   http1.Buffers
	watcher    *relay.EndWatcher
	pipes      *relay.Pipes
	recycler   recycler
	firstBytes relay.FirstBytes
	workers    workers
	// fresh has a place for each connection that is accepted and not yet counted.
	fresh chan struct{}
}

type counters struct {
	accepted atomic.Uint64
}

// Stats are counts for the status page.
type Stats struct {
	Open     int    `json:"open"`     // downstream connections
	Accepted uint64 `json:"accepted"` // connections that were served, ever
	Refused  uint64 `json:"refused"`  // connections that were refused, ever
	Recycled uint64 `json:"recycled"` // quiet ones that were closed for others, ever
	Requests uint64 `json:"requests"` // HTTP requests, ever
	// Ejections are those of outlier detection, ever, by Envoy's name of the cause.
	Ejections map[string]uint64 `json:"ejections,omitempty"`
	// What is taken of the limits, by all cores that share them.
	Connections limits.Use `json:"connections"`
	Ports       limits.Use `json:"ports"`
	Descriptors limits.Use `json:"descriptors"`
	Memory      limits.Use `json:"memory"` // bytes, at the most
}

// New returns a Core that is ready to serve. Shutdown ends it.
func New(o Options) *Core {
	o.setDefaults()
	o.Sink = flow.FlagSink{Sink: o.Sink}
	w, err := relay.NewEndWatcher()
	if err != nil {
		o.Log.Warn("clients that go away while they wait for an answer are noticed only when it comes: no descriptor was to be had; restart egressd with more", "error", err)
	}
	c := &Core{
		o:       o,
		watcher: w,
		conns:   make(map[*conn]struct{}),

		pipes:    relay.NewPipes(),
		recycler: recycler{every: o.RecycleTimeout / 60},
		fresh:    make(chan struct{}, maxFresh),
		workers:  workers{jobs: make(chan accepted), ended: make(chan struct{})},
	}
	c.clusters = upstream.NewClusterManager(upstream.Options{
		Dialer: o.Dialer, Originator: o.Originator, Limits: o.Limits, ConnectTimeout: o.ConnectTimeout, Share: o.Share, Locality: o.Locality,
		Log: o.Log, Rand: o.Rand, Now: o.Now, Watcher: c.watcher, Buffers: &c.messages,
	})
	c.shared = &session.Shared{Sink: o.Sink, Observer: o.Observer, Limits: o.Limits, Clusters: c.clusters, Pipes: c.pipes, Buffers: &c.buffers}
	c.http = httpproxy.New(httpproxy.Options{
		Decider: o.Decider, Dialer: o.Dialer, Clusters: c.clusters, Originator: o.Originator, Limits: o.Limits, Sink: o.Sink, Observer: o.Observer, Tracer: o.Tracer,
		Observations: &c.shared.Observations, Log: o.Log, Rand: o.Rand,
		PeekTimeout: o.PeekTimeout, IdleTimeout: o.IdleTimeout, StallTimeout: o.StallTimeout, MaxStreamDuration: o.MaxStreamDuration, RestAfter: o.RestAfter,
		Buffers: &c.buffers, Messages: &c.messages, Watcher: c.watcher,
	})
	return c
}

// Stats returns the counts of this moment.
func (c *Core) Stats() Stats {
	c.mu.Lock()
	open := len(c.conns)
	c.mu.Unlock()
	return Stats{
		Open:      open,
		Accepted:  c.counters.accepted.Load(),
		Refused:   c.shared.Refused.Load(),
		Requests:  c.http.Count(),
		Recycled:  c.recycler.closed.Load(),
		Ejections: c.clusters.Ejections(),

		Connections: c.o.Limits.Connections.Use(),
		Ports:       c.o.Limits.Ports.Use(),
		Descriptors: c.o.Limits.Descriptors.Use(),
		Memory:      c.o.Limits.Memory.Use(),
	}
}

// ShareOf is the share of a workload, by its number.
func (c *Core) ShareOf(layer flow.Layer, workload uint32) limits.Share {
	return c.o.Limits.ShareOf(limits.Owner{Layer: layer, Workload: workload})
}

// errDraining: the core takes no more connections.
var errDraining = &limits.ExceededError{Reason: policy.ReasonOverload, Text: "egressd is shutting down"}

// register makes t known to Recheck and Shutdown. It fails when there are too
// many connections or the core is shutting down.
func (c *Core) register(t *conn) error {
	if err := t.take(t.entry()); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		t.Held.End()
		return errDraining
	}
	c.conns[t] = struct{}{}
	c.serving.Add(1)
	return nil
}

func (c *Core) unregister(t *conn) {
	c.mu.Lock()
	delete(c.conns, t)
	c.mu.Unlock()
	t.Held.End()
	c.serving.Done()
}

func (c *Core) open() []*conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*conn, 0, len(c.conns))
	for t := range c.conns {
		list = append(list, t)
	}
	return list
}

// Recheck asks the Decider again about every open connection and every HTTP
// request under way, and ends those that the newest policy denies, with
// ReasonPolicyChanged. It must be called after the Decider has the new
// policy; connections that stay allowed are not touched.
func (c *Core) Recheck() {
	c.generation.Add(1)
	c.clusters.Recheck()
	for _, t := range c.open() {
		t.recheck()
		// Idle upstream connections may go to addresses that are denied now.
		t.Ups.CloseIdle()
		t.CloseIdleCopies(false)
	}
	c.http.Recheck()
}

// Linger lets clients go: a connection ends when it has no request under way
// (HTTP/1 with the next answer, HTTP/2 by GOAWAY). New ones are served.
func (c *Core) Linger() { c.http.Linger() }

// Idle says whether everything that Serve accepted has ended.
func (c *Core) Idle() bool { return c.accepting.Load() == 0 }

// Shutdown stops taking connections, lets requests and spliced connections
// end, and closes what is left when ctx ends. It returns ctx's error in that
// case. The core can't be used again.
func (c *Core) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()

	done := make(chan struct{})
	go func() {
		defer close(done)
		c.serving.Wait()
	}()
	// Keep-alive connections end with their next response; the server's error is
	// the context's, which is looked at below.
	c.Linger()
	_ = c.http.Shutdown(ctx)
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		for _, t := range c.open() {
			t.Kill(policy.ReasonAllowed, "shut down")
		}
		<-done
	}
	c.http.Close()
	c.clusters.Close()
	c.pipes.Close()
	c.watcher.Close()
	c.workers.end()
	return err
}
