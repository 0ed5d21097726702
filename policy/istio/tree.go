// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strconv"
	"strings"
)

type nodeKind uint8

const (
	scalarNode nodeKind = iota
	listNode
	mapNode
)

// node is a YAML value with aliases and merge keys resolved. Nodes that an
// alias stands for are shared, so a node is never changed once it is built.
type node struct {
	kind      nodeKind
	line, col int
	tag       string // short tag of a scalar: !!str, !!int, ...
	text      string // a scalar as written
	value     any    // int64, uint64, float64 or bool for scalars with these tags
	items     []*node
	fields    []field
	size      int // values in this tree, with aliases expanded
	depth     int
}

type field struct {
	key       string
	line, col int
	value     *node
}

func (f *field) pos() *node { return &node{line: f.line, col: f.col} }

func (n *node) isNull() bool { return n.kind == scalarNode && n.tag == "!!null" }

// what names the node for error messages.
func (n *node) what() string {
	switch n.kind {
	case listNode:
		return "a list"
	case mapNode:
		return "a mapping"
	}
	switch n.tag {
	case "!!null":
		return "null"
	case "!!int", "!!float":
		return "the number " + n.text
	case "!!bool":
		return "the boolean " + n.text
	}
	return "the string " + strconv.Quote(n.text)
}

// get returns the value of a mapping's key, nil if it has none. Keys match in
// their JSON form (camelCase) and in the form of the .proto file (snake_case).
func (n *node) get(key string) *node {
	if f := n.field(key); f != nil {
		return f.value
	}
	return nil
}

func (n *node) field(key string) *field {
	if n == nil {
		return nil
	}
	for i := range n.fields {
		if k := n.fields[i].key; k == key || camel(k) == key {
			return &n.fields[i]
		}
	}
	return nil
}

// at follows keys (string) and indexes (int) as far as they exist, so that a
// finding about something left out points at what should hold it.
func (n *node) at(path ...any) *node {
	for _, p := range path {
		var next *node
		switch p := p.(type) {
		case string:
			next = n.get(p)
		case int:
			if p < len(n.items) {
				next = n.items[p]
			}
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// keyOf returns the position of a key, or of n when it has no such key.
func (n *node) keyOf(key string) *node {
	if f := n.field(key); f != nil {
		return f.pos()
	}
	return n
}

// list is the items of a list, none for anything else.
func (n *node) list() []*node {
	if n == nil {
		return nil
	}
	return n.items
}

// walk calls f with every place in a tree that nobody else has seen yet.
func (n *node) walk(seen map[*node]bool, f func(line, col *int)) {
	if seen[n] {
		return
	}
	seen[n] = true
	f(&n.line, &n.col)
	for _, item := range n.items {
		item.walk(seen, f)
	}
	for i := range n.fields {
		f(&n.fields[i].line, &n.fields[i].col)
		n.fields[i].value.walk(seen, f)
	}
}

func camel(s string) string {
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
