// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"regexp"
	"strings"

	meshapi "istio.io/api/mesh/v1alpha1"
	core "k8s.io/api/core/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
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

func (o *object) mesh(d *draft, at *strictyaml.Node, where string) {
	v := &meshapi.MeshConfig{}
	if strictyaml.DecodeProtoJSON(at, v, where, &o.Reporter) {
		d.take = func(l *loader) { l.meshes = append(l.meshes, meshSource{decoded[meshapi.MeshConfig]{o, v}, at}) }
	}
}

// withOperatorName gives an IstioOperator the name that istioctl gives it
// when it has none.
func withOperatorName(n *strictyaml.Node) *strictyaml.Node {
	if n.Get("metadata").Field("name") != nil {
		return n
	}
	text := func(s string) *strictyaml.Node {
		return &strictyaml.Node{Line: n.Line, Col: n.Col, Tag: "!!str", Text: s}
	}
	m := &strictyaml.Node{Kind: strictyaml.Mapping, Line: n.Line, Col: n.Col, Fields: []strictyaml.Field{{Key: "name", Value: text("installed-state")}}}
	if given := n.Get("metadata"); given != nil && given.Kind == strictyaml.Mapping {
		m.Fields = append(m.Fields, given.Fields...)
	}
	if m.Get("namespace") == nil {
		m.Fields = append(m.Fields, strictyaml.Field{Key: "namespace", Value: text(policy.DefaultRootNamespace)})
	}
	named := *n
	named.Fields = []strictyaml.Field{{Key: "metadata", Value: m}}
	for _, f := range n.Fields {
		if f.Key != "metadata" {
			named.Fields = append(named.Fields, f)
		}
	}
	return &named
}

// hasMeshConfig says whether an IstioOperator has a MeshConfig.
func hasMeshConfig(n *strictyaml.Node) bool { return n.Get("spec").Field("meshConfig") != nil }

// isMeshConfigMap says whether a ConfigMap is the one with the MeshConfig:
// "istio", or "istio-REVISION", with the key "mesh".
func isMeshConfigMap(n *strictyaml.Node) bool {
	name := n.At("metadata", "name")
	return name.Kind == strictyaml.Scalar && (name.Text == "istio" || strings.HasPrefix(name.Text, "istio-")) &&
		n.Get("data").Field("mesh") != nil
}

// decodeConfigMap reads the MeshConfig that a ConfigMap holds as text.
func decodeConfigMap(o *object, d *draft) {
	v := &core.ConfigMap{}
	if !strictyaml.DecodeGo(o.root, v, "", &o.Reporter) {
		return
	}
	if isKubeadmConfigMap(o.root) {
		decodeKubeadm(o, d)
		return
	}
	at := o.root.At("data", "mesh")
	docs, ok := o.within(at)
	switch {
	case !ok:
	case len(docs) == 0:
		o.mesh(d, &strictyaml.Node{Kind: strictyaml.Mapping, Line: at.Line, Col: at.Col}, "data.mesh")
	case len(docs) > 1:
		o.Errorf(docs[1], "data.mesh: expected one YAML document")
	default:
		o.mesh(d, docs[0], "data.mesh")
	}
}

// within parses the YAML that a string holds. ok is false after an error.
// What is found in a literal block ("|") has the place that it has in the
// file; what is written in another way has the place of the string.
func (o *object) within(at *strictyaml.Node) (docs []*strictyaml.Node, ok bool) {
	scratch := &strictyaml.Reporter{Report: &strictyaml.Report{}, File: o.File, Object: o.Object}
	indent, literal := literalIndent(o.batch.Chunk, at)
	c := strictyaml.Chunk{Text: []byte(at.Text)}
	if literal {
		c.Line = at.Line
	}
	docs, _ = strictyaml.Parse(c, scratch)
	for _, f := range scratch.Report.Findings {
		switch {
		case !literal:
			f.Line, f.Col = at.Line, at.Col
		case f.Col > 0:
			f.Col += indent
		}
		o.Report.Add(f)
	}
	moved := map[*strictyaml.Node]bool{}
	for _, n := range docs {
		n.Walk(moved, func(line, col *int) {
			if literal {
				*col += indent
			} else {
				*line, *col = at.Line, at.Col
			}
		})
	}
	return docs, scratch.Report.Errors == 0
}

// blockHeader ends the line that a literal block is announced on.
var blockHeader = regexp.MustCompile(`\|[-+0-9]*[ \t]*(#.*)?\r?$`)

// literalIndent says how far a literal block is indented in a file that c is
// a part of, and whether at is one.
func literalIndent(c strictyaml.Chunk, at *strictyaml.Node) (indent int, ok bool) {
	lines := bytes.Split(c.Text, []byte("\n"))
	line := at.Line - c.Line // the next one, counted from 0
	if len(lines) <= line || !blockHeader.Match(lines[line-1]) {
		return 0, false
	}
	for _, l := range lines[line:] {
		if text := bytes.TrimLeft(l, " "); len(bytes.TrimSpace(text)) > 0 {
			// The first line of the text may be indented further itself.
			first := strings.TrimLeft(at.Text, "\n")
			own := len(first) - len(strings.TrimLeft(first, " "))
			return len(l) - len(text) - own, true
		}
	}
	return 0, false
}
