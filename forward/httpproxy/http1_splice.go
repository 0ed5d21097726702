// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"io"
	"net"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/relay"
)

// spliceFrom is how much of a body of known length must be to come for it to go past
// egressd's memory.
const spliceFrom = 256 << 10

// splice passes what is left of a body on through a pipe. False: there is none to be
// had, or it does not pay.
func (a *http1Answer) splice(x *exchange, body *http1.Body) (ok bool, err error) {
	c := x.up.conn
	if c == nil || a.length <= 0 || body.Left() < spliceFrom || a.left != body.Left() || x.up.ready() {
		return false, nil
	}
	src, bare1 := c.Conn.(*net.TCPConn)
	to, bare2 := a.h.nc.(*net.TCPConn)
	if !bare1 || !bare2 || a.Flush2() != nil {
		return false, a.err
	}
	in, err := src.SyscallConn()
	if err != nil {
		return false, nil // a closed one, of which the next read tells
	}
	out, err := to.SyscallConn()
	if err != nil {
		return false, nil
	}
	for body.Left() > 0 {
		q, n, err := x.conn.Relay.Fill(in, int(min(relay.PipeSize, body.Left())))
		switch {
		case err != nil:
			return true, err
		case q == nil && n == 0:
			return true, io.ErrUnexpectedEOF
		case q == nil:
			return false, nil // no pipe
		}
		body.Took(int64(n))
		x.upstream.received.Add(int64(n))
		x.stall.moved()
		x.stall.writing.Store(true)
		n, err = relay.Drain(out, q, n)
		x.stall.writing.Store(false)
		x.conn.Relay.Release(q, err == nil)
		x.stall.moved()
		a.sentBytes += int64(n)
		a.left -= int64(n)
		if a.err = err; err != nil {
			return true, errDownstream
		}
	}
	return true, nil
}
