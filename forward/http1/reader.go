// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"errors"
	"io"
	"sync"
)

// Sizes of the buffers that are kept for others.
const (
	smallBuffer = 8 << 10
	largeBuffer = 32 << 10
)

// Buffers has buffers for what is in flight. The zero value is ready to use, by
// several goroutines.
type Buffers struct {
	// OnPut sees the bytes of each buffer that is given back; nil: nobody does. Tests
	// spoil them, so that who keeps a string of a head too long is found.
	OnPut func([]byte)

	small, large sync.Pool
}

// Get returns a buffer of at least n bytes.
func (b *Buffers) Get(n int) *[]byte {
	pool, size := &b.small, smallBuffer
	if n > smallBuffer {
		pool, size = &b.large, max(n, largeBuffer)
	}
	if size <= largeBuffer {
		if p, ok := pool.Get().(*[]byte); ok {
			return p
		}
	}
	p := make([]byte, size)
	return &p
}

// Put takes a buffer back, which may be nil.
func (b *Buffers) Put(p *[]byte) {
	if p == nil {
		return
	}
	*p = (*p)[:cap(*p)]
	if b.OnPut != nil {
		b.OnPut(*p)
	}
	switch len(*p) {
	case smallBuffer:
		b.small.Put(p)
	case largeBuffer:
		b.large.Put(p)
	}
}

// Source is where a MessageReader's bytes come from.
type Source interface {
	io.Reader
	// Await is Read with a buffer that is taken from b when there is something to be
	// read, which may be never, and put back when there was not.
	Await(b Buffer) (int, error)
}

// Buffer is one that is there while it is needed.
type Buffer interface {
	Get() []byte
	Put()
}

// MessageReader reads messages of one connection, one after the other. It has no buffer
// while there is nothing in it.
type MessageReader struct {
	src  Source
	pool *Buffers
	// Requests: empty lines before a head are none of it (RFC 9112, 2.2).
	requests bool

	buf  *[]byte // what is there, and what came before it since the last head
	r, w int     // buf[r:w] is unread
	more *[]byte // what follows, when buf is read to its end
	s, t int
	seen int // how much of the unread is known to have no end of a head

	// Room is asked before n bytes are taken for a head that is not a usual one, and
	// told of -n when they are let go; nil: nobody is.
	Room func(n int) error
}

// NewMessageReader returns a MessageReader of requests, or of responses.
func NewMessageReader(src Source, pool *Buffers, requests bool) *MessageReader {
	return &MessageReader{src: src, pool: pool, requests: requests}
}

// Unread puts p before what comes.
func (r *MessageReader) Unread(p []byte) {
	if len(p) == 0 {
		return
	}
	rest := p
	if there := r.Buffered(); len(there) > 0 {
		rest = append(append([]byte(nil), p...), there...)
	}
	r.Free()
	r.buf = r.pool.Get(len(rest))
	if n := len(*r.buf); n > largeBuffer && r.Room != nil {
		_ = r.Room(n) // it is here already
	}
	r.w = copy(*r.buf, rest)
}

// Buffered is what was received and not yet read.
func (r *MessageReader) Buffered() []byte {
	if r.buf != nil && r.r < r.w {
		return (*r.buf)[r.r:r.w]
	}
	if r.more != nil {
		return (*r.more)[r.s:r.t]
	}
	return nil
}

// Within says whether a part of a message is there, but for empty lines.
func (r *MessageReader) Within() bool {
	for _, c := range r.Buffered() {
		if c != '\r' && c != '\n' {
			return true
		}
	}
	return false
}

// Free gives the buffers back; what is in them is lost.
func (r *MessageReader) Free() {
	r.drop(r.buf)
	r.drop(r.more)
	r.buf, r.more, r.r, r.w, r.s, r.t, r.seen = nil, nil, 0, 0, 0, 0, 0
}

// Release gives back the buffers that nothing is in. The last head is not to be used
// any more.
func (r *MessageReader) Release() {
	if r.more != nil {
		r.drop(r.buf)
		r.buf, r.r, r.w = r.more, r.s, r.t
		r.more, r.s, r.t = nil, 0, 0
	}
	if r.r == r.w {
		r.Free()
	}
}

