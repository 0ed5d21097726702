// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"math"
	"strconv"
	"sync"
)

// maxHeaderBytes bounds a request's header; Envoy's bound is 60 KiB.
const maxHeaderBytes = 64 << 10

// framing is what the raw head of an HTTP/1 request says about its body.
type framing uint8

const (
	framingUnknown framing = iota // the stream is not understood (any more)
	framingGood
	// framingCoded: Transfer-Encoding, which HTTP/1.0 does not have (RFC 9112, 6.1).
	framingCoded
	// framingAmbiguous: both Content-Length and Transfer-Encoding, so that the
	// next one to read it may see another end (RFC 9112, 6.1).
	framingAmbiguous
	// framingFolded: a field goes on in the next line (RFC 9112, 5.2).
	framingFolded
)

func (f framing) String() string {
	switch f {
	case framingGood, framingCoded:
		return "good"
	case framingAmbiguous:
		return "both Content-Length and Transfer-Encoding"
	case framingFolded:
		return "a field that is folded over lines"
	}
	return "not understood where the request before it ended"
}

// headState is what the next byte of the stream belongs to.
type headState uint8

const (
	inRequestLine headState = iota
	inFields
	inBody // of a length that is known
	inChunkSize
	inChunkData
	inChunkEnd // the CRLF behind the data
	inTrailer
	inNothing // not understood, or no HTTP/1 any more
)

// requestHead is the head of one request.
type requestHead struct {
	framing
	raw []byte // all of it, as it came; the empty line at its end included
}

// target is the request target as it was sent.
func (h *requestHead) target() string {
	line, _ := firstLine(h.raw)
	_, rest, _ := bytes.Cut(line, []byte(" "))
	target, _, _ := bytes.Cut(rest, []byte(" "))
	return string(target)
}

// maxRawHead bounds what is kept of a head; net/http reads no longer one.
const maxRawHead = maxHeaderBytes + 8<<10

// usualHead is room for a head as clients send it.
const usualHead = 512

// maxHeadLine is how much of a line is kept: the names and values that matter
// are shorter. A longer Content-Length is not understood.
const maxHeadLine = 96

// heads follows the bytes of an HTTP/1 connection beside net/http, which reads
// the same bytes and deletes fields that contradict one another before a
// handler sees them, and forgets their order and spelling. The handler takes one
// head for each request. It is stricter than net/http where they differ, and what
// it does not understand it does not follow further, so that no later request is
// served.
//
// It changes one thing: net/http refuses request targets with a "%" that begins
// no escape, which clients send and servers take. So it gets to see "_" in place
// of each; the target that counts is the one of the head.
type heads struct {
	mu    sync.Mutex
	state headState
	left  int64 // of the body or chunk, in bytes

	line   [maxHeadLine]byte
	n      int // bytes of the line so far, kept or not
	last   byte
	target bool          // the next byte is of a request line, behind the method
	head   []byte        // as it came, so far
	found  []requestHead // not yet taken
	begun  int64         // heads found, ever

	coded, folded bool
	length        int64 // -1: none
}

func newHeads() *heads { return &heads{length: -1} }

// take returns the head of the next request.
func (h *heads) take() requestHead {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.found) == 0 {
		return requestHead{}
	}
	f := h.found[0]
	if h.found = h.found[1:]; len(h.found) == 0 {
		h.found = nil
	}
	return f
}

// between says whether the last byte was the last one of a request, and how many
// requests there were.
func (h *heads) between() (yes bool, requests int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state == inRequestLine && h.n == 0, h.begun
}

// within says whether the last byte was in the middle of a request.
func (h *heads) within() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state != inNothing && (h.state != inRequestLine || h.n > 0)
}

// stop says that what comes is no HTTP/1 any more.
func (h *heads) stop() {
	h.mu.Lock()
	h.state = inNothing
	h.mu.Unlock()
}

// read takes the next bytes of the connection, and returns how many of them net/http
// is to see: not the empty lines before a request (RFC 9112, 2.2).
func (h *heads) read(b []byte) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(b)
	for rest := b; len(rest) > 0 && h.state != inNothing; {
		if h.state == inRequestLine && h.n == 0 && (rest[0] == '\r' || rest[0] == '\n') {
			copy(rest, rest[1:])
			n, rest = n-1, rest[:len(rest)-1]
			continue
		}
		rest = h.next(rest)
	}
	return n
}

