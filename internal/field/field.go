// SPDX-License-Identifier: Apache-2.0

// Package field holds the fields of an HTTP message (RFC 9110, 5) in the order and
// the spelling in which they came.
package field

import (
	"maps"
	"slices"
	"strings"
)

// Entry is one field of a header or trailer.
type Entry struct {
	Name, Value string
	// Line is the field as it came, name, colon and blanks included, without the
	// end of the line; "" when it was made or changed here.
	Line string
}

// List is a header or a trailer. Names are compared without regard to case. The
// zero value is empty and ready to use.
type List []Entry

// Append appends f, as it goes on a line, to dst.
func (f *Entry) Append(dst []byte) []byte {
	if f.Line != "" {
		return append(append(dst, f.Line...), "\r\n"...)
	}
	dst = append(append(dst, f.Name...), ": "...)
	return append(append(dst, f.Value...), "\r\n"...)
}

// Index is where the first field of a name is, from the i-th on; -1: nowhere.
func (l List) Index(name string, i int) int {
	for ; i < len(l); i++ {
		if Same(l[i].Name, name) {
			return i
		}
	}
	return -1
}

// Get returns the first value of a name, "" when there is none.
func (l List) Get(name string) string {
	if i := l.Index(name, 0); i >= 0 {
		return l[i].Value
	}
	return ""
}

// Has says whether there is a field of the name.
func (l List) Has(name string) bool { return l.Index(name, 0) >= 0 }

// Values returns all values of a name, in their order.
func (l List) Values(name string) []string {
	var out []string
	for i := l.Index(name, 0); i >= 0; i = l.Index(name, i+1) {
		out = append(out, l[i].Value)
	}
	return out
}

// Joined returns the values of a name, several joined by commas, and whether there
// is one.
func (l List) Joined(name string) (string, bool) {
	i := l.Index(name, 0)
	if i < 0 {
		return "", false
	}
	if l.Index(name, i+1) < 0 {
		return l[i].Value, true
	}
	return strings.Join(l.Values(name), ","), true
}

// HasToken says whether a list-valued field has the token, whatever its case.
func (l List) HasToken(name, token string) bool {
	for i := l.Index(name, 0); i >= 0; i = l.Index(name, i+1) {
		for part := range strings.SplitSeq(l[i].Value, ",") {
			if Same(strings.Trim(part, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// Set gives a name one value. The first field of the name keeps its place and its
// spelling, others of that name go.
func (l *List) Set(name, value string) {
	i := l.Index(name, 0)
	if i < 0 {
		l.Add(name, value)
		return
	}
	f := &(*l)[i]
	if f.Value != value {
		f.Value, f.Line = value, ""
	}
	l.delFrom(name, i+1)
}

// Add adds a field behind the others.
func (l *List) Add(name, value string) { *l = append(*l, Entry{Name: name, Value: value}) }

// Del removes all fields of a name.
func (l *List) Del(name string) { l.delFrom(name, 0) }

func (l *List) delFrom(name string, from int) {
	at := l.Index(name, from)
	if at < 0 {
		return
	}
	all := *l
	for _, f := range all[at:] {
		if !Same(f.Name, name) {
			all[at] = f
			at++
		}
	}
	clear(all[at:])
	*l = all[:at]
}

// DelFunc removes the fields of which del is true.
func (l *List) DelFunc(del func(*Entry) bool) {
	all, n := *l, 0
	for i := range all {
		if !del(&all[i]) {
			if n != i {
				all[n] = all[i]
			}
			n++
		}
	}
	clear(all[n:])
	*l = all[:n]
}

// Clone returns a list that can be changed for itself.
func (l List) Clone() List { return slices.Clone(l) }

// Map returns the fields by their names as they are spelled by key.
func (l List) Map(key func(string) string) map[string][]string {
	out := make(map[string][]string, len(l))
	for i := range l {
		k := key(l[i].Name)
		out[k] = append(out[k], l[i].Value)
	}
	return out
}

// FromMap returns the fields of m, by their names.
func FromMap(m map[string][]string) List {
	out := make(List, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		for _, value := range m[name] {
			out.Add(name, value)
		}
	}
	return out
}

// Same says whether a and b are the same in ASCII without regard to case.
func Same(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if x, y := a[i], b[i]; x != y && lower(x) != lower(y) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
