// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/frames"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// httpConn is a connection of HTTP/2 whose first bytes were peeked, as the
// http.Server sees it.
type httpConn struct {
	net.Conn
	conn     *client
	first    []byte // peeked, not yet read
	guard    *frames.FloodGuard
	writing  sync.Mutex
	calmed   atomic.Bool // nothing more is written but a GOAWAY
	in, out  atomic.Int64
	requests atomic.Int64
	closed   chan struct{}
	once     sync.Once
	// headBy is when the header that is coming must be there; zero: none is. The
	// reader's.
	headBy time.Time
	late   atomic.Bool // it was not
}

func newHTTPConn(t *client, first []byte) *httpConn {
	return &httpConn{Conn: t.Stream, conn: t, first: first, guard: frames.NewFloodGuard(time.Now), closed: make(chan struct{})}
}

func (h *httpConn) Read(p []byte) (n int, err error) {
	if len(h.first) > 0 {
		n = copy(p, h.first)
		if h.first = h.first[n:]; len(h.first) == 0 {
			h.first = nil
		}
	} else {
		n, err = h.Conn.Read(p)
	}
	h.in.Add(int64(n))
	if flood := h.guard.Received(p[:n]); flood != nil {
		return 0, flood
	}
	if err != nil && !h.headBy.IsZero() && errors.Is(err, os.ErrDeadlineExceeded) {
		h.late.Store(true)
		return 0, errLate
	}
	if err == nil {
		err = h.awaitHead()
	}
	return n, err
}

// awaitHead has reads fail from when the header that is coming is late. net/http, which
// waits for the rest of it and looks at no other stream meanwhile, has no time for that.
func (h *httpConn) awaitHead() error {
	switch within := h.guard.WithinHead(); {
	case within == !h.headBy.IsZero():
		return nil
	case within:
		h.headBy = time.Now().Add(h.conn.core.o.PeekTimeout)
	default:
		h.headBy = time.Time{}
	}
	return h.Conn.SetReadDeadline(h.headBy)
}

func (h *httpConn) Write(p []byte) (int, error) {
	h.writing.Lock()
	defer h.writing.Unlock()
	if h.calmed.Load() {
		return 0, net.ErrClosed
	}
	n, err := h.Conn.Write(p)
	h.guard.Sent(p[:n])
	h.out.Add(int64(n))
	for _, r := range h.guard.Refused() {
		h.conn.refusedStream(r)
	}
	return n, err
}

// refusedStream records a stream that net/http has reset for what the client did. It
// was no request, or was one in part: who sends more of a body than it has said has an
// event of that request beside this one.
func (t *client) refusedStream(r frames.RefusedStream) {
	reason := policy.ReasonMalformed
	if r.Overload() {
		reason = policy.ReasonOverload
	}
	e := t.Event(flow.Request, session.Denied(reason, nil), "http", "")
	e.Detail = r.String()
	t.Tell(e)
	t.observeRefused(e, 2, 0, "", "")
}

// Close closes the connection. One that a flood ends is told so, and left to
// conn.linger.
func (h *httpConn) Close() (err error) {
	h.once.Do(func() {
		if h.guard.Ended() == nil {
			err = h.Conn.Close()
		} else {
			h.goAway()
		}
		close(h.closed)
	})
	return err
}

// goAwayTime bounds how long a client that floods may take to take what is being
// written, and its GOAWAY.
const goAwayTime = time.Second

// goAway tells the client that it floods, unless it has not had the last frame whole:
// it did not take that, or net/http has the rest of it.
func (h *httpConn) goAway() {
	h.calmed.Store(true)
	if h.Conn.SetWriteDeadline(time.Now().Add(goAwayTime)) != nil {
		return // closed already
	}
	h.writing.Lock()
	defer h.writing.Unlock()
	if p := h.guard.GoAway(); p != nil {
		n, _ := h.Conn.Write(p) // the connection ends in any case
		h.out.Add(int64(n))
	}
}