// next takes a line, a part of one, or what there is of a body.
func (h *heads) next(b []byte) []byte {
	if h.state == inBody || h.state == inChunkData {
		n := min(int64(len(b)), h.left)
		if h.left -= n; h.left == 0 {
			h.state = h.behind()
		}
		return b[n:]
	}
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		h.record(b)
		h.keep(b)
		return nil
	}
	h.record(b[:end+1])
	h.keep(b[:end])
	h.state = h.lineEnd()
	h.n, h.last = 0, 0
	return b[end+1:]
}

// record keeps what belongs to a head, before net/http gets to see it.
func (h *heads) record(b []byte) {
	if h.state != inRequestLine && h.state != inFields {
		return
	}
	if h.head == nil {
		h.head = make([]byte, 0, usualHead)
	}
	if h.head = append(h.head, b...); len(h.head) > maxRawHead {
		h.head, h.state = nil, inNothing
		return
	}
	if h.state != inRequestLine {
		return
	}
	if h.n == 0 {
		h.target = false
	}
	for i, c := range b {
		switch {
		case c == ' ':
			h.target = true
		case c == '%' && h.target:
			b[i] = '_'
		}
	}
}

// behind is the state behind a body or a chunk's data.
func (h *heads) behind() headState {
	if h.state == inChunkData {
		return inChunkEnd
	}
	return inRequestLine
}

func (h *heads) keep(b []byte) {
	if len(b) == 0 {
		return
	}
	if h.n < len(h.line) {
		copy(h.line[h.n:], b)
	}
	h.n += len(b)
	h.last = b[len(b)-1]
}

// text is the line without its CR, as far as it was kept; whole says whether
// it was kept whole, and crlf whether there was a CR.
func (h *heads) text() (line []byte, whole, crlf bool) {
	n := h.n
	if crlf = n > 0 && h.last == '\r'; crlf {
		n--
	}
	return h.line[:min(n, len(h.line))], n <= len(h.line), crlf
}

// lineEnd looks at a line, and returns what comes next.
func (h *heads) lineEnd() headState {
	line, whole, crlf := h.text()
	switch h.state {
	case inRequestLine:
		if len(line) == 0 {
			return inNothing // cannot be: read leaves empty lines out
		}
		h.coded, h.folded, h.length = false, false, -1
		return inFields
	case inFields:
		if len(line) == 0 {
			return h.headEnd()
		}
		return h.field(line, whole)
	case inChunkSize:
		return h.chunkSize(line, whole, crlf)
	case inChunkEnd:
		if len(line) == 0 && crlf {
			return inChunkSize
		}
	case inTrailer:
		switch {
		case !crlf:
		case len(line) == 0:
			return inRequestLine
		default:
			return inTrailer
		}
	}
	return inNothing
}

func (h *heads) field(line []byte, whole bool) headState {
	if line[0] == ' ' || line[0] == '\t' {
		h.folded = true
		return inFields
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	switch {
	case !ok:
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		h.coded = true
	case bytes.EqualFold(name, []byte("Content-Length")):
		n, err := strconv.ParseUint(string(bytes.Trim(value, " \t")), 10, 63)
		if err != nil || !whole || h.length >= 0 && h.length != int64(n) {
			return inNothing
		}
		h.length = int64(n)
	}
	return inFields
}

// headEnd judges the head, and says where its body ends.
func (h *heads) headEnd() headState {
	f, next := framingGood, inRequestLine
	switch {
	case h.folded:
		f, next = framingFolded, inNothing
	case h.coded && h.length >= 0:
		f, next = framingAmbiguous, inNothing
	case h.coded:
		f, next = framingCoded, inChunkSize
	case h.length > 0:
		h.left, next = h.length, inBody
	}
	h.found = append(h.found, requestHead{f, h.head})
	h.head = nil
	h.begun++
	return next
}

func (h *heads) chunkSize(line []byte, whole, crlf bool) headState {
	digits := 0
	for digits < len(line) && isHex(line[digits]) {
		digits++
	}
	rest := bytes.TrimLeft(line[digits:], " \t")
	if !crlf || digits == 0 || len(rest) > 0 && rest[0] != ';' || !whole && digits == len(line) {
		return inNothing
	}
	n, err := strconv.ParseUint(string(line[:digits]), 16, 64)
	switch {
	case err != nil || n > math.MaxInt64:
		return inNothing
	case n == 0:
		return inTrailer
	}
	h.left = int64(n)
	return inChunkData
}
