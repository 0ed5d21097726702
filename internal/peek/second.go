// SPDX-License-Identifier: Apache-2.0

package peek

import "strings"

// Judgement is what Second makes of the bytes so far.
type Judgement uint8

const (
	// Undecided: a second ClientHello may still come.
	Undecided Judgement = iota
	// Settled: none comes any more, or it came and has the first one's name.
	Settled
	// Refused: it has another name, none, or is no good.
	Refused
)

// Record types of RFC 8446 section 5.1.
const (
	recordCCS  = 20
	recordData = 23
)

const (
	// maxAnyHello is more than any server reads (OpenSSL: 131,396 bytes).
	maxAnyHello = 0x2ffff
	// maxOpaque bounds records that are not read: encrypted ones are longer
	// (RFC 5246 section 6.2.3).
	maxOpaque = 1<<14 + 2048
	// maxEarly is how far a connection with early data is read: where it was
	// accepted, nothing tells when a second hello is past.
	maxEarly = 64 << 10
)

// Second reads what a client sends behind its ClientHello. A server may ask for a
// second one (HelloRetryRequest, RFC 8446 section 4.1.4) and takes the name from
// that. Before it there may be a change_cipher_spec, alerts that a server ignores
// and, if the first hello announced it, early data, which the server skips.
// bpf/hello.h reads the same in the kernel.
type Second struct {
	name  string
	early bool

	head   [recordHeader]byte
	headed int // bytes of head that are there
	left   int // bytes left of the record
	ccs    bool
	msg    []byte // of a handshake message
	read   int    // all bytes
	now    Judgement
}

// NewSecond is for a connection whose first hello was h.
func NewSecond(h Hello) *Second { return &Second{name: h.SNI, early: h.EarlyData} }

// Read judges the next bytes. They may be sent on unless it says Refused: a hello
// that is not complete is of no use to a server.
func (s *Second) Read(b []byte) Judgement {
	s.read += len(b)
	for len(b) > 0 && s.now == Undecided {
		if s.headed < recordHeader {
			s.head[s.headed] = b[0]
			s.headed++
			b = b[1:]
			s.now = s.header()
			continue
		}
		n := min(len(b), s.left)
		s.left -= n
		if s.head[0] == recordHandshake {
			s.msg = append(s.msg, b[:n]...)
			s.now = s.message()
		}
		b = b[n:]
		if s.left == 0 {
			s.headed = 0
		}
	}
	if s.now == Undecided && s.early && len(s.msg) == 0 && s.read > maxEarly {
		s.now = Settled
	}
	return s.now
}

// header judges the part of a record's header that is there.
func (s *Second) header() Judgement {
	switch s.headed {
	case 1:
		return s.kind(s.head[0])
	case 2:
		if s.head[1] != 3 {
			return Refused
		}
	case recordHeader:
		s.left = int(s.head[3])<<8 | int(s.head[4])
		if s.left > maxOpaque || s.left == 0 && s.head[0] == recordHandshake {
			return Refused
		}
		if s.left == 0 {
			s.headed = 0
		}
	}
	return Undecided
}

// kind judges the type of a record.
func (s *Second) kind(t byte) Judgement {
	begun := len(s.msg) > 0
	switch {
	case t == recordHandshake:
	case t == recordData && !s.early:
		// What began as a second hello was none, if it may have been encrypted.
		if begun && !s.ccs {
			return Refused
		}
		return Settled
	case begun && t != recordData:
		return Refused
	case t == recordCCS:
		s.ccs = true
	}
	return Undecided
}

// message judges the handshake message so far. Behind a change_cipher_spec it may
// be an encrypted one of TLS 1.2, which begins as a hello does by chance once in
// 20,000 times.
func (s *Second) message() Judgement {
	if t := s.msg[0]; t != handshakeClientHello {
		// Of the others TLS 1.2 goes on with certificate or client_key_exchange.
		if s.ccs || t == 11 || t == 16 {
			return Settled
		}
		return Refused
	}
	if len(s.msg) < handshakeHeader {
		return Undecided
	}
	size := int(s.msg[1])<<16 | int(s.msg[2])<<8 | int(s.msg[3])
	switch body := s.msg[handshakeHeader:]; {
	case s.ccs && size > maxAnyHello:
		return Settled
	case handshakeHeader+size > MaxHello || len(body) > size:
		return Refused
	case len(body) == size:
		h, ok := parseHello(body)
		if s.left > 0 { // another message behind it in its record
			return Refused
		}
		if !ok || !h.HasSNI != (s.name == "") || !strings.EqualFold(h.SNI, s.name) {
			return Refused
		}
		return Settled
	}
	return Undecided
}
