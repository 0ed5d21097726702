// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/frames"
	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// HTTP/2 with clients: how many requests at once on a connection, and how much
// of their bodies, in bytes, may wait for upstreams.
const (
	maxStreams = 250
	// maxFrame is RFC 9113's least: larger frames need a larger buffer for each
	// connection, and net/http would take them of 1 MiB, beyond streamWindow.
	maxFrame   = 16 << 10
	DownWindow = 512 << 10
)

// Costs in bytes.
const (
	HTTPMemory   = 32 << 10 // beside a connection, for HTTP/1: readers, writers, a copy buffer
	StreamMemory = 80 << 10 // a request of HTTP/2: as much again, and buffers of the upstream
	// SenderMemory is for a body that is still to come when the head is sent: buffers
	// of the client and of the upstream, and a trailer.
	SenderMemory = 2*bigBuffer + 64<<10
	// headIncluded is how much of what headMemory says of one head is in these.
	headIncluded = 8 << 10
)

// headMemory is what a head takes beyond what every request pays for, in bytes: as it
// came, as it goes on, and the lists of its fields.
func headMemory(l field.List) int64 {
	const perField = 256 // in two lists, and in net/http's map
	n := int64(len(l) * perField)
	for i := range l {
		n += 2 * int64(len(l[i].Name)+len(l[i].Value))
	}
	return max(n-headIncluded, 0)
}

// room takes n bytes for a head that the connection has not paid for, or gives them
// back.
func (t *client) room(n int) error {
	if n < 0 {
		t.Held.Give(0, int64(-n))
		return nil
	}
	return t.Held.Take(0, int64(n))
}

// handoff is the net.Listener through which peeked connections reach the one
// http.Server.
type handoff struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands nc to the server; false when it takes no more.
func (h *handoff) give(nc net.Conn) bool {
	select {
	case h.conns <- nc:
		return true
	case <-h.done:
		return false
	}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case nc := <-h.conns:
		return nc, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handoff) Addr() net.Addr { return &net.TCPAddr{} }

// connKey is the context key of the *httpConn that a request came in on.
type connKey struct{}

func newHTTPServer(c *Proxy) *http.Server {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:   http.HandlerFunc(c.serveHTTP),
		Protocols: &protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerStream:     upstream.StreamWindow,
			MaxReceiveBufferPerConnection: DownWindow,
			WriteByteTimeout:              c.o.StallTimeout,
		},
		ReadHeaderTimeout: c.o.PeekTimeout,
		IdleTimeout:       c.o.IdleTimeout,
		MaxHeaderBytes:    http1.MaxRequestHead,
		ErrorLog:          slog.NewLogLogger(c.o.Log.Handler(), slog.LevelDebug),
		// OPTIONS * is a request like any other, and the origin's to answer.
		DisableGeneralOptionsHandler: true,
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, nc)
		},
	}
}

// serveHTTP2 has the http.Server serve the connection, and waits for its end.
//
//go:noinline
func (t *client) serveHTTP2(op downstream.Admission, p *relay.Peeked) {
	h := newHTTPConn(t, p.Request())
	t.Tell(t.Event(flow.Decision, op.Decision, "http", ""))
	served := t.core.handoff.give(h)
	if served {
		<-h.closed
	} else { // its first bytes came when egressd was about to end
		_ = t.Stream.SetWriteDeadline(time.Now().Add(goAwayTime)) // fails on a closed connection, as the next does
		_, _ = t.Stream.Write(frames.Farewell())
		t.Linger()
	}
	flood := h.guard.Flood()
	if flood != nil {
		t.Linger()
	}
	e := t.CloseEvent(op.Decision, "http", "")
	e.BytesSent, e.BytesReceived = h.in.Load(), h.out.Load()
	if !served && e.Detail == "" {
		e.Detail = "shut down"
	}
	if flood != nil && e.Reason == policy.ReasonAllowed {
		e.Reason, e.Detail, e.Allowed, e.WouldDeny = policy.ReasonFlood, flood.Error(), false, false
		t.observeRefused(e, 2, 0, "", "")
	} else if h.late.Load() && e.Reason == policy.ReasonAllowed {
		e.Reason, e.Detail, e.Allowed, e.WouldDeny = policy.ReasonPeekTimeout, errLate.Error(), false, false
		t.observeRefused(e, 2, 0, "", "")
	} else if h.requests.Load() == 0 && e.Reason == policy.ReasonAllowed && e.Detail == "" {
		// net/http answered 400 or gave up on the header by itself.
		e.Reason, e.Detail = policy.ReasonMalformed, "no complete request"
		t.observeRefused(e, 2, 0, "", "")
	}
	t.Tell(e)
}

// serveHTTP is the http.Server's handler.
func (c *Proxy) serveHTTP(w http.ResponseWriter, r *http.Request) {
	h, ok := r.Context().Value(connKey{}).(*httpConn)
	if !ok {
		panic(errors.New("forward: request without a connection")) // handoff carries httpConns only
	}
	h.requests.Add(1)
	c.requests.Add(1)
	x := newExchange(h, w, r)
	defer x.end()
	x.serve()
	// What the server has still to write is the client's to take.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(c.o.StallTimeout))
}
