// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/peek"
	"github.com/egressd/egressd/policy"
)

// HTTP/2 with clients: how many requests at once on a connection, and how much
// of their bodies, in bytes, may wait for upstreams.
const (
	maxStreams = 250
	// maxFrame is RFC 9113's least: larger frames need a larger buffer for each
	// connection, and net/http would take them of 1 MiB, beyond streamWindow.
	maxFrame   = 16 << 10
	downWindow = 512 << 10
)

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

func newServer(c *Core) *http.Server {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:   http.HandlerFunc(c.serveHTTP),
		Protocols: &protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: downWindow,
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

// http serves the connection: in HTTP/1 itself, in HTTP/2 by the http.Server.
func (t *conn) http(op Admission, p *peeked) *http1Conn {
	t.setPhase(phaseHTTP, "")
	if t.core.generation.Load() != t.generation {
		if op = t.core.o.Decider.Open(&t.info); op.Verdict == policy.Deny || op.Protocol == Refuse || op.Protocol == TLS {
			t.refuse(denied(policy.ReasonPolicyChanged, op.Rule), "http", "", "")
			return nil
		}
	}
	if err := p.done(); err != nil {
		t.refuse(denied(policy.ReasonPeekTimeout, op.Rule), "http", "", err.Error())
		return nil
	}
	if reason, _ := t.killReason(); reason != "" {
		t.refuse(op.Decision, "http", "", "")
		return nil
	}
	t.multiplexed = peek.Classify(p.request()) == peek.HTTP2
	memory := int64(httpMemory)
	if t.multiplexed {
		memory += downWindow
	}
	if err := t.take(cost{memory: memory}); err != nil {
		t.refuse(denied(dialReason(err), op.Rule), "http", "", err.Error())
		return nil
	}
	if !t.multiplexed {
		return t.openHTTP1(op, p)
	}
	t.serveHTTP2(op, p)
	return nil
}

// serveHTTP2 has the http.Server serve the connection, and waits for its end.
//
//go:noinline
func (t *conn) serveHTTP2(op Admission, p *peeked) {
	h := newHTTPConn(t, p.request())
	t.core.o.Sink.Record(t.event(flow.Decision, op.Decision, "http", ""))
	if t.core.handoff.give(h) {
		<-h.closed
	} else {
		t.kill(policy.ReasonAllowed, "shut down")
	}
	e := t.closeEvent(op.Decision, "http", "")
	e.BytesSent, e.BytesReceived = h.in.Load(), h.out.Load()
	if h.requests.Load() == 0 && e.Reason == policy.ReasonAllowed && e.Detail == "" {
		// net/http answered 400 or gave up on the header by itself.
		e.Reason, e.Detail = policy.ReasonMalformed, "no complete request"
	}
	t.core.o.Sink.Record(e)
}

// serveHTTP is the http.Server's handler.
func (c *Core) serveHTTP(w http.ResponseWriter, r *http.Request) {
	h, ok := r.Context().Value(connKey{}).(*httpConn)
	if !ok {
		panic(errors.New("forward: request without a connection")) // handoff carries httpConns only
	}
	h.requests.Add(1)
	c.counters.requests.Add(1)
	x := newExchange(h, w, r)
	defer x.end()
	x.serve()
	// What the server has still to write is the client's to take.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(c.o.StallTimeout))
}
