// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"github.com/egressd/egressd/internal/field"
)

// chunkState is what the next byte of a chunked body is.
type chunkState uint8

const (
	inSize     chunkState = iota // the first digit
	inMoreSize                   // another one, or what ends it
	inBlank                      // behind the size and a blank
	inExtension
	inSizeEnd // LF
	inData
	inDataCR
	inDataLF
	inTrailer
	inEnd // behind the body
)

// chunks decodes a chunked body (RFC 9112, 7.1).
type chunks struct {
	state   chunkState
	left    int64 // of the chunk, in bytes
	line    int   // bytes of the line so far
	excess  int64
	trailer []byte // with the line end before it, for headEnd
}

// maxChunk is more than any chunk has; a bigger one overflows elsewhere.
const maxChunk = 1 << 59

// next takes framing from p up to data, or to the end of the body, and says how many
// bytes it took.
func (c *chunks) next(p []byte) (n int, err error) {
	for n < len(p) && c.state != inData && c.state != inEnd {
		if c.state == inTrailer {
			m, err := c.readTrailer(p[n:])
			n += m
			if err != nil {
				return n, err
			}
			continue
		}
		if err := c.step(p[n]); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// step takes one byte of framing.
func (c *chunks) step(b byte) error {
	if c.line++; c.line > MaxChunkLine {
		return ErrChunkLine
	}
	switch c.state {
	case inSize, inMoreSize:
		return c.size(b)
	case inBlank:
		switch b {
		case ' ', '\t':
		case ';':
			c.state = inExtension
		case '\r':
			c.state = inSizeEnd
		default:
			return ErrChunkSize
		}
	case inExtension:
		switch {
		case b == '\r':
			c.state = inSizeEnd
		case class[b]&isText == 0:
			return ErrChunkSize
		}
	case inSizeEnd:
		if b != '\n' {
			return ErrChunkSize
		}
		return c.begin()
	case inDataCR:
		if b != '\r' {
			return ErrChunkEnd
		}
		c.state = inDataLF
	case inDataLF:
		if b != '\n' {
			return ErrChunkEnd
		}
		c.state, c.line = inSize, 0
	}
	return nil
}

func (c *chunks) size(b byte) error {
	switch {
	case class[b]&isHex != 0:
		if c.left >= maxChunk/16 {
			return ErrChunkSize
		}
		c.state, c.left = inMoreSize, c.left<<4|int64(digit(b))
	case c.state == inSize:
		return ErrChunkSize
	case b == ' ' || b == '\t':
		c.state = inBlank
	case b == ';':
		c.state = inExtension
	case b == '\r':
		c.state = inSizeEnd
	default:
		return ErrChunkSize
	}
	return nil
}

func digit(b byte) byte {
	if b <= '9' {
		return b - '0'
	}
	return b | 0x20 - 'a' + 10
}

// begin is called behind the size of a chunk.
func (c *chunks) begin() error {
	// Whoever sends each byte in a chunk of its own has five bytes beside it.
	c.excess = max(c.excess+int64(c.line)+2-16-2*c.left, 0)
	if c.excess > MaxChunkExcess {
		return ErrChunkExcess
	}
	c.line = 0
	if c.state = inData; c.left == 0 {
		c.state, c.trailer = inTrailer, append(c.trailer[:0], "\r\n"...)
	}
	return nil
}

// data takes n bytes of data.
func (c *chunks) data(n int) {
	if c.left -= int64(n); c.left == 0 {
		c.state, c.line = inDataCR, 0
	}
}

// readTrailer takes what belongs to the trailer.
func (c *chunks) readTrailer(p []byte) (n int, err error) {
	seen := len(c.trailer)
	c.trailer = append(c.trailer, p[:min(len(p), MaxTrailer+4)]...)
	end := headEnd(c.trailer, seen)
	switch {
	case end > MaxTrailer || end < 0 && len(c.trailer) > MaxTrailer:
		return 0, ErrTrailerTooBig
	case end >= 0:
		n = end - seen
		c.trailer, c.state = c.trailer[:end], inEnd
		return n, nil
	}
	return len(p), nil
}

// fields are those of the trailer.
func (c *chunks) fields() (field.List, error) {
	if len(c.trailer) <= len("\r\n\r\n") {
		if string(c.trailer) != "\r\n\r\n" {
			return nil, ErrTrailer
		}
		return nil, nil
	}
	var list field.List
	var f framing
	if err := parseFields(&list, string(c.trailer[2:]), crlf, &f); err != nil {
		return nil, ErrTrailer
	}
	return list, nil
}