// drop gives a buffer back, which may be nil.
func (r *MessageReader) drop(p *[]byte) {
	if p != nil && len(*p) > largeBuffer && r.Room != nil {
		_ = r.Room(-len(*p)) // which does not fail
	}
	r.pool.Put(p)
}

// readBuffer is a MessageReader as the Buffer that it reads into.
type readBuffer MessageReader

func (r *readBuffer) Get() []byte {
	if r.buf == nil {
		r.buf = r.pool.Get(smallBuffer)
	}
	return (*r.buf)[r.w:]
}

func (r *readBuffer) Put() {
	if r.r == r.w {
		(*MessageReader)(r).Free()
	}
}

// version is what responses begin with.
const version = "HTTP/1."

// Head returns the next head, with its empty line. It may be called again when
// the error was one of the source that passes. At the end between two messages it
// is io.EOF.
func (r *MessageReader) Head(limit int) ([]byte, error) {
	r.Release()
	for {
		if r.requests && r.seen == 0 {
			r.r += EmptyLines(r.Buffered())
		}
		there := r.Buffered()
		if n := min(len(there), len(version)); !r.requests && string(there[:n]) != version[:n] {
			return nil, ErrStatusLine
		}
		if end := headEnd(there, r.seen); end > limit || end < 0 && len(there) > limit {
			return nil, ErrHeadTooLarge
		} else if end >= 0 {
			r.r, r.seen = r.r+end, 0
			return there[:end:end], nil
		}
		if !r.requests || string(there) != "\r" { // which may begin an empty line
			r.seen = len(there)
		}
		if err := r.fill(limit); err != nil {
			if errors.Is(err, io.EOF) && r.seen > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// EmptyLines is how many bytes of p are empty lines, up to what is none (RFC 9112,
// 2.2). A CR that ends no line is none.
func EmptyLines(p []byte) (n int) {
	for {
		switch rest := p[n:]; {
		case len(rest) > 0 && rest[0] == '\n':
			n++
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			n += 2
		default:
			return n
		}
	}
}

// fill reads once, behind what is there, which has no more than limit bytes.
func (r *MessageReader) fill(limit int) error {
	if r.r == r.w {
		r.Free()
		n, err := r.src.Await((*readBuffer)(r))
		return r.filled(n, err)
	}
	switch buf := *r.buf; {
	case r.w < len(buf) && (r.r == 0 || len(buf)-r.w >= len(buf)/8):
	case r.r > 0:
		r.w, r.r = copy(buf, buf[r.r:r.w]), 0
	default:
		// Of which the limit is in, and a byte more, by which a head is too large.
		size := min(2*len(buf), max(limit+1, largeBuffer))
		if size > largeBuffer && r.Room != nil {
			if err := r.Room(size); err != nil {
				return err
			}
		}
		bigger := r.pool.Get(size)
		copy(*bigger, buf)
		r.drop(r.buf)
		r.buf = bigger
	}
	n, err := r.src.Read((*r.buf)[r.w:])
	return r.filled(n, err)
}

func (r *MessageReader) filled(n int, err error) error {
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// read reads into p what is there, or else from the source.
func (r *MessageReader) read(p []byte) (int, error) {
	if there := r.Buffered(); len(there) > 0 {
		n := copy(p, there)
		r.took(n)
		return n, nil
	}
	return r.src.Read(p)
}

// took says that n bytes of what was Buffered are read.
func (r *MessageReader) took(n int) {
	if r.buf != nil && r.r < r.w {
		r.r += n
		return
	}
	if r.s += n; r.s == r.t {
		r.s, r.t = 0, 0
	}
}

// refill reads more behind a head that is still in use, when nothing is Buffered.
func (r *MessageReader) refill() error {
	if r.more == nil {
		r.more, r.s, r.t = r.pool.Get(largeBuffer), 0, 0
	}
	n, err := r.src.Read(*r.more)
	r.t += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}
