// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"errors"
	"io"
	"strconv"

	"github.com/egressd/egressd/internal/field"
)

// Body is the body of one message. Reading gives what is there, without waiting for
// more; the last bytes come with io.EOF when the end is known then.
type Body struct {
	r      *MessageReader
	length int64 // as in RequestHead and ResponseHead
	left   int64 // of the length
	rest   int64
	chunks chunks
	err    error
	// Trailer is there when the body was read to its end.
	Trailer field.List
}

// Begin begins the body behind a head that was read from r.
func (b *Body) Begin(r *MessageReader, length int64) {
	trailer := b.chunks.trailer[:0]
	*b = Body{r: r, length: length, left: max(length, 0)}
	b.chunks.trailer = trailer
	if length == 0 {
		b.err = io.EOF
	}
}

// Ended says whether the body was read to its end.
func (b *Body) Ended() bool { return b.err == io.EOF } //nolint:errorlint // set here only

// Ready says whether Read would not wait.
func (b *Body) Ready() bool {
	switch {
	case b.err != nil:
		return true
	case b.length == Chunked:
		if err := b.frame(); err != nil {
			b.err = err
			return true
		}
		return b.chunks.state == inData && len(b.r.Buffered()) > 0
	}
	return len(b.r.Buffered()) > 0
}

// Rest is how much of the same chunk follows what was read last, in bytes.
func (b *Body) Rest() int64 { return b.rest }

// Left is how much of a body of known length is still to be read.
func (b *Body) Left() int64 { return b.left }

// Took says that n bytes, which are not Buffered by the Reader, went past it.
func (b *Body) Took(n int64) {
	if b.left -= n; b.left == 0 {
		b.err = io.EOF
	}
}

func (b *Body) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	switch b.length {
	case Chunked:
		n, err = b.readChunks(p)
	case ToTheEnd:
		n, err = b.r.read(p)
	default:
		n, err = b.r.read(p[:min(int64(len(p)), b.left)])
		if b.left -= int64(n); b.left == 0 {
			err = io.EOF
		} else if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	}
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	b.err = err
	return n, err
}

// readChunks reads data up to the end of its chunk.
func (b *Body) readChunks(p []byte) (n int, err error) {
	for n == 0 {
		if len(b.r.Buffered()) == 0 {
			if err := b.r.refill(); err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return 0, err
			}
		}
		if err := b.frame(); err != nil {
			return 0, err
		}
		if b.chunks.state != inData {
			continue
		}
		there := b.r.Buffered()
		if n = copy(p[:min(int64(len(p)), b.chunks.left)], there); n > 0 {
			b.r.took(n)
			b.chunks.data(n)
			b.rest = b.chunks.left
		}
	}
	// The end may be there as well.
	return n, b.frame()
}

// frame takes what there is of framing; io.EOF: to the end of the body.
func (b *Body) frame() error {
	if there := b.r.Buffered(); len(there) > 0 && b.chunks.state != inData {
		n, err := b.chunks.next(there)
		b.r.took(n)
		if err != nil {
			return err
		}
	}
	if b.chunks.state != inEnd {
		return nil
	}
	trailer, err := b.chunks.fields()
	if err != nil {
		return err
	}
	b.Trailer = trailer
	return io.EOF
}

// Chunks writes a chunked body.
type Chunks struct{ left int64 }

// Append appends data to dst, of which rest more bytes follow: a chunk is as long
// as the one that the data came in.
func (c *Chunks) Append(dst, data []byte, rest int64) []byte {
	if len(data) == 0 {
		return dst
	}
	if c.left == 0 {
		c.left = int64(len(data)) + rest
		dst = append(strconv.AppendInt(dst, c.left, 16), "\r\n"...)
	}
	n := min(int64(len(data)), c.left)
	dst = append(dst, data[:n]...)
	if c.left -= n; c.left == 0 {
		dst = append(dst, "\r\n"...)
	}
	return c.Append(dst, data[n:], rest)
}

// Open says whether a chunk has been begun and not ended.
func (c *Chunks) Open() bool { return c.left > 0 }

// End appends the end of the body, with its trailer.
func (c *Chunks) End(dst []byte, trailer field.List) []byte {
	dst = append(dst, "0\r\n"...)
	return AppendFields(dst, trailer)
}

// AppendStatusLine appends the first line of a response.
func AppendStatusLine(dst []byte, minor, status int, reason string) []byte {
	dst = append(dst, "HTTP/1."...)
	dst = append(dst, '0'+byte(minor), ' ')
	dst = append(strconv.AppendInt(dst, int64(status), 10), ' ')
	return append(append(dst, reason...), "\r\n"...)
}

// AppendFields appends fields, and the empty line behind them.
func AppendFields(dst []byte, l field.List) []byte {
	for i := range l {
		dst = l[i].Append(dst)
	}
	return append(dst, "\r\n"...)
}
