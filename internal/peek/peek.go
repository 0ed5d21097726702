// SPDX-License-Identifier: Apache-2.0

// Package peek reads the first bytes of a connection: which protocol they
// belong to and, for TLS, what the ClientHello says. Nothing here does I/O;
// the functions look at a prefix and say when they need a longer one.
package peek

import "bytes"

// Sniffed is the protocol that first bytes belong to.
type Sniffed uint8

// The kinds.
const (
	// NeedMore: the bytes are still a prefix of several kinds.
	NeedMore Sniffed = iota
	// TLSHello: a TLS handshake record; ClientHello says more.
	TLSHello
	// HTTP1: an HTTP/1 method and a space.
	HTTP1
	// HTTP2: the connection preface of HTTP/2 with prior knowledge (RFC 9113, 3.4).
	HTTP2
	// Other: none of these.
	Other
)

var kindNames = [...]string{"need-more", "tls", "http1", "http2", "other"}

func (k Sniffed) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "?"
}

// maxMethod is the longest method that is taken for HTTP; the longest
// registered one (UPDATEREDIRECTREF) has 17 letters.
const maxMethod = 32

var preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

// Classify says which protocol the first bytes b of a client belong to. It
// returns NeedMore as long as more bytes could still make it TLS or HTTP.
func Classify(b []byte) Sniffed {
	if len(b) == 0 {
		return NeedMore
	}
	if b[0] == recordHandshake {
		switch {
		case len(b) == 1:
			return NeedMore
		case b[1] == 3:
			return TLSHello
		}
		return Other
	}
	if n := min(len(b), len(preface)); bytes.Equal(b[:n], preface[:n]) {
		if n == len(preface) {
			return HTTP2
		}
		return NeedMore
	}
	return classifyMethod(b)
}

// classifyMethod looks for a method and a space. RFC 9110 allows any token,
// but letters, '-' and '_' cover every registered method, and digits would
// take SSH's and IMAP's greetings for HTTP.
func classifyMethod(b []byte) Sniffed {
	for i, c := range b {
		switch {
		case c == ' ' && i > 0:
			return HTTP1
		case i == maxMethod || !methodByte(c):
			return Other
		}
	}
	return NeedMore
}

func methodByte(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || c == '-' || c == '_'
}
