// SPDX-License-Identifier: Apache-2.0

package message

import (
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/egressd/egressd/internal/field"
)

// How much of a request body is kept for another attempt, in bytes: where a
// rule asks for retries or mirrors as much as Envoy's buffer holds, else what
// the requests need that an upstream has not looked at.
const (
	MaxReplay  = 1 << 20
	SafeReplay = 64 << 10
)

var (
	errStaleAttempt  = errors.New("a later attempt reads the body")
	errNotReplayable = errors.New("the body is not kept for another attempt")
	errEnded         = errors.New("the exchange has ended")
)

// streamed is a body that comes in pieces.
type streamed interface {
	// Ready says whether some of it can be read without waiting.
	Ready() bool
	// Rest is how much of the same chunk follows what was read last, in bytes.
	Rest() int64
}

// ReplayBody is a request body that several attempts can read, one after the
// other, as long as it has at most maxReplay bytes. Nothing is read ahead of
// the attempts: bodies stream, and 100-continue works.
type ReplayBody struct {
	src io.Reader
	// received is called once, when the body has been read to its end.
	received func()
	// moved is called when some of it has come.
	moved func()
	// keep is asked before n more bytes are kept, and forget told of those that
	// are not any more.
	keep   func(n int) bool
	forget func(n int)
	// Limit is how many bytes are kept; set before the first attempt.
	Limit int

	attempt  atomic.Int64 // the one that may read
	overflow atomic.Bool  // more than may be kept: no further attempt
	ended    atomic.Bool  // read to its end
	awaited  atomic.Bool  // a read waits for the client
	total    atomic.Int64

	mu   sync.Mutex
	kept []byte
	base int64 // bytes before kept, which nobody can have any more
	// Trailer is the client's, once the body was read to its end.
	Trailer field.List
	err     error // of src, io.EOF included
}

// NewReplayBody is a body that src has. received is called once, at its end, moved
// when some of it has come; keep is asked before n more bytes are kept, and forget
// told of those that are not any more.
func NewReplayBody(src io.Reader, received func(), keep func(n int) bool, forget func(n int), moved func()) *ReplayBody {
	return &ReplayBody{src: src, received: received, keep: keep, forget: forget, moved: moved, Limit: SafeReplay}
}

// Complete says whether the body was read to its end.
func (b *ReplayBody) Complete() bool { return b.ended.Load() }

// Awaited says whether somebody waits for more of it from the client: else whoever it
// is sent to has not taken what there is.
func (b *ReplayBody) Awaited() bool { return b.awaited.Load() }

// Next returns the body for a new attempt; earlier attempts read no more.
func (b *ReplayBody) Next() *AttemptBody {
	return &AttemptBody{b: b, attempt: b.attempt.Add(1)}
}

// End has nobody read any more, and waits for a read that is under way: what src reads
// from is another's when the exchange has ended, and net/http's HTTP/2 goes on reading
// for a while when its RoundTrip has returned. A read that waits for the client must
// have been interrupted.
func (b *ReplayBody) End() {
	b.attempt.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = errEnded
	}
}

// ready says whether some of it, from pos on, can be read without waiting.
func (b *ReplayBody) ready(pos int64) bool {
	if !b.mu.TryLock() { // an attempt before waits for the client
		return false
	}
	defer b.mu.Unlock()
	if b.err != nil || pos < b.base+int64(len(b.kept)) {
		return true
	}
	r, ok := b.src.(streamed)
	return ok && r.Ready()
}

// Replayable says whether a further attempt could read it all.
func (b *ReplayBody) Replayable() bool { return !b.overflow.Load() && !b.Failed() }

// Count is the number of bytes read from the client.
func (b *ReplayBody) Count() int64 { return b.total.Load() }

// Failed says whether the client broke off the body. It does not wait for a
// read that is under way.
func (b *ReplayBody) Failed() bool {
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	return b.err != nil && !errors.Is(b.err, io.EOF)
}

// read reads at offset pos for an attempt.
func (b *ReplayBody) read(attempt, pos int64, p []byte) (n int, rest int64, err error) {
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
	b.awaited.Store(true)
	n, err = b.src.Read(p)
	b.awaited.Store(false)
	b.total.Add(int64(n))
	if n > 0 {
		b.moved()
	}
	if !b.overflow.Load() {
		// Kept even if this attempt went stale meanwhile: the next goes on
		// from here.
		if len(b.kept)+n > b.Limit || !b.keep(n) {
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
	if r, ok := b.src.(streamed); ok {
		rest = r.Rest()
	}
	return n, rest, err
}

// Whole is all of the body, for received; false: it is not kept. Nobody may
// change it.
func (b *ReplayBody) Whole() ([]byte, bool) {
	if b.overflow.Load() {
		return nil, false
	}
	return b.kept[:len(b.kept):len(b.kept)], true
}

// AttemptBody is the body as one attempt sees it.
type AttemptBody struct {
	b       *ReplayBody
	attempt int64
	pos     int64
	rest    int64
	closed  atomic.Bool
	Trailer http.Header // of net/http: it gets its values at the body's end
}

// Ready says whether some of it can be read without waiting.
func (a *AttemptBody) Ready() bool { return a.b.ready(a.pos) }

// Rest is how much of the chunk in which the client sent it follows what was read.
func (a *AttemptBody) Rest() int64 { return a.rest }

// Trailers are the fields of the trailer that go on.
func (a *AttemptBody) Trailers(names []string) (l field.List) {
	for i := range a.b.Trailer {
		if ContainsName(names, a.b.Trailer[i].Name) {
			l = append(l, a.b.Trailer[i])
		}
	}
	return l
}

// Read reads from where the attempt is.
func (a *AttemptBody) Read(p []byte) (int, error) {
	if a.closed.Load() {
		return 0, errStaleAttempt
	}
	n, rest, err := a.b.read(a.attempt, a.pos, p)
	a.rest = rest
	a.pos += int64(n)
	if errors.Is(err, io.EOF) {
		values := a.b.Trailer.Map(textproto.CanonicalMIMEHeaderKey)
		for name := range a.Trailer { // net/http writes it, when the exchange may have ended
			for _, v := range values[name] {
				a.Trailer[name] = append(a.Trailer[name], strings.Clone(v))
			}
		}
	}
	return n, err
}

// Close leaves the client's body open: a next attempt may read it, and the
// http.Server closes it.
func (a *AttemptBody) Close() error {
	a.closed.Store(true)
	return nil
}
