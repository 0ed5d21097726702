// SPDX-License-Identifier: Apache-2.0

// Package strictyaml decodes YAML into Go's and protobuf's types as the
// Kubernetes API server does, and says what is wrong with it: everything at
// once, each with the line and the column of what it is about.
//
// Split and Parse make Nodes of a text, DecodeGo and DecodeProto make values of
// Nodes, and what there is to say goes through a Reporter to a Report. It knows none
// of the kinds of objects: a Report brings what depends on them.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of one document. Without them a few nested aliases ("billion
// laughs") stand for more values than memory holds.
const (
	maxAliasNodes = 100_000 // values that aliases may add to those written down
	maxDepth      = 100
)

// Chunk is the text of documents; Line counts the lines before it.
type Chunk struct {
	Text []byte
	Line int
}

// Split cuts a file at its document markers. Decoding each document by itself
// lets one with a syntax error stand alone: the others are still checked. A
// "---" at the start of a line ends a document whatever surrounds it (YAML
// 1.2.2, section 9.1.2), so no knowledge of the content is needed.
func Split(data []byte) []Chunk {
	var chunks []Chunk
	start, startLine, line := 0, 0, 0
	for pos := 0; pos < len(data); line++ {
		end := bytes.IndexByte(data[pos:], '\n')
		if end < 0 {
			end = len(data) - pos
		}
		l := data[pos : pos+end]
		if pos > start && bytes.HasPrefix(l, []byte("---")) && (len(l) == 3 || l[3] == ' ' || l[3] == '\t' || l[3] == '\r') &&
			!onlyDirectives(data[start:pos]) {
			chunks = append(chunks, Chunk{data[start:pos], startLine})
			start, startLine = pos, line
		}
		pos += end + 1
	}
	return append(chunks, Chunk{data[start:], startLine})
}

// onlyDirectives says whether text is the head of a document that starts at
// the marker after it (%YAML, %TAG, comments).
func onlyDirectives(text []byte) bool {
	directive := false
	for l := range bytes.Lines(text) {
		l = bytes.TrimSpace(l)
		switch {
		case len(l) == 0 || l[0] == '#':
		case l[0] == '%':
			directive = true
		default:
			return false
		}
	}
	return directive
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// Documents decodes a chunk of several documents and reports what is wrong
// with them. One without syntax errors is decoded in one go, which is faster
// than many small ones.
func Documents(c Chunk, p *Reporter) []*Node {
	scratch := &Reporter{Report: &Report{}, File: p.File}
	if docs, ok := Parse(c, scratch); ok {
		p.Report.AddAll(scratch.Report.Findings)
		return docs
	}
	var docs []*Node
	for _, one := range Split(c.Text) {
		one.Line += c.Line
		some, _ := Parse(one, p)
		docs = append(docs, some...)
	}
	return docs
}

// Parse decodes the documents of a chunk and reports what is wrong with them;
// ok is false after a syntax error, which ends it.
func Parse(c Chunk, p *Reporter) (docs []*Node, ok bool) {
	if n, ok := parseJSON(c); ok {
		return []*Node{n}, true
	}
	return parseYAML(c, p)
}

// parseYAML is Parse for any YAML.
func parseYAML(c Chunk, p *Reporter) (docs []*Node, ok bool) {
	dec := yaml.NewDecoder(bytes.NewReader(c.Text))
	for {
		var doc yaml.Node
		err := decodeSafely(dec, &doc)
		if errors.Is(err, io.EOF) {
			return docs, true
		}
		if err != nil {
			at, text := c.advice(syntaxError(c, err))
			p.Errorf(at, "invalid YAML: %s", text)
			return docs, false
		}
		b := builder{p: p, line: c.Line, done: map[*yaml.Node]*Node{}, open: map[*yaml.Node]bool{}}
		if n := b.build(&doc); n != nil && !b.failed {
			docs = append(docs, n)
		}
	}
}

// syntaxError finds out where in a chunk an error of the YAML library is.
func syntaxError(c Chunk, err error) (at *Node, text string) {
	text = yamlLine.ReplaceAllString(err.Error(), "")
	at = &Node{Line: c.Line + 1}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
		n, _ := strconv.Atoi(m[1]) // digits; too many of them give a line that is out of sight
		at.Line = c.Line + n
		// The library adds one to the lines of its scanner, which count from
		// 0, and forgets to for those of its parser (yaml.v3, parser.fail).
		if parserError.MatchString(text) {
			at.Line++
		}
		return at, text
	}
	if m := unknownAnchor.FindStringSubmatch(text); m != nil {
		if i := bytes.Index(c.Text, []byte("*"+m[1])); i >= 0 {
			at.Line += bytes.Count(c.Text[:i], []byte("\n"))
		}
	}
	return at, text
}

var (
	parserError = regexp.MustCompile(`^did not find expected (',' or|'-' indicator|<|key|node content)|` +
		`^found (duplicate %|incompatible YAML|undefined tag handle)`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
)

// decodeSafely turns a panic of the YAML library into an error. Its parser
// has had some on hostile input, and a bad file must not end the daemon.
func decodeSafely(dec *yaml.Decoder, doc *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the parser gave up: %v", r)
		}
	}()
	return dec.Decode(doc)
}

// builder turns yaml.Nodes into nodes.
type builder struct {
	p       *Reporter
	line    int
	done    map[*yaml.Node]*Node // anchored nodes, built once and shared
	open    map[*yaml.Node]bool  // anchored nodes being built, to find cycles
	written int
	failed  bool
}

