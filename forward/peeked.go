// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"net"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/peek"
)

// peekChunk is what the buffer for first bytes starts with; a post-quantum
// ClientHello fits.
const peekChunk = 2048

// peeked are the first bytes of a connection, under one deadline in all.
type peeked struct {
	nc       *net.TCPConn
	bytes    []byte
	deadline time.Time
	// second reads on behind a ClientHello; nil: it is none.
	second *peek.Second
	// http: it can be HTTP only, and empty lines may come before it.
	http bool
	// from has room for first bytes, and has it again when they are forwarded.
	from *sync.Pool
	room *[peekChunk]byte
}

// request is what was read, without the empty lines before a request (RFC 9112,
// 2.2).
func (p *peeked) request() []byte {
	if p.http {
		return bytes.TrimLeft(p.bytes, "\r\n")
	}
	return p.bytes
}

func (t *conn) newPeeked() *peeked {
	return &peeked{nc: t.nc, deadline: t.opened.Add(t.core.o.PeekTimeout), from: &t.core.firstBytes}
}

// free lets go of the bytes.
func (p *peeked) free() {
	if p.bytes = nil; p.room != nil {
		p.from.Put(p.room)
		p.room = nil
	}
}

// grow makes room for more.
func (p *peeked) grow() {
	if cap(p.bytes) > 0 {
		p.bytes = append(make([]byte, 0, 2*cap(p.bytes)), p.bytes...)
		return
	}
	room, ok := p.from.Get().(*[peekChunk]byte)
	if !ok {
		room = new([peekChunk]byte)
	}
	p.room, p.bytes = room, room[:0]
}

// more reads once, until the deadline given. At least one byte was read when
// the error is nil.
func (p *peeked) more(deadline time.Time) error {
	if len(p.bytes) == cap(p.bytes) {
		p.grow()
	}
	if err := p.nc.SetReadDeadline(deadline); err != nil {
		return err
	}
	n, err := p.nc.Read(p.bytes[len(p.bytes):cap(p.bytes)])
	p.bytes = p.bytes[:len(p.bytes)+n]
	if n > 0 {
		return nil
	}
	return err
}

// done lifts the deadline before the bytes are forwarded.
func (p *peeked) done() error { return p.nc.SetReadDeadline(time.Time{}) }

// classify reads until the protocol is known. While nothing at all was read
// the deadline is silence.
func (p *peeked) classify(silence time.Time) (peek.Sniffed, error) {
	for {
		if k := peek.Classify(p.request()); k != peek.NeedMore {
			return k, nil
		}
		deadline := p.deadline
		if len(p.bytes) == 0 {
			deadline = silence
		}
		if err := p.more(deadline); err != nil {
			return peek.NeedMore, err
		}
	}
}

// secondName is what events say of a bad second hello.
const secondName = "a second ClientHello without the name of the first"
