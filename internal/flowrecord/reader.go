// SPDX-License-Identifier: Apache-2.0

package flowrecord

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

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

// Stdin is the path that stands for standard input.
const Stdin = "-"

// Unread is what could not be read among lines that could.
type Unread struct {
	// Read is how many lines were read, Bad how many were not, First the first of these.
	Read, Bad int
	First     error
	// Cut are compressed files whose end is missing: nobody knows how many lines were
	// in it.
	Cut []CutFile
}

// CutFile is a compressed file that ends too early.
type CutFile struct {
	Name string
	Read int // lines before that
}

// Complete says that nothing is missing.
func (u *Unread) Complete() bool { return u.Bad == 0 && len(u.Cut) == 0 }

// Each calls f for the events of log files, the file that begins first coming first, as
// long as f returns true. Lines that are none are counted, and of a compressed file
// that ends too early the lines before that are read; that a file cannot be read is an
// error. stdin is read where a path is Stdin, behind all files.
func Each(paths []string, stdin io.Reader, f func(flow.Event) bool) (Unread, error) {
	return EachLine(paths, stdin, func(e flow.Event, _ []byte) bool { return f(e) })
}

// EachLine is Each for who wants the lines as well, as they are there: they may have
// fields that are not known here. A line counts until f returns.
func EachLine(paths []string, stdin io.Reader, f func(e flow.Event, line []byte) bool) (Unread, error) {
	var u Unread
	sorted, err := byTime(paths)
	if err != nil {
		return u, err
	}
	for _, path := range sorted {
		if more, err := u.file(path, stdin, f); err != nil || !more {
			return u, err
		}
	}
	return u, nil
}

// byTime sorts files by their first event, each file once.
func byTime(paths []string) ([]string, error) {
	type begin struct {
		path string
		at   time.Time
	}
	var files []begin
	for _, path := range paths {
		if path != Stdin {
			path = filepath.Clean(path)
		}
		if slices.ContainsFunc(files, func(b begin) bool { return b.path == path }) {
			continue
		}
		b := begin{path: path}
		if path == Stdin {
			b.at = time.Unix(1<<40, 0) // behind all others
		} else if _, err := new(Unread).file(path, nil, func(e flow.Event, _ []byte) bool { b.at = e.Time; return false }); err != nil {
			return nil, err
		}
		files = append(files, b)
	}
	slices.SortStableFunc(files, func(a, b begin) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.path, b.path)) })
	out := make([]string, 0, len(files))
	for _, b := range files {
		out = append(out, b.path)
	}
	return out, nil
}

// file reads one file, and says whether f wants more.
func (u *Unread) file(path string, stdin io.Reader, f func(flow.Event, []byte) bool) (bool, error) {
	in, name := stdin, "<stdin>"
	if path != Stdin {
		opened, err := os.Open(path)
		if err != nil {
			return false, err
		}
		defer opened.Close()
		if info, err := opened.Stat(); err == nil && info.IsDir() {
			return false, fmt.Errorf("%s is a directory: name the files of the flow log in it", path)
		}
		in, name = opened, path
	}
	before := u.Read
	r, err := NewReader(in, name)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return u.cut(name, 0), nil
	}
	if err != nil {
		return false, err
	}
	for {
		e, err := r.Next()
		switch bad := (*RecordError)(nil); {
		case err == nil:
			u.Read++
			if !f(e, r.Text()) {
				return false, nil
			}
		case errors.Is(err, io.EOF):
			return true, nil
		case errors.As(err, &bad):
			u.Bad++
			if u.First == nil {
				u.First = bad
			}
		case errors.Is(err, io.ErrUnexpectedEOF):
			return u.cut(name, u.Read-before), nil
		default:
			return false, err
		}
	}
}

// cut notes a file whose end is missing; the next one is wanted.
func (u *Unread) cut(name string, read int) bool {
	u.Cut = append(u.Cut, CutFile{name, read})
	return true
}
