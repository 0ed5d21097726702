// SPDX-License-Identifier: Apache-2.0

// Package http1 reads and writes messages of HTTP/1 (RFC 9112). A message has
// exactly one reading or is refused with an MalformedError that names the reason. What is
// read lies in pooled buffers: the strings of a head are good until the next head
// is read from the same MessageReader.
package http1

import "github.com/egressd/egressd/internal/field"

// Bounds of what is read, in bytes.
const (
	// MaxRequestHead bounds a request line and its fields; Envoy's bound is 60 KiB.
	MaxRequestHead = 68 << 10
	// MaxResponseHead bounds a status line and its fields.
	MaxResponseHead = 256 << 10
	// MaxChunkLine bounds the size of a chunk and its extensions.
	MaxChunkLine = 4 << 10
	// MaxChunkExcess bounds what a chunked body has beside data: extensions, zeros
	// before a size, and the sizes of chunks that hold next to nothing.
	MaxChunkExcess = 16 << 10
	// MaxFields bounds how many fields a head or a trailer has.
	MaxFields = 1000
	// MaxOptions bounds how many options the Connection fields of a head have: each
	// names fields that end here.
	MaxOptions = 64
	// MaxTrailer bounds the fields behind a chunked body.
	MaxTrailer = 16 << 10
	// UsualFields is how many fields are kept room for between two messages.
	UsualFields = 256
)

// MalformedError is why a message is refused. Status is what a client is told.
type MalformedError struct {
	Reason string
	Status int
}

func (e *MalformedError) Error() string { return e.Reason }

// Why a message is refused.
var (
	ErrRequestLine   = &MalformedError{"the request line is malformed", 400}
	ErrStatusLine    = &MalformedError{"the status line is malformed", 502}
	ErrVersion       = &MalformedError{"the version of HTTP is not 1.0 or 1.1", 505}
	ErrHeadTooLarge  = &MalformedError{"the header is too large", 431}
	ErrFields        = &MalformedError{"there are too many fields", 431}
	ErrOptions       = &MalformedError{"there are too many options in Connection", 400}
	ErrLineEnd       = &MalformedError{"lines end in different ways", 400}
	ErrFieldName     = &MalformedError{"the name of a field is malformed", 400}
	ErrFieldValue    = &MalformedError{"the value of a field has a control character", 400}
	ErrFolded        = &MalformedError{"request framing: a field that is folded over lines", 400}
	ErrHosts         = &MalformedError{"there are several Host fields", 400}
	ErrNoHost        = &MalformedError{"no host", 400}
	ErrLength        = &MalformedError{"request framing: Content-Length is no number", 400}
	ErrLengths       = &MalformedError{"request framing: Content-Length is there with different values", 400}
	ErrCoding        = &MalformedError{"the Transfer-Encoding is not supported", 501}
	ErrCodingOld     = &MalformedError{"Transfer-Encoding in HTTP/1.0", 400}
	ErrLengthCoding  = &MalformedError{"request framing: both Content-Length and Transfer-Encoding", 400}
	ErrChunkSize     = &MalformedError{"the size of a chunk is malformed", 400}
	ErrChunkEnd      = &MalformedError{"a chunk does not end where it should", 400}
	ErrChunkLine     = &MalformedError{"the size of a chunk and its extensions are too long", 400}
	ErrChunkExcess   = &MalformedError{"a chunked body has too much beside data", 400}
	ErrTrailerTooBig = &MalformedError{"the trailer is too large", 400}
	ErrTrailer       = &MalformedError{"the trailer is malformed", 400}
)

// What bytes may be.
const (
	isToken = 1 << iota // RFC 9110, 5.6.2
	isText              // in a value: no control character but the tab
	isHex
)

var class = func() (t [256]byte) {
	for c := range 256 {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		digit := '0' <= c && c <= '9'
		if letter || digit {
			t[c] |= isToken
		}
		if digit || 'a' <= c|0x20 && c|0x20 <= 'f' && letter {
			t[c] |= isHex
		}
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= isText
		}
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] |= isToken
	}
	return t
}()

// ValidMethod says whether s may be a method.
func ValidMethod(s string) bool { return s != "" && all(s, isToken) }

// Valid says whether the fields may be written: nothing in them ends a line.
func Valid(l field.List) bool {
	for i := range l {
		if l[i].Name == "" || !all(l[i].Name, isToken) || !all(l[i].Value, isText) {
			return false
		}
	}
	return true
}

func all(s string, what byte) bool {
	for i := range len(s) {
		if class[s[i]]&what == 0 {
			return false
		}
	}
	return true
}
