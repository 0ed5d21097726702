// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"slices"
	"strconv"
	"strings"
)

// Kind says what a Node is.
type Kind uint8

// The kinds. The zero value is Scalar.
const (
	Scalar Kind = iota
	List
	Mapping
)

// Node is a YAML value with aliases and merge keys resolved. Nodes that an
// alias stands for are shared, so a node is never changed once it is built.
type Node struct {
	Kind      Kind
	Line, Col int
	Tag       string // short tag of a scalar: !!str, !!int, ...
	Text      string // a scalar as written
	Value     any    // int64, uint64, float64 or bool for scalars with these tags
	Items     []*Node
	Fields    []Field
	size      int // values in this tree, with aliases expanded
	depth     int
}

// Field is a key of a mapping and its value.
type Field struct {
	Key       string
	line, col int
	Value     *Node
}

// Pos is the place of the key.
func (f *Field) Pos() *Node { return &Node{Line: f.line, Col: f.col} }

// IsNull says whether n is null, as written or as nothing.
func (n *Node) IsNull() bool { return n.Kind == Scalar && n.Tag == "!!null" }

// What names the node for error messages.
func (n *Node) What() string {
	switch n.Kind {
	case List:
		return "a list"
	case Mapping:
		return "a mapping"
	}
	switch n.Tag {
	case "!!null":
		return "null"
	case "!!int", "!!float":
		return "the number " + n.Text
	case "!!bool":
		return "the boolean " + n.Text
	}
	return "the string " + strconv.Quote(n.Text)
}

// Get returns the value of a mapping's key, nil if it has none. Keys match in
// their JSON form (camelCase) and in the form of the .proto file (snake_case).
func (n *Node) Get(key string) *Node {
	if f := n.Field(key); f != nil {
		return f.Value
	}
	return nil
}

// Field is Get for the key with its value.
func (n *Node) Field(key string) *Field {
	if n == nil {
		return nil
	}
	for i := range n.Fields {
		if k := n.Fields[i].Key; k == key || CamelCase(k) == key {
			return &n.Fields[i]
		}
	}
	return nil
}

// At follows keys (string) and indexes (int) as far as they exist, so that a
// finding about something left out points at what should hold it.
func (n *Node) At(path ...any) *Node {
	for _, p := range path {
		var next *Node
		switch p := p.(type) {
		case string:
			next = n.Get(p)
		case int:
			if p < len(n.Items) {
				next = n.Items[p]
			}
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// KeyOf returns the position of a key, or of n when it has no such key.
func (n *Node) KeyOf(key string) *Node {
	if f := n.Field(key); f != nil {
		return f.Pos()
	}
	return n
}

// Has says whether n has a key with a value, were it empty.
func (n *Node) Has(key string) bool {
	return n != nil && slices.ContainsFunc(n.Fields, func(f Field) bool { return f.Key == key && !f.Value.IsNull() })
}

// List is the items of a list, none for anything else.
func (n *Node) List() []*Node {
	if n == nil {
		return nil
	}
	return n.Items
}

// Walk calls f with every place in a tree that nobody else has seen yet.
func (n *Node) Walk(seen map[*Node]bool, f func(line, col *int)) {
	if seen[n] {
		return
	}
	seen[n] = true
	f(&n.Line, &n.Col)
	for _, item := range n.Items {
		item.Walk(seen, f)
	}
	for i := range n.Fields {
		f(&n.Fields[i].line, &n.Fields[i].col)
		n.Fields[i].Value.Walk(seen, f)
	}
}

// CamelCase is the JSON form of a name in a .proto file.
func CamelCase(s string) string {
	if !strings.Contains(s, "_") {
		return s
	}
	var b strings.Builder
	up := false
	for _, c := range s {
		switch {
		case c == '_':
			up = true
		case up && 'a' <= c && c <= 'z':
			b.WriteRune(c - 'a' + 'A')
			up = false
		default:
			b.WriteRune(c)
			up = false
		}
	}
	return b.String()
}
