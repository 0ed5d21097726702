// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sync/atomic"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/field"
)

// HTTP1 is HTTP/1 on an upstream connection. The goroutine that serves the client
// writes the request and reads the answer.
type HTTP1 struct {
	Stream relay.Stream
	Reader *http1.MessageReader
	Head   http1.ResponseHead
	Body   http1.Body
	// Begun is src.count when the request was begun; sent says that all of it was
	// written, into the connection.
	Begun int64
	Sent  atomic.Bool
	// Good: the answer, once it was read to its end, leaves the connection as it was.
	Good bool

	out *[]byte // the head that Stream is to send

	TrailerFn func() field.List
	DoneFn    func()
	freeFn    func()
}

func newHTTP1Up(c *HTTPConn, buffers *http1.Buffers) *HTTP1 {
	u := &HTTP1{Good: true}
	u.Sent.Store(true)
	u.Stream.Open(c.Conn)
	u.Reader = http1.NewMessageReader(&u.Stream, buffers, false)
	u.Reader.Room = c.room
	u.TrailerFn = func() field.List { return u.Body.Trailer }
	u.DoneFn = func() {}
	u.freeFn = func() {
		buffers.Put(u.out)
		u.out = nil
	}
	return u
}

// room takes n bytes for a head that the connection has not paid for, or gives them
// back.
func (c *HTTPConn) room(n int) error {
	if n < 0 {
		c.held.Give(0, int64(-n))
		return nil
	}
	return c.held.Take(0, int64(n))
}

// Answered says whether something of an answer has come.
func (u *HTTP1) Answered() bool { return u.Stream.Count.Load() > u.Begun }

// usable says whether another request may follow.
func (u *HTTP1) usable() bool {
	return u.Good && u.Sent.Load() && u.Body.Ended() && len(u.Reader.Buffered()) == 0
}

// Ask has b, the head of a request without a body, be written when its answer is
// awaited. out, which it is in, is given back then.
func (u *HTTP1) Ask(b []byte, out *[]byte) {
	u.out = out
	u.Sent.Store(true) // with the write
	u.Stream.Ask(b, u.freeFn)
}

// release lets go of what the last answer needed, and of all that there is when no
// other follows.
func (u *HTTP1) release(good bool) {
	if good {
		u.Reader.Release()
	} else {
		u.Reader.Free()
	}
	if cap(u.Head.Fields) > http1.UsualFields {
		u.Head.Fields = nil
	}
}

// Quiet says whether the upstream neither ended the connection nor sent what nobody
// asked for.
func (u *HTTP1) Quiet() bool { return u.Stream.Quiet() }

// WriteHTTP1 writes a part of a request of HTTP/1.
func (c *HTTPConn) WriteHTTP1(b []byte) error {
	n, err := c.HTTP1.Stream.Write(b)
	c.Sent.Add(int64(n))
	return err
}
