// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"net"
	"sync"
	"sync/atomic"
)

// httpConn is a connection of HTTP/2 whose first bytes were peeked, as the
// http.Server sees it.
type httpConn struct {
	net.Conn
	conn     *client
	first    []byte // peeked, not yet read
	in, out  atomic.Int64
	requests atomic.Int64
	closed   chan struct{}
	once     sync.Once
}

func newHTTPConn(t *client, first []byte) *httpConn {
	return &httpConn{Conn: t.NC, conn: t, first: first, closed: make(chan struct{})}
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
	return n, err
}

func (h *httpConn) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p)
	h.out.Add(int64(n))
	return n, err
}

// Close closes the connection.
func (h *httpConn) Close() error {
	err := h.Conn.Close()
	h.once.Do(func() { close(h.closed) })
	return err
}