func (b *builder) fail(y *yaml.Node, format string, args ...any) *Node {
	b.failed = true
	b.p.Errorf(&Node{Line: b.line + y.Line, Col: y.Column}, format, args...)
	return nil
}

// build returns the tree of a document; nil when it is empty or not usable.
func (b *builder) build(doc *yaml.Node) *Node {
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return nil
	}
	n := b.node(doc.Content[0], 0)
	if n == nil {
		return nil
	}
	if n.size > b.written+maxAliasNodes {
		return b.fail(doc.Content[0], "aliases stand for more than %d values", maxAliasNodes)
	}
	return n
}

func (b *builder) node(y *yaml.Node, depth int) *Node {
	if depth > maxDepth {
		return b.fail(y, "nested deeper than %d levels", maxDepth)
	}
	if y.Kind == yaml.AliasNode {
		return b.alias(y, depth)
	}
	b.written++
	if y.Anchor != "" {
		b.open[y] = true
		defer delete(b.open, y)
	}
	n := &Node{Line: b.line + y.Line, Col: y.Column, size: 1}
	switch y.Kind {
	case yaml.ScalarNode:
		b.scalar(n, y)
	case yaml.SequenceNode:
		n.Kind = List
		for _, c := range y.Content {
			if item := b.node(c, depth+1); item != nil {
				n.Items = append(n.Items, item)
				n.grow(item)
			}
		}
	case yaml.MappingNode:
		n.Kind = Mapping
		b.mapping(n, y, depth)
	default:
		return b.fail(y, "unexpected YAML node")
	}
	if y.Anchor != "" {
		b.done[y] = n
	}
	return n
}

// grow counts a child. Sizes are capped far above the bound, where they
// cannot overflow.
func (n *Node) grow(child *Node) {
	n.size = min(n.size+child.size, 1<<40)
	n.depth = max(n.depth, child.depth+1)
}

func (b *builder) alias(y *yaml.Node, depth int) *Node {
	if b.open[y.Alias] {
		return b.fail(y, "alias *%s stands for something that contains it", y.Value)
	}
	n := b.done[y.Alias]
	if n == nil {
		if b.failed {
			return nil
		}
		return b.fail(y, "alias *%s has no anchor", y.Value)
	}
	if depth+n.depth > maxDepth {
		return b.fail(y, "nested deeper than %d levels", maxDepth)
	}
	return n
}

func (b *builder) scalar(n *Node, y *yaml.Node) {
	n.Tag, n.Text = y.ShortTag(), y.Value
	if v, ok := oldBool(y); ok {
		n.Tag, n.Value = "!!bool", v
		return
	}
	var err error
	switch n.Tag {
	case "!!int":
		if i, err := strconv.ParseInt(y.Value, 10, 64); err == nil && y.Value[0] != '0' {
			n.Value = i // the common case; the library knows octal and the rest
			return
		}
		var i int64
		if err = y.Decode(&i); err == nil {
			n.Value = i
			return
		}
		var u uint64
		err = y.Decode(&u)
		n.Value = u
	case "!!float":
		var f float64
		err = y.Decode(&f)
		n.Value = f
	case "!!bool":
		var v bool
		err = y.Decode(&v)
		n.Value = v
	case "!!null":
		if y.Style&yaml.TaggedStyle != 0 && y.Value != "" {
			err = fmt.Errorf("%q is tagged as null", y.Value)
		}
	case "!!str":
	case "!!timestamp", "!!merge":
		// Only a plain scalar that looks like one: for Kubernetes a string.
		n.Tag = "!!str"
	default:
		err = fmt.Errorf("the tag %s has no meaning here", y.Tag)
	}
	if err != nil {
		b.fail(y, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
}

func (b *builder) mapping(n *Node, y *yaml.Node, depth int) {
	seen := make(map[string]int, len(y.Content)/2)
	var merged []*Node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k := y.Content[i]
		if k.Kind == yaml.AliasNode && k.Alias != nil {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			if k.Kind == yaml.MappingNode && y.Style&yaml.FlowStyle != 0 {
				b.fail(y, "{{ begins %s", Unrendered)
			} else {
				b.fail(k, "a key must be a string")
			}
			continue
		}
		v := b.node(y.Content[i+1], depth+1)
		if v == nil {
			continue
		}
		if k.ShortTag() == "!!merge" {
			sources := b.mergeSources(y.Content[i+1], v)
			b.mergeAfter(k, seen, merged, sources)
			merged = append(merged, sources...)
			continue
		}
		key, ok := b.key(k)
		if !ok {
			continue
		}
		if first, dup := seen[key]; dup {
			hint := ""
			if depth == 0 && key == "apiVersion" {
				hint = "; if another object begins here, put a line with --- before it"
			}
			b.fail(k, "key %q is already defined at line %d%s", key, first, hint)
			continue
		}
		seen[key] = b.line + k.Line
		n.Fields = append(n.Fields, Field{key, b.line + k.Line, k.Column, v})
		n.grow(v)
	}
	for _, m := range merged {
		for _, f := range m.Fields {
			if _, dup := seen[f.Key]; !dup {
				seen[f.Key] = f.line
				n.Fields = append(n.Fields, f)
				n.grow(f.Value)
			}
		}
	}
}
