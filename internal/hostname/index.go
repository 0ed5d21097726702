// SPDX-License-Identifier: Apache-2.0

package hostname

import "iter"

// Index finds the values of the patterns that match a name, most specific
// first. It is immutable, and its lookups allocate nothing. Their cost grows
// with the length of the name, not with the number of patterns: each end of
// the name that could be the end of a wildcard is one probe of a map.
type Index[T any] struct {
	exact map[string]T
	// suffix has the wildcards by what comes after the '*'.
	suffix map[string]T
	// dotted and partial say which lengths the keys of suffix have, by
	// whether they begin at a label ("*.b") or within one ("*-x.b", and "*"
	// with length 0), so that ends that nothing can match cost no probe.
	dotted, partial [MaxLength + 2]bool
}

// NewIndex builds an Index of the patterns of all. Later changes to all do
// not reach it. Patterns longer than any name are left out: nothing can
// match them.
func NewIndex[T any](all iter.Seq2[Pattern, T]) *Index[T] {
	x := &Index[T]{exact: map[string]T{}, suffix: map[string]T{}}
	for p, v := range all {
		end, lengths := "", &x.partial
		switch {
		case !p.IsWildcard():
			x.exact[string(p)] = v
			continue
		case len(p)-1 >= len(lengths):
			continue
		default:
			end = string(p[1:])
		}
		if len(end) > 0 && end[0] == '.' {
			lengths = &x.dotted
		}
		lengths[len(end)] = true
		x.suffix[end] = v
	}
	return x
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
		if v, ok := x.exact[name]; ok {
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
		if !lengths[len(end)] {
			continue
		}
		if v, ok := x.suffix[end]; ok {
			return v, true
		}
	}
	var none T
	return none, false
}
