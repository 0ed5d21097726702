// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// httpConn is a connection whose first bytes were peeked, as the http.Server
// sees it.
type httpConn struct {
	net.Conn
	conn     *conn
	first    []byte // peeked, not yet read
	heads    *heads // nil: HTTP/2
	reply    headWriter
	in, out  atomic.Int64
	requests atomic.Int64
	short    bool // the last read took all that there was
	// unread says that the last request was not read to its end: what comes is
	// no request, and nothing more is read.
	unread atomic.Bool
	ended  atomic.Bool // the client of HTTP/1 sends no more
	closed chan struct{}
	once   sync.Once

	// Of HTTP/1 only.
	mu      sync.Mutex
	done    int64 // requests that were answered
	current *exchange
	lost    bool // the upstream has ended the last of its connections
	woken   bool // a read was interrupted because of it
}

func newHTTPConn(t *conn, first []byte) *httpConn {
	h := &httpConn{Conn: t.nc, conn: t, first: first, closed: make(chan struct{})}
	h.reply.buffers = &t.core.buffers
	if !t.multiplexed {
		h.heads = newHeads()
		t.http1 = h
	}
	return h
}

func (h *httpConn) Read(p []byte) (n int, err error) {
	for n == 0 && err == nil {
		switch {
		case h.unread.Load():
			return 0, io.EOF
		case len(h.first) > 0:
			n = copy(p, h.first)
			if h.first = h.first[n:]; len(h.first) == 0 {
				h.first = nil
			}
		case h.heads == nil:
			n, err = h.Conn.Read(p)
		default:
			n, err = h.receive(p)
		}
		h.in.Add(int64(n))
		if h.heads != nil {
			n = h.heads.read(p[:n])
		}
	}
	return n, err
}

// receive reads from a client of HTTP/1. The end of what it sends is no end of
// the connection: it may wait for its answers (RFC 9112, 9.6), and its last
// upstream connection is told as it would be without egressd. The end of the
// upstream's connection is the end of this one, between two requests.
func (h *httpConn) receive(p []byte) (int, error) {
	for {
		between, begun := h.heads.between()
		h.mu.Lock()
		idle := between && begun == h.done
		waits := between && begun > h.done
		lost := h.lost
		h.mu.Unlock()
		switch ended := h.ended.Load(); {
		case lost && idle || ended && !waits:
			return 0, io.EOF
		case ended:
			return 0, untilGone(h.conn.nc)
		}
		if h.short && h.heads.within() {
			acknowledge(h.conn.nc) // the rest may wait for it
		}
		n, err := h.Conn.Read(p)
		h.short = n < len(p)
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, io.EOF):
			h.clientEnded()
		case errors.Is(err, os.ErrDeadlineExceeded) && h.wasWoken():
		default:
			return 0, err
		}
	}
}

// untilGone waits until nc's peer, which sends no more, has reset the connection, as
// the kernel of one does that has gone (tcp(7), tcp_fin_timeout, and keep-alive), or
// for the read deadline: the server sets it when it has answered.
func untilGone(nc *net.TCPConn) error {
	raw, err := nc.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Read(func(uintptr) bool { return gone(nc) }); err != nil {
		return err
	}
	return syscall.ECONNRESET
}

// clientEnded notes that the client sends no more.
func (h *httpConn) clientEnded() {
	h.ended.Store(true)
	h.mu.Lock()
	x := h.current
	h.mu.Unlock()
	if x != nil {
		x.passClientEnd()
	}
}

// upstreamLost says that the upstream has ended the last upstream connection, or
// that there is one again. A client that waits with its next request learns it.
func (h *httpConn) upstreamLost(lost bool) {
	between, begun := h.heads.between()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = lost
	if lost && between && begun == h.done {
		h.woken = true
		_ = h.Conn.SetReadDeadline(longAgo) // fails on a closed connection, which is as good
	}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// wasWoken says whether upstreamLost has interrupted a read, which is as if it had
// not been: what has come of a request is read on.
func (h *httpConn) wasWoken() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	woken := h.woken
	if h.woken = false; woken {
		_ = h.Conn.SetReadDeadline(time.Now().Add(h.conn.core.o.PeekTimeout))
	}
	return woken
}

// isLost says whether the answer at hand is to be the connection's last one.
func (h *httpConn) isLost() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost
}

// serving says which request is being answered; nil: none.
func (h *httpConn) serving(x *exchange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current = x
}

// isLast says whether the client sends nothing behind the request at hand.
func (h *httpConn) isLast() bool {
	if !h.ended.Load() {
		return false
	}
	between, begun := h.heads.between()
	h.mu.Lock()
	defer h.mu.Unlock()
	return between && begun == h.done+1
}

// answered is called when the handler is through with a request.
func (h *httpConn) answered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done++
	h.current = nil
}

// SetReadDeadline sets the deadline, over that of upstreamLost.
func (h *httpConn) SetReadDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.woken = false
	return h.Conn.SetReadDeadline(t)
}

func (h *httpConn) Write(p []byte) (int, error) {
	n, err := h.reply.write(h.Conn, p)
	h.out.Add(int64(n))
	return n, err
}

// CloseWrite lets the server end its side first, so that a client that is
// still sending gets to read an early answer.
func (h *httpConn) CloseWrite() error { return h.conn.nc.CloseWrite() }

// Close closes the connection, but for one whose last request was not read:
// see linger.
func (h *httpConn) Close() (err error) {
	if !h.unread.Load() {
		err = h.Conn.Close()
	}
	h.once.Do(func() { close(h.closed) })
	return err
}

// How long is read on behind an answer to an unfinished request: in all, and
// without a byte.
const (
	lingerTime  = 5 * time.Second
	lingerQuiet = time.Second
)

// linger ends the connection after an answer to a request that was not read to
// its end. The client may still be sending; a connection that is closed with
// bytes unread is reset, and the reset would overtake the answer. So what comes
// is read and thrown away for a while (RFC 9112, 9.6).
func (h *httpConn) linger() {
	if !h.unread.Load() {
		return
	}
	nc := h.conn.nc
	if nc.CloseWrite() != nil {
		return // closed already
	}
	buf := h.conn.core.buffers.get()
	defer h.conn.core.buffers.pool.Put(buf)
	for end := time.Now().Add(lingerTime); ; {
		wait := min(lingerQuiet, time.Until(end))
		if wait <= 0 || nc.SetReadDeadline(time.Now().Add(wait)) != nil {
			return
		}
		if _, err := nc.Read(*buf); err != nil {
			return
		}
	}
}
