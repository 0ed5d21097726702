// SPDX-License-Identifier: Apache-2.0

package flowrecord

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/egressd/egressd/internal/flow"
)

// RecordError is about one line; those behind it can be read.
type RecordError struct {
	File string
	Line int // from 1
	Err  error
}

func (e *RecordError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap returns what is wrong with the line.
func (e *RecordError) Unwrap() error { return e.Err }

// RecordReader reads the lines of one log. Use NewReader.
type RecordReader struct {
	name string
	in   *bufio.Reader
	line int
	long []byte // a line that is longer than the buffer of in
	text []byte // of the last event
}

// NewReader reads what r has, compressed by gzip or not; name is for errors.
func NewReader(r io.Reader, name string) (*RecordReader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b { // RFC 1952
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		in = bufio.NewReaderSize(z, 64<<10)
	}
	return &RecordReader{name: name, in: in}, nil
}

// Next returns the next event. After a *RecordError it can be called again; io.EOF is the
// end. Empty lines are passed over.
func (r *RecordReader) Next() (flow.Event, error) {
	for {
		text, err := r.next()
		var bad *RecordError
		switch {
		case errors.Is(err, io.EOF) && len(text) == 0:
			return flow.Event{}, io.EOF
		case errors.As(err, &bad):
			return flow.Event{}, err
		case err != nil && !errors.Is(err, io.EOF):
			return flow.Event{}, fmt.Errorf("read %s: %w", r.name, err)
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		e, err := Parse(text)
		if err != nil {
			return flow.Event{}, &RecordError{r.name, r.line, err}
		}
		r.text = text
		return e, nil
	}
}

// Text is the line of the event that Next returned last, without its end. It counts until
// the next Next.
func (r *RecordReader) Text() []byte { return r.text }

// next is one line with its end. One that is too long is read over.
func (r *RecordReader) next() ([]byte, error) {
	r.line++
	r.long = r.long[:0]
	for size := 0; ; {
		part, err := r.in.ReadSlice('\n')
		size += len(part)
		if size <= MaxLine && (len(r.long) > 0 || errors.Is(err, bufio.ErrBufferFull)) {
			r.long = append(r.long, part...)
			part = r.long
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case size > MaxLine:
			return nil, &RecordError{r.name, r.line, fmt.Errorf("the line has %d bytes, and %d are the most", size, MaxLine)}
		default:
			return part, err
		}
	}
}
