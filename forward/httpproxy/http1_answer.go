// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/internal/field"
)

// requestBody is the body of a request of HTTP/1.
type requestBody struct {
	h         *http1Conn
	body      http1.Body
	trailerFn func() field.List
}

func (b *requestBody) begin(q *http1.RequestHead) {
	b.body.Begin(b.h.reader, q.Length)
	if b.trailerFn == nil {
		b.trailerFn = func() field.List { return b.body.Trailer }
	}
}

// Read reads what is there. The client is told to send when it waits to be.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.h.r.Continue {
		b.h.answer.goOn()
	}
	n, err := b.body.Read(p)
	if b.body.Ended() {
		b.h.received()
	}
	return n, err
}

// Rest is how much of the same chunk follows what was read last.
func (b *requestBody) Rest() int64 { return b.body.Rest() }

// Ready says whether some of it can be read without waiting.
func (b *requestBody) Ready() bool { return b.body.Ready() }

// http1Answer is an answer in HTTP/1.
type http1Answer struct {
	h      *http1Conn
	minor  int // of the client's version
	head   bool
	header field.List
	reason string
	length int64 // of the body
	left   int64 // of it
	known  bool  // the length is
	passes bool  // an upstream's
	big    bool  // there is much of it at once
	status int
	begun  bool // the head is on its way
	close  bool
	tail   field.List

	chunks    http1.Chunks
	out       *[]byte // what is to be written
	n         int
	err       error
	sentBytes int64
	// received: the request's body was read to its end.
	received atomic.Bool

	mu       sync.Mutex
	informed bool // the client need not be told to send
}

func (a *http1Answer) reset(minor int) {
	clear(a.header)
	a.minor, a.head, a.header, a.reason, a.length, a.left = minor, false, a.header[:0], "", 0, 0
	a.big = false
	a.known, a.passes, a.status, a.begun, a.close, a.tail, a.chunks = false, false, 0, false, false, nil, http1.Chunks{}
	a.informed = false // nobody sends any more of the request before
}

func (a *http1Answer) free() {
	a.h.conn.core.messages.Put(a.out)
	a.out, a.n = nil, 0
}

func (a *http1Answer) Header() *field.List { return &a.header }

func (a *http1Answer) Passes(resp *message.Response) {
	a.passes, a.reason, a.length, a.known = true, resp.Reason, resp.Length, true
}

func (a *http1Answer) Trailer(l field.List) { a.tail = l }

func (a *http1Answer) SetReadDeadline(t time.Time)  { _ = a.h.nc.SetReadDeadline(t) }
func (a *http1Answer) SetWriteDeadline(t time.Time) { _ = a.h.nc.SetWriteDeadline(t) }

// Inform passes an informational answer on.
func (a *http1Answer) Inform(status int, reason string, l field.List) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.informed = a.informed || status == http.StatusContinue
	a.send(status, reason, l)
}

// goOn tells a client that waits to send its body.
func (a *http1Answer) goOn() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.informed && a.minor > 0 {
		a.informed = true
		a.send(http.StatusContinue, "Continue", nil)
	}
}

// send writes a head alone.
func (a *http1Answer) send(status int, reason string, l field.List) {
	buf := a.h.conn.core.messages.Get(1)
	defer a.h.conn.core.messages.Put(buf)
	head := http1.AppendFields(http1.AppendStatusLine((*buf)[:0], 1, status, reason), l)
	a.h.x.stall.writing.Store(true)
	n, err := a.h.src.Write(head)
	a.h.x.stall.writing.Store(false)
	a.sentBytes += int64(n)
	a.err = errors.Join(a.err, err)
}

