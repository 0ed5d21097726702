// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"sync"
	"sync/atomic"

	"github.com/egressd/egressd/internal/field"
)

// How much of a request body is kept for another attempt, in bytes: where a
// rule asks for retries or mirrors as much as Envoy's buffer holds, else what
// the requests need that an upstream has not looked at.
const (
	maxReplay  = 1 << 20
	safeReplay = 64 << 10
)

var (
	errStaleAttempt  = errors.New("a later attempt reads the body")
	errNotReplayable = errors.New("the body is not kept for another attempt")
)

// replayBody is a request body that several attempts can read, one after the
// other, as long as it has at most maxReplay bytes. Nothing is read ahead of
// the attempts: bodies stream, and 100-continue works.
type replayBody struct {
	src io.Reader
	// received is called once, when the body has been read to its end.
	received func()
	// moved is called when some of it has come.
	moved func()
	// keep is asked before n more bytes are kept, and forget told of those that
	// are not any more.
	keep   func(n int) bool
	forget func(n int)
	// limit is how many bytes are kept; set before the first attempt.
	limit int

	attempt  atomic.Int64 // the one that may read
	overflow atomic.Bool  // more than may be kept: no further attempt
	ended    atomic.Bool  // read to its end
	total    atomic.Int64

	mu   sync.Mutex
	kept []byte
	base int64 // bytes before kept, which nobody can have any more
	// trailer is the client's, once the body was read to its end.
	trailer field.List
	err     error // of src, io.EOF included
}

func newReplayBody(src io.Reader, received func(), keep func(n int) bool, forget func(n int), moved func()) *replayBody {
	return &replayBody{src: src, received: received, keep: keep, forget: forget, moved: moved, limit: safeReplay}
}

// complete says whether the body was read to its end.
func (b *replayBody) complete() bool { return b.ended.Load() }

// next returns the body for a new attempt; earlier attempts read no more.
func (b *replayBody) next() *attemptBody {
	return &attemptBody{b: b, attempt: b.attempt.Add(1)}
}

// ready says whether some of it, from pos on, can be read without waiting.
func (b *replayBody) ready(pos int64) bool {
	if !b.mu.TryLock() { // an attempt before waits for the client
		return false
	}
	defer b.mu.Unlock()
	if b.err != nil || pos < b.base+int64(len(b.kept)) {
		return true
	}
	r, ok := b.src.(*requestBody)
	return ok && r.ready()
}

// replayable says whether a further attempt could read it all.
func (b *replayBody) replayable() bool { return !b.overflow.Load() && !b.failed() }

// count is the number of bytes read from the client.
func (b *replayBody) count() int64 { return b.total.Load() }

// failed says whether the client broke off the body. It does not wait for a
// read that is under way.
func (b *replayBody) failed() bool {
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	return b.err != nil && !errors.Is(b.err, io.EOF)
}

// read reads at offset pos for an attempt.
func (b *replayBody) read(attempt, pos int64, p []byte) (n int, rest int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if attempt != b.attempt.Load() {
		return 0, 0, errStaleAttempt
	}
	pos -= b.base
	if pos < 0 {
		return 0, 0, errNotReplayable
	}
	if pos < int64(len(b.kept)) {
		n := copy(p, b.kept[pos:])
		if pos+int64(n) == int64(len(b.kept)) && !b.overflow.Load() {
			return n, 0, b.err
		}
		return n, 0, nil
	}
	if b.err != nil {
		return 0, 0, b.err
	}
	n, err = b.src.Read(p)
	b.total.Add(int64(n))
	if n > 0 {
		b.moved()
	}
	if !b.overflow.Load() {
		// Kept even if this attempt went stale meanwhile: the next goes on
		// from here.
		if len(b.kept)+n > b.limit || !b.keep(n) {
			b.overflow.Store(true)
		}
		b.kept = append(b.kept, p[:n]...)
		if b.overflow.Load() && attempt == b.attempt.Load() {
			// This attempt has it all; one that begins meanwhile gets an error.
			b.forget(len(b.kept) - n)
			b.base, b.kept = b.total.Load(), nil
		}
	}
	if err != nil {
		b.err = err
		if errors.Is(err, io.EOF) {
			b.received()
			b.ended.Store(true)
		}
	}
	if r, ok := b.src.(*requestBody); ok {
		rest = r.Rest()
	}
	return n, rest, err
}

// whole is all of the body, for received; false: it is not kept. Nobody may
// change it.
func (b *replayBody) whole() ([]byte, bool) {
	if b.overflow.Load() {
		return nil, false
	}
	return b.kept[:len(b.kept):len(b.kept)], true
}

// attemptBody is the body as one attempt sees it.
type attemptBody struct {
	b       *replayBody
	attempt int64
	pos     int64
	rest    int64
	closed  atomic.Bool
	trailer http.Header // of net/http: it gets its values at the body's end
}

// ready says whether some of it can be read without waiting.
func (a *attemptBody) ready() bool { return a.b.ready(a.pos) }

// Rest is how much of the chunk in which the client sent it follows what was read.
func (a *attemptBody) Rest() int64 { return a.rest }

// trailers are the fields of the trailer that go on.
func (a *attemptBody) trailers(names []string) (l field.List) {
	for i := range a.b.trailer {
		if containsName(names, a.b.trailer[i].Name) {
			l = append(l, a.b.trailer[i])
		}
	}
	return l
}

func (a *attemptBody) Read(p []byte) (int, error) {
	if a.closed.Load() {
		return 0, errStaleAttempt
	}
	n, rest, err := a.b.read(a.attempt, a.pos, p)
	a.rest = rest
	a.pos += int64(n)
	if errors.Is(err, io.EOF) {
		values := a.b.trailer.Map(textproto.CanonicalMIMEHeaderKey)
		for name := range a.trailer {
			a.trailer[name] = values[name]
		}
	}
	return n, err
}

// Close leaves the client's body open: a next attempt may read it, and the
// http.Server closes it.
func (a *attemptBody) Close() error {
	a.closed.Store(true)
	return nil
}
