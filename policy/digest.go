// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
)

// digest is the SHA-256 of a canonical text, or of a set of them: toggled
// together they do not depend on the order, so that a part can be replaced
// without looking at the others. The first half is of what is decided, the
// second of where that is written (files and lines): two nodes that read the
// same objects from other places decide alike. It tells configurations apart
// that people write; it is not meant to withstand somebody who looks for
// collisions.
type digest [2 * sha256.Size]byte

// toggle adds a part to the set, or takes it out.
func (d *digest) toggle(part digest) {
	for i := range d {
		d[i] ^= part[i]
	}
}

// text sets d to the digest of what write writes.
func (d *digest) text(write func(*lines)) {
	what, where := sha256.New(), sha256.New()
	l := &lines{w: bufio.NewWriterSize(what, 512), places: bufio.NewWriterSize(where, 128)}
	write(l)
	_ = l.w.Flush() // a hash takes everything
	_ = l.places.Flush()
	where.Sum(what.Sum(d[:0]))
}

// decided is the half that says nothing of places.
func (d *digest) decided() []byte { return d[:sha256.Size] }

// lines writes a canonical text; the bufio.Writer keeps the first error.
type lines struct {
	w *bufio.Writer
	// places takes the positions of objects, apart from the rest; nil: they are
	// written where the objects are.
	places *bufio.Writer
}

// writeLines has write write to w, positions and all, and returns the first
// error of w.
func writeLines(w io.Writer, write func(*lines)) error {
	l := &lines{w: bufio.NewWriter(w)}
	write(l)
	return l.w.Flush()
}

// line writes one line, indented by depth.
func (l *lines) line(depth int, format string, args ...any) {
	if l.places != nil {
		for i := range args {
			args[i] = l.apart(args[i])
		}
	}
	for range depth {
		_, _ = l.w.WriteString("  ")
	}
	_, _ = fmt.Fprintf(l.w, format, args...)
	_ = l.w.WriteByte('\n')
}

// placed is an argument of a line that has positions of objects in it.
type placed interface {
	// Apart returns what is to be written when apart takes the positions.
	Apart(apart func(any) any) any
}

// apart writes the position of an object, and returns the rest.
func (l *lines) apart(arg any) any {
	switch r := arg.(type) {
	case Ref:
		_, _ = l.places.WriteString(r.Position())
		_ = l.places.WriteByte('\n')
		return r.Object()
	case *Ref:
		if r != nil {
			return l.apart(*r)
		}
	case []*Ref:
		out := make([]any, len(r))
		for i := range r {
			out[i] = l.apart(r[i])
		}
		return out
	case placed:
		return r.Apart(l.apart)
	}
	return arg
}

// sum writes the digest of a part.
func (l *lines) sum(d digest) {
	_, _ = l.w.Write(d[:sha256.Size])
	_, _ = l.places.Write(d[sha256.Size:])
}

// beside writes what nothing is decided by, with the positions of objects: it tells
// configurations apart, and not what they decide.
func (l *lines) beside(m MeshTelemetry, objects []*Telemetry) {
	if l.places != nil && (!reflect.DeepEqual(m, MeshTelemetry{}) || len(objects) > 0) {
		_ = json.NewEncoder(l.places).Encode([]any{m, objects}) // a hash takes everything
	}
}
