// SPDX-License-Identifier: Apache-2.0

// Package upstream is the upstream side of the forwarding core: which endpoint a
// request or connection goes to, the HTTP connections that there are to it, who may
// use them, and how long they are kept. It speaks no HTTP beyond that.
package upstream

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/frames"
	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/policy"
)

// Options are what a ClusterManager works with. All must be set but what says
// otherwise.
type Options struct {
	Dialer Dialer
	Limits *limits.Limits
	// Originator makes connections with TLS and the like; nil: upstreams that ask for
	// it are refused.
	Originator *originate.Originator
	// ConnectTimeout bounds Dialer.Dial where an upstream has no bound of its own.
	ConnectTimeout time.Duration
	// Share: connections may serve several downstream connections, one after the
	// other.
	Share bool
	// Locality is where the node is ("region/zone/subzone"); "": nothing is known of
	// it.
	Locality string
	Log      *slog.Logger
	Rand     func() uint64
	Now      func() time.Time
	// Watcher tells of the end of connections that nobody uses.
	Watcher *relay.EndWatcher
	// Buffers are those of messages of HTTP/1.
	Buffers *http1.Buffers
}

// ClusterManager is what is known of all upstreams (Envoy's ClusterManager): their
// endpoints, and the connections that may be shared. It is safe for concurrent use.
type ClusterManager struct {
	o         Options
	transport *http.Transport // of HTTP/2
	pool      *pool
	balancers *balancers
	// generation counts Recheck calls.
	generation atomic.Uint64
}

// NewClusterManager knows nothing yet. Close ends it.
func NewClusterManager(o Options) *ClusterManager {
	return &ClusterManager{
		o: o, transport: NewTransport(UsualPing), pool: newPool(o.Watcher),
		balancers: &balancers{limits: o.Limits, log: o.Log, rand: o.Rand, now: o.Now, locality: o.Locality, list: map[balancedKey]*Balanced{}},
	}
}

// Recheck is to be called when the policy has changed: connections may go to addresses
// that are denied now. Idle ones are closed; those in use are when their requests are
// over.
func (m *ClusterManager) Recheck() {
	m.generation.Add(1) // first: what comes to the pool meanwhile is not taken
	m.pool.closeIdle(false)
	m.balancers.sweep()
}

// Close ends what is there, and what comes.
func (m *ClusterManager) Close() {
	m.pool.closeIdle(true)
	m.balancers.close()
}

// Ejections are those of outlier detection so far, by Envoy's name of the cause.
func (m *ClusterManager) Ejections() map[string]uint64 { return m.balancers.counts() }

// Waiting is how many requests wait for a connection.
func (m *ClusterManager) Waiting() (n int) {
	m.balancers.mu.Lock()
	defer m.balancers.mu.Unlock()
	for _, s := range m.balancers.list {
		n += s.Waiting()
	}
	return n
}

// ConnectTimeout is the upstream's own, else that of the options.
func (m *ClusterManager) ConnectTimeout(u *policy.Upstream) time.Duration {
	return cmp.Or(u.ConnectTimeout(), m.o.ConnectTimeout)
}

// speak has c speak its version of HTTP.
func (m *ClusterManager) speak(ctx context.Context, up *HTTPConn) (err error) {
	if !up.Key.HTTP2 {
		up.HTTP1 = newHTTP1Up(up, m.o.Buffers)
		return nil
	}
	up.guard = frames.NewOriginGuard(time.Now)
	transport := m.transport
	if up.ping != nil { // has nothing that is not the connection's
		transport = NewTransport(*up.ping)
	}
	// The context is for the making only.
	up.Client, err = transport.NewClientConn(context.WithValue(ctx, carriedKey{}, up), "http", "upstream:80")
	return err
}
