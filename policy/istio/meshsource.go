// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"regexp"
	"strings"

	meshapi "istio.io/api/mesh/v1alpha1"
	core "k8s.io/api/core/v1"
)

const (
	operatorKind  = "IstioOperator"
	configMapKind = "ConfigMap"
)

func decodeMeshConfig(o *object, d *draft) {
	o.topLevel()
	o.mesh(d, o.spec(), "spec")
}

func decodeOperator(o *object, d *draft) { o.mesh(d, o.spec("meshConfig"), "spec.meshConfig") }

func (o *object) mesh(d *draft, at *node, where string) {
	v := &meshapi.MeshConfig{}
	if decodeProtoJSON(at, v, where, &o.place) {
		d.take = func(l *loader) { l.meshes = append(l.meshes, meshSource{decoded[meshapi.MeshConfig]{o, v}, at}) }
	}
}

// withOperatorName gives an IstioOperator the name that istioctl gives it
// when it has none.
func withOperatorName(n *node) *node {
	if n.get("metadata").field("name") != nil {
		return n
	}
	text := func(s string) *node { return &node{line: n.line, col: n.col, tag: "!!str", text: s} }
	m := &node{kind: mapNode, line: n.line, col: n.col, fields: []field{{key: "name", value: text("installed-state")}}}
	if given := n.get("metadata"); given != nil && given.kind == mapNode {
		m.fields = append(m.fields, given.fields...)
	}
	if m.get("namespace") == nil {
		m.fields = append(m.fields, field{key: "namespace", value: text(defaultRootNamespace)})
	}
	named := *n
	named.fields = []field{{key: "metadata", value: m}}
	for _, f := range n.fields {
		if f.key != "metadata" {
			named.fields = append(named.fields, f)
		}
	}
	return &named
}

// isMeshConfigMap says whether a ConfigMap is the one with the MeshConfig:
// "istio", or "istio-REVISION", with the key "mesh".
func isMeshConfigMap(n *node) bool {
	name := n.at("metadata", "name")
	return name.kind == scalarNode && (name.text == "istio" || strings.HasPrefix(name.text, "istio-")) &&
		n.get("data").field("mesh") != nil
}

// decodeConfigMap reads the MeshConfig that a ConfigMap holds as text.
func decodeConfigMap(o *object, d *draft) {
	v := &core.ConfigMap{}
	if !decodeGo(o.root, v, "", &o.place) {
		return
	}
	at := o.root.at("data", "mesh")
	docs, ok := o.within(at)
	switch {
	case !ok:
	case len(docs) == 0:
		o.mesh(d, &node{kind: mapNode, line: at.line, col: at.col}, "data.mesh")
	case len(docs) > 1:
		o.errorf(docs[1], "data.mesh: expected one YAML document")
	default:
		o.mesh(d, docs[0], "data.mesh")
	}
}

// within parses the YAML that a string holds. ok is false after an error.
// What is found in a literal block ("|") has the place that it has in the
// file; what is written in another way has the place of the string.
func (o *object) within(at *node) (docs []*node, ok bool) {
	scratch := &place{r: &report{}, file: o.file, object: o.object}
	indent, literal := literalIndent(o.batch.chunk, at)
	c := chunk{text: []byte(at.text)}
	if literal {
		c.line = at.line
	}
	docs, _ = parse(c, scratch)
	for _, f := range scratch.r.findings {
		switch {
		case !literal:
			f.Line, f.Col = at.line, at.col
		case f.Col > 0:
			f.Col += indent
		}
		o.r.add(f)
	}
	moved := map[*node]bool{}
	for _, n := range docs {
		n.walk(moved, func(line, col *int) {
			if literal {
				*col += indent
			} else {
				*line, *col = at.line, at.col
			}
		})
	}
	return docs, scratch.r.errors == 0
}

// blockHeader ends the line that a literal block is announced on.
var blockHeader = regexp.MustCompile(`\|[-+0-9]*[ \t]*(#.*)?\r?$`)

// literalIndent says how far a literal block is indented in a file that c is
// a part of, and whether at is one.
func literalIndent(c chunk, at *node) (indent int, ok bool) {
	lines := bytes.Split(c.text, []byte("\n"))
	line := at.line - c.line // the next one, counted from 0
	if len(lines) <= line || !blockHeader.Match(lines[line-1]) {
		return 0, false
	}
	for _, l := range lines[line:] {
		if text := bytes.TrimLeft(l, " "); len(bytes.TrimSpace(text)) > 0 {
			// The first line of the text may be indented further itself.
			first := strings.TrimLeft(at.text, "\n")
			own := len(first) - len(strings.TrimLeft(first, " "))
			return len(l) - len(text) - own, true
		}
	}
	return 0, false
}
