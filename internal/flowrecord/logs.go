// SPDX-License-Identifier: Apache-2.0

package flowrecord

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/flow"
)

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

// LogFiles are flow logs to be read.
type LogFiles struct {
	// Paths are files, and Stdin.
	Paths []string
	Stdin io.Reader
	// Progress is told again and again how many bytes were read, of how many that the
	// files have, compressed or not; of is 0 where nobody knows. nil: nobody asks.
	Progress func(read, of int64)
}

// Each calls f for the events of the logs, the file that begins first coming first, as
// long as f returns true. Lines that are none are counted, and of a compressed file
// that ends too early the lines before that are read; that a file cannot be read is an
// error. Standard input is read where a path is Stdin, behind all files.
func (l LogFiles) Each(f func(flow.Event) bool) (Unread, error) {
	return l.EachLine(func(e flow.Event, _ []byte) bool { return f(e) })
}

// EachLine is Each for who wants the lines as well, as they are there: they may have
// fields that are not known here. A line counts until f returns.
func (l LogFiles) EachLine(f func(e flow.Event, line []byte) bool) (Unread, error) {
	var u Unread
	sorted, err := byTime(l.Paths)
	if err != nil {
		return u, err
	}
	c := counter{progress: l.Progress, of: size(sorted)}
	for _, path := range sorted {
		if more, err := u.file(path, l.Stdin, &c, f); err != nil || !more {
			return u, err
		}
	}
	return u, nil
}

// counter counts the bytes that are read of several files.
type counter struct {
	progress func(read, of int64)
	read, of int64
}

// reader is r with its bytes counted.
func (c *counter) reader(r io.Reader) io.Reader {
	if c == nil || c.progress == nil {
		return r
	}
	return countedReader{r, c}
}

type countedReader struct {
	io.Reader
	c *counter
}

func (r countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.c.read += int64(n)
	r.c.progress(r.c.read, r.c.of)
	return n, err
}

// size is how many bytes regular files have together; 0 if one of them is none.
func size(paths []string) (sum int64) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			return 0
		}
		sum += info.Size()
	}
	return sum
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
		} else if _, err := new(Unread).file(path, nil, nil, func(e flow.Event, _ []byte) bool { b.at = e.Time; return false }); err != nil {
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
func (u *Unread) file(path string, stdin io.Reader, c *counter, f func(flow.Event, []byte) bool) (bool, error) {
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
	r, err := NewReader(c.reader(in), name)
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
