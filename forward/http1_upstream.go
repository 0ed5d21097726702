// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"strconv"
	"sync/atomic"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/internal/field"
)

// http1Up is HTTP/1 on an upstream connection. The goroutine that serves the client
// writes the request and reads the answer.
type http1Up struct {
	src    source
	reader *http1.MessageReader
	head   http1.ResponseHead
	body   http1.Body
	// begun is src.count when the request was begun; sent says that all of it was
	// written, into the connection.
	begun int64
	sent  atomic.Bool
	// good: the answer, once it was read to its end, leaves the connection as it was.
	good bool

	out *[]byte // the head that src is to send

	trailerFn func() field.List
	doneFn    func()
	freeFn    func()
}

func newHTTP1Up(c *upstreamConn, buffers *http1.Buffers) *http1Up {
	u := &http1Up{good: true}
	u.sent.Store(true)
	u.src.open(c.Conn)
	u.reader = http1.NewMessageReader(&u.src, buffers, false)
	u.trailerFn = func() field.List { return u.body.Trailer }
	u.doneFn = func() {}
	u.freeFn = func() {
		buffers.Put(u.out)
		u.out = nil
	}
	return u
}

// answered says whether something of an answer has come.
func (u *http1Up) answered() bool { return u.src.count.Load() > u.begun }

// usable says whether another request may follow.
func (u *http1Up) usable() bool {
	return u.good && u.sent.Load() && u.body.Ended() && len(u.reader.Buffered()) == 0
}

// release lets go of what the last answer needed, and of all that there is when no
// other follows.
func (u *http1Up) release(good bool) {
	if good {
		u.reader.Release()
	} else {
		u.reader.Free()
	}
	if cap(u.head.Fields) > usual {
		u.head.Fields = nil
	}
}

// quiet says whether the upstream neither ended the connection nor sent what nobody
// asked for.
func (u *http1Up) quiet() bool { return u.src.quiet() }

func (c *upstreamConn) write(b []byte) error {
	n, err := c.http1.src.Write(b)
	c.sent.Add(int64(n))
	return err
}

// setLength says in a header how long the body is.
func setLength(h *field.List, n int64) {
	if have, err := lengthOf(h.Get("Content-Length")); err != nil || have != n {
		h.Set("Content-Length", strconv.FormatInt(n, 10))
	}
}

func lengthOf(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
