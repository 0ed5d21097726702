// SPDX-License-Identifier: Apache-2.0

package hostname

import (
	"hash/maphash"
	"iter"

	"github.com/egressd/egressd/internal/cow"
)

// Index finds the values of the patterns that match a name, most specific
// first. It is immutable, and its lookups allocate nothing. Their cost grows
// with the length of the name, not with the number of patterns: each end of
// the name that could be the end of a wildcard is one probe of a map.
type Index[T any] struct {
	exact cow.Map[string, T]
	// suffix has the wildcards by what comes after the '*'.
	suffix cow.Map[string, T]
	// dotted and partial count the keys of suffix by length, and by whether
	// they begin at a label ("*.b") or within one ("*-x.b", and "*" with
	// length 0), so that ends that nothing can match cost no probe.
	dotted, partial [MaxLength + 2]int32
}

var seed = maphash.MakeSeed()

func hash(s string) uint64 { return maphash.String(seed, s) }

// NewIndex builds an Index of the patterns of all. Later changes to all do
// not reach it. Patterns longer than any name are left out: nothing can
// match them.
func NewIndex[T any](all iter.Seq2[Pattern, T]) *Index[T] {
	x := &Index[T]{exact: cow.New[string, T](hash), suffix: cow.New[string, T](hash)}
	e := x.Edit()
	for p, v := range all {
		e.Set(p, v)
	}
	return e.Index()
}

// Get returns the value of the pattern itself.
func (x *Index[T]) Get(p Pattern) (T, bool) {
	if p.IsWildcard() {
		return x.suffix.Get(string(p[1:]))
	}
	return x.exact.Get(string(p))
}

// Len returns the number of patterns.
func (x *Index[T]) Len() int { return x.exact.Len() + x.suffix.Len() }

// All ranges over the patterns in no order.
func (x *Index[T]) All() iter.Seq2[Pattern, T] {
	return func(yield func(Pattern, T) bool) {
		for n, v := range x.exact.All() {
			if !yield(Pattern(n), v) {
				return
			}
		}
		for end, v := range x.suffix.All() {
			if !yield(Pattern("*"+end), v) {
				return
			}
		}
	}
}

// Changed ranges over patterns whose value may differ between old and x, in
// no order; see cow.Map.Changed.
func (x *Index[T]) Changed(old *Index[T]) iter.Seq2[Pattern, cow.Difference[T]] {
	return func(yield func(Pattern, cow.Difference[T]) bool) {
		for n, c := range x.exact.Changed(&old.exact) {
			if !yield(Pattern(n), c) {
				return
			}
		}
		for end, c := range x.suffix.Changed(&old.suffix) {
			if !yield(Pattern("*"+end), c) {
				return
			}
		}
	}
}

// IndexEdit collects changes to a copy of an Index, which costs what is
// changed and not what is there. Use it from one goroutine.
type IndexEdit[T any] struct {
	exact, suffix   *cow.Edit[string, T]
	dotted, partial [MaxLength + 2]int32
}

// Edit returns an IndexEdit that starts as a copy of x.
func (x *Index[T]) Edit() *IndexEdit[T] {
	return &IndexEdit[T]{exact: x.exact.Edit(), suffix: x.suffix.Edit(), dotted: x.dotted, partial: x.partial}
}

// Get returns the value of the pattern itself as written so far.
func (e *IndexEdit[T]) Get(p Pattern) (T, bool) {
	if p.IsWildcard() {
		return e.suffix.Get(string(p[1:]))
	}
	return e.exact.Get(string(p))
}

// Set writes the value of a pattern.
func (e *IndexEdit[T]) Set(p Pattern, v T) {
	if !p.IsWildcard() {
		e.exact.Set(string(p), v)
		return
	}
	end := string(p[1:])
	if len(end) >= len(e.dotted) {
		return
	}
	if _, had := e.suffix.Get(end); !had {
		*e.lengths(end)++
	}
	e.suffix.Set(end, v)
}

// Delete removes a pattern.
func (e *IndexEdit[T]) Delete(p Pattern) {
	if !p.IsWildcard() {
		e.exact.Delete(string(p))
		return
	}
	end := string(p[1:])
	if _, had := e.suffix.Get(end); had {
		*e.lengths(end)--
		e.suffix.Delete(end)
	}
}

func (e *IndexEdit[T]) lengths(end string) *int32 {
	if len(end) > 0 && end[0] == '.' {
		return &e.dotted[len(end)]
	}
	return &e.partial[len(end)]
}

// Index returns the outcome. The IndexEdit must not be used any more.
func (e *IndexEdit[T]) Index() *Index[T] {
	return &Index[T]{exact: e.exact.Map(), suffix: e.suffix.Map(), dotted: e.dotted, partial: e.partial}
}

// Lookup returns the value of the most specific pattern that matches name,
// which must be normalized.
func (x *Index[T]) Lookup(name string) (T, bool) {
	w := x.Walk(name)
	return w.Next()
}

// Walk returns a Walk over all patterns that match name, which must be
// normalized.
func (x *Index[T]) Walk(name string) Walk[T] { return Walk[T]{x: x, name: name} }

// Walk goes through the values of the patterns that match a name.
type Walk[T any] struct {
	x    *Index[T]
	name string
	// next is 0 before the exact name was tried, then the offset of the next
	// end of name to try.
	next int
}

// Next returns the value of the next pattern, most specific first, and false
// when there is none.
func (w *Walk[T]) Next() (T, bool) {
	x, name := w.x, w.name
	if w.next == 0 && name != "" {
		w.next = max(1, len(name)-MaxLength)
		if v, ok := x.exact.Get(name); ok {
			return v, true
		}
	}
	// The loop starts behind the first character: a '*' is never empty.
	for name != "" && w.next <= len(name) {
		end := name[w.next:]
		w.next++
		lengths := &x.partial
		if len(end) > 0 && end[0] == '.' {
			lengths = &x.dotted
		}
		if lengths[len(end)] == 0 {
			continue
		}
		if v, ok := x.suffix.Get(end); ok {
			return v, true
		}
	}
	var none T
	return none, false
}