// WriteHeader says which status the answer has. The head is written with what
// follows.
func (a *http1Answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// begin puts the head before the body.
func (a *http1Answer) begin() {
	a.begun = true
	if a.h.r.Continue { // or nobody else looks
		a.mu.Lock()
		a.informed = true
		a.mu.Unlock()
	}
	a.frame()
	if a.out == nil {
		a.out = a.h.conn.core.messages.Get(1)
	}
	a.n = 0
	if a.reason == "" && !a.passes {
		a.reason = http.StatusText(a.status)
	}
	head := http1.AppendFields(http1.AppendStatusLine((*a.out)[:0], min(a.minor, 1), a.status, a.reason), a.header)
	if len(head) > len(*a.out) { // it did not fit
		a.h.conn.core.messages.Put(a.out)
		head = head[:len(head):len(head)]
		bigger := make([]byte, len(head)+1024)
		copy(bigger, head)
		a.out = &bigger
	}
	a.n = len(head)
}

// frame says in the header where the body ends, and whether the connection does.
func (a *http1Answer) frame() {
	h := &a.header
	if !a.passes && !h.Has("Date") {
		h.Add("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	bodiless := a.head || !bodyAllowed(a.status)
	switch {
	case a.status == http.StatusSwitchingProtocols:
	case bodiless && (a.head || a.status == http.StatusNotModified):
		if a.minor == 0 {
			h.Del("Transfer-Encoding")
		}
	case bodiless:
		h.Del("Content-Length")
		h.Del("Transfer-Encoding")
	case a.length == http1.Chunked && a.minor > 0:
		h.Del("Content-Length")
		h.Set("Transfer-Encoding", "chunked")
	case a.length < 0:
		a.length = http1.ToTheEnd
		h.Del("Content-Length")
		h.Del("Transfer-Encoding")
		a.close = true
	default:
		message.SetLength(h, a.length)
		h.Del("Transfer-Encoding")
	}
	if bodiless {
		a.length = 0
	}
	a.left = a.length
	if a.status == http.StatusSwitchingProtocols {
		return
	}
	if a.close = a.close || a.h.r.Close || a.h.ends() || h.HasToken("Connection", "close"); !a.close {
		if a.minor == 0 && !h.HasToken("Connection", "keep-alive") {
			h.Set("Connection", "keep-alive")
		}
		return
	}
	if !h.HasToken("Connection", "close") {
		h.Set("Connection", "close")
	}
}

// bigBuffer is for bodies of which there is much at once.
const bigBuffer = 32 << 10

// room is where up to n more bytes of a body may be put, with what is around them in
// a chunk; there is some.
func (a *http1Answer) room(n int) []byte {
	const before, behind = 20, 4
	if free := len(*a.out) - a.n - before - behind; free < min(n, 1024) {
		a.flush()
	}
	if a.n == 0 && a.big && len(*a.out) < bigBuffer {
		a.h.conn.core.messages.Put(a.out)
		a.out = a.h.conn.core.messages.Get(bigBuffer)
	}
	free := (*a.out)[a.n:]
	if a.length != http1.Chunked {
		return free
	}
	return free[before : len(free)-behind]
}

// put takes n bytes that are in room, of a chunk of which rest follow.
func (a *http1Answer) put(data []byte, rest int64) {
	if a.length == http1.Chunked {
		a.n += len(a.chunks.Append((*a.out)[a.n:a.n], data, rest))
		return
	}
	a.n += copy((*a.out)[a.n:], data)
	if a.length > 0 {
		a.left -= int64(len(data))
	}
}

// Write writes a part of the body.
func (a *http1Answer) Write(p []byte) (int, error) {
	if !a.begun {
		if !a.known && len(a.header.Get("Content-Length")) == 0 {
			a.length, a.known = http1.Chunked, true
		}
		a.takeLength()
		a.begin()
	}
	n := len(p)
	if a.head || !bodyAllowed(a.status) {
		return n, a.err
	}
	a.big = a.big || n > 4<<10
	for len(p) > 0 {
		room := a.room(len(p))
		part := p[:min(len(p), len(room))]
		a.put(part, 0)
		p = p[len(part):]
	}
	return n, a.err
}

// takeLength takes over the length that somebody has put into the header.
func (a *http1Answer) takeLength() {
	if a.known {
		return
	}
	a.known = true
	if n, err := message.LengthOf(a.header.Get("Content-Length")); err == nil {
		a.length = n
	}
}

// passFrom passes a body on as it comes.
func (a *http1Answer) passFrom(x *exchange, resp *message.Response) error {
	body, own := resp.Body.(*http1.Body)
	if !a.begun {
		a.begin()
	}
	if a.head || !bodyAllowed(a.status) || resp.Length == 0 {
		return nil
	}
	if !own || !x.up.ready() {
		a.Flush() // the head may be long before the first byte
	}
	for {
		if own {
			if ok, err := a.splice(x, body); ok || err != nil {
				return err
			}
		}
		room := a.room(32 << 10)
		n, err := resp.Body.Read(room)
		x.upstream.received.Add(int64(n))
		if n > 0 {
			x.stall.moved()
			a.big = a.big || n == len(room)
			rest := int64(0)
			if own {
				rest = body.Rest()
			}
			a.put(room[:n], rest)
		}
		if errors.Is(err, io.EOF) {
			a.tail = message.GoingBack(resp.Trailer())
			return nil
		}
		if (err != nil || !own || !x.up.ready()) && a.Flush2() != nil {
			return errDownstream
		}
		if err != nil {
			return err
		}
	}
}

// Flush sends what is written.
func (a *http1Answer) Flush() { _ = a.Flush2() }

// Flush2 is Flush that tells of its failure.
func (a *http1Answer) Flush2() error {
	if !a.begun {
		a.takeLength()
		if !a.known {
			a.length = http1.Chunked
		}
		a.begin()
	}
	a.flush()
	return a.err
}

func (a *http1Answer) flush() {
	if a.n == 0 || a.err != nil {
		a.n = 0
		return
	}
	stall := &a.h.x.stall
	stall.writing.Store(true)
	n, err := a.h.src.Write((*a.out)[:a.n])
	stall.writing.Store(false)
	stall.moved()
	a.sentBytes += int64(n)
	a.n, a.err = 0, err
}

// finish ends the answer. False: the connection ends with it.
func (a *http1Answer) finish() bool {
	if a.status == 0 {
		return false
	}
	if !a.begun {
		a.takeLength()
		a.begin()
	}
	if a.length == http1.Chunked {
		if a.chunks.Open() {
			return false
		}
		if need := trailerRoom(a.tail); need > len(*a.out)-a.n {
			a.flush()
			if need > len(*a.out) {
				bigger := make([]byte, need)
				a.out = &bigger
			}
		}
		a.n += len(a.chunks.End((*a.out)[a.n:a.n], a.tail))
	}
	a.flush()
	whole := a.length <= 0 || a.left == 0
	a.free()
	return a.err == nil && !a.close && whole && a.received.Load()
}

func trailerRoom(l field.List) int {
	n := 16
	for i := range l {
		n += len(l[i].Name) + len(l[i].Value) + len(l[i].Line) + 4
	}
	return n
}
