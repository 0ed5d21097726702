// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"net"
	"sync"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/internal/peek"
)

// peekChunk is what the buffer for first bytes starts with; a post-quantum
// ClientHello fits.
const peekChunk = 2048

// Peeked are the first bytes of a connection, under one deadline in all.
type Peeked struct {
	nc       net.Conn
	Bytes    []byte
	Deadline time.Time
	// Second reads on behind a ClientHello; nil: it is none.
	Second *peek.Second
	// HTTPOnly: it can be HTTP only, and empty lines may come before it.
	HTTPOnly bool
	// from has room for first bytes, and has it again when they are forwarded.
	from *FirstBytes
	room *[peekChunk]byte
}

// FirstBytes has room for the first bytes of connections. The zero value is ready to
// use, by several goroutines.
type FirstBytes struct{ pool sync.Pool }

// Request is what was read, without the empty lines before a request (RFC 9112,
// 2.2).
func (p *Peeked) Request() []byte {
	if !p.HTTPOnly {
		return p.Bytes
	}
	rest := p.Bytes[http1.EmptyLines(p.Bytes):]
	if string(rest) == "\r" { // which may begin another one
		return nil
	}
	return rest
}

// NewPeeked is for the first bytes of nc, which must come until the deadline.
func NewPeeked(nc net.Conn, deadline time.Time, from *FirstBytes) *Peeked {
	return &Peeked{nc: nc, Deadline: deadline, from: from}
}

// Free lets go of the bytes.
func (p *Peeked) Free() {
	if p.Bytes = nil; p.room != nil {
		p.from.pool.Put(p.room)
		p.room = nil
	}
}

// grow makes room for more.
func (p *Peeked) grow() {
	if cap(p.Bytes) > 0 {
		p.Bytes = append(make([]byte, 0, 2*cap(p.Bytes)), p.Bytes...)
		return
	}
	room, ok := p.from.pool.Get().(*[peekChunk]byte)
	if !ok {
		room = new([peekChunk]byte)
	}
	p.room, p.Bytes = room, room[:0]
}

// More reads once, until the deadline given. At least one byte was read when
// the error is nil.
func (p *Peeked) More(deadline time.Time) error {
	if len(p.Bytes) == cap(p.Bytes) {
		p.grow()
	}
	if err := p.nc.SetReadDeadline(deadline); err != nil {
		return err
	}
	n, err := p.nc.Read(p.Bytes[len(p.Bytes):cap(p.Bytes)])
	p.Bytes = p.Bytes[:len(p.Bytes)+n]
	if n > 0 {
		return nil
	}
	return err
}

// Done lifts the deadline before the bytes are forwarded.
func (p *Peeked) Done() error { return p.nc.SetReadDeadline(time.Time{}) }

// Classify reads until the protocol is known. While nothing at all was read
// the deadline is silence.
func (p *Peeked) Classify(silence time.Time) (peek.Sniffed, error) {
	for {
		if k := peek.Classify(p.Request()); k != peek.NeedMore {
			return k, nil
		}
		deadline := p.Deadline
		if len(p.Bytes) == 0 {
			deadline = silence
		}
		if err := p.More(deadline); err != nil {
			return peek.NeedMore, err
		}
	}
}

// SecondName is what events say of a bad second hello.
const SecondName = "a second ClientHello without the name of the first"
