// SPDX-License-Identifier: Apache-2.0

package istio

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

// chunk is the text of one document; line counts the lines before it.
type chunk struct {
	text []byte
	line int
}

// split cuts a file at its document markers. Decoding each document by itself
// lets one with a syntax error stand alone: the others are still checked. A
// "---" at the start of a line ends a document whatever surrounds it (YAML
// 1.2.2, section 9.1.2), so no knowledge of the content is needed.
func split(data []byte) []chunk {
	var chunks []chunk
	start, startLine, line := 0, 0, 0
	for pos := 0; pos < len(data); line++ {
		end := bytes.IndexByte(data[pos:], '\n')
		if end < 0 {
			end = len(data) - pos
		}
		l := data[pos : pos+end]
		if pos > start && bytes.HasPrefix(l, []byte("---")) && (len(l) == 3 || l[3] == ' ' || l[3] == '\t' || l[3] == '\r') &&
			!onlyDirectives(data[start:pos]) {
			chunks = append(chunks, chunk{data[start:pos], startLine})
			start, startLine = pos, line
		}
		pos += end + 1
	}
	return append(chunks, chunk{data[start:], startLine})
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

// documents decodes a chunk of several documents and reports what is wrong
// with them. One without syntax errors is decoded in one go, which is faster
// than many small ones.
func documents(c chunk, p *place) []*node {
	scratch := &place{r: &report{}, file: p.file}
	if docs, ok := parse(c, scratch); ok {
		p.r.addAll(scratch.r.findings)
		return docs
	}
	var docs []*node
	for _, one := range split(c.text) {
		one.line += c.line
		some, _ := parse(one, p)
		docs = append(docs, some...)
	}
	return docs
}

// parse decodes the documents of a chunk and reports what is wrong with them;
// ok is false after a syntax error, which ends it.
func parse(c chunk, p *place) (docs []*node, ok bool) {
	dec := yaml.NewDecoder(bytes.NewReader(c.text))
	for {
		var doc yaml.Node
		err := decodeSafely(dec, &doc)
		if errors.Is(err, io.EOF) {
			return docs, true
		}
		if err != nil {
			at, text := c.advice(syntaxError(c, err))
			p.errorf(at, "invalid YAML: %s", text)
			return docs, false
		}
		b := builder{p: p, line: c.line, done: map[*yaml.Node]*node{}, open: map[*yaml.Node]bool{}}
		if n := b.build(&doc); n != nil && !b.failed {
			docs = append(docs, n)
		}
	}
}

// syntaxError finds out where in a chunk an error of the YAML library is.
func syntaxError(c chunk, err error) (at *node, text string) {
	text = yamlLine.ReplaceAllString(err.Error(), "")
	at = &node{line: c.line + 1}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
		n, _ := strconv.Atoi(m[1]) // digits; too many of them give a line that is out of sight
		at.line = c.line + n
		// The library adds one to the lines of its scanner, which count from
		// 0, and forgets to for those of its parser (yaml.v3, parser.fail).
		if parserError.MatchString(text) {
			at.line++
		}
		return at, text
	}
	if m := unknownAnchor.FindStringSubmatch(text); m != nil {
		if i := bytes.Index(c.text, []byte("*"+m[1])); i >= 0 {
			at.line += bytes.Count(c.text[:i], []byte("\n"))
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
	p       *place
	line    int
	done    map[*yaml.Node]*node // anchored nodes, built once and shared
	open    map[*yaml.Node]bool  // anchored nodes being built, to find cycles
	written int
	failed  bool
}

func (b *builder) fail(y *yaml.Node, format string, args ...any) *node {
	b.failed = true
	b.p.errorf(&node{line: b.line + y.Line, col: y.Column}, format, args...)
	return nil
}

// build returns the tree of a document; nil when it is empty or not usable.
func (b *builder) build(doc *yaml.Node) *node {
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

func (b *builder) node(y *yaml.Node, depth int) *node {
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
	n := &node{line: b.line + y.Line, col: y.Column, size: 1}
	switch y.Kind {
	case yaml.ScalarNode:
		b.scalar(n, y)
	case yaml.SequenceNode:
		n.kind = listNode
		for _, c := range y.Content {
			if item := b.node(c, depth+1); item != nil {
				n.items = append(n.items, item)
				n.grow(item)
			}
		}
	case yaml.MappingNode:
		n.kind = mapNode
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
func (n *node) grow(child *node) {
	n.size = min(n.size+child.size, 1<<40)
	n.depth = max(n.depth, child.depth+1)
}

func (b *builder) alias(y *yaml.Node, depth int) *node {
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

func (b *builder) scalar(n *node, y *yaml.Node) {
	n.tag, n.text = y.ShortTag(), y.Value
	if v, ok := oldBool(y); ok {
		n.tag, n.value = "!!bool", v
		return
	}
	var err error
	switch n.tag {
	case "!!int":
		if i, err := strconv.ParseInt(y.Value, 10, 64); err == nil && y.Value[0] != '0' {
			n.value = i // the common case; the library knows octal and the rest
			return
		}
		var i int64
		if err = y.Decode(&i); err == nil {
			n.value = i
			return
		}
		var u uint64
		err = y.Decode(&u)
		n.value = u
	case "!!float":
		var f float64
		err = y.Decode(&f)
		n.value = f
	case "!!bool":
		var v bool
		err = y.Decode(&v)
		n.value = v
	case "!!null":
		if y.Style&yaml.TaggedStyle != 0 && y.Value != "" {
			err = fmt.Errorf("%q is tagged as null", y.Value)
		}
	case "!!str":
	case "!!timestamp", "!!merge":
		// Only a plain scalar that looks like one: for Kubernetes a string.
		n.tag = "!!str"
	default:
		err = fmt.Errorf("the tag %s has no meaning here", y.Tag)
	}
	if err != nil {
		b.fail(y, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
}

func (b *builder) mapping(n *node, y *yaml.Node, depth int) {
	seen := make(map[string]int, len(y.Content)/2)
	var merged []*node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k := y.Content[i]
		if k.Kind == yaml.AliasNode && k.Alias != nil {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			if k.Kind == yaml.MappingNode && y.Style&yaml.FlowStyle != 0 {
				b.fail(y, "{{ begins %s", unrendered)
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
		n.fields = append(n.fields, field{key, b.line + k.Line, k.Column, v})
		n.grow(v)
	}
	for _, m := range merged {
		for _, f := range m.fields {
			if _, dup := seen[f.key]; !dup {
				seen[f.key] = f.line
				n.fields = append(n.fields, f)
				n.grow(f.value)
			}
		}
	}
}
