// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// FuzzDecode proves that no text ends the process, that what is said is said
// of a place in the text, and that what is accepted means the same once it is
// written as JSON.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"a: 1\n---\n- b\n- [c, {d: e}]\n", "{<<: {a: 1}, b: *x}", "a: &a x\nb: [*a, *a]\n", "a: [" + "\nb: }", "{{ .Values.x }}: y",
		"%YAML 1.1\n--- yes\n...\n", "name: f\ndependency: [a]\npublicDependency: ['1', 2]\nmessageType: [{name: M, field: [{name: x, type: TYPE_BOOL, jsonName: ~}]}]\n",
		"options: {java_package: a, optimizeFor: 2, deprecated: off}", "a: \xff", "? [a]\n: 010\n", "a: !!bool no\nb: 1_0.5\nc: .inf\n",
		"<<<<<<< ours\na: 1\n", "a:\n\t- b\n", "a: *.b\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := place()
		for _, n := range Documents(Chunk{Text: data}, p) {
			sameAsJSON(t, n)
			sameMessage(t, n)
		}
		checkFindings(t, data, p.Report)
	})
}

func place() *Reporter { return &Reporter{Report: &Report{Types: Types{}}, File: "f"} }

func checkFindings(t *testing.T, data []byte, r *Report) {
	t.Helper()
	lines := 2 // an error at the end may be said of the line after it
	for _, ends := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
		lines += bytes.Count(data, []byte(ends))
	}
	for _, f := range r.Findings {
		if f.Text == "" || f.File != "f" || f.Line < 1 || f.Line > lines {
			t.Errorf("in %d lines: %+v", lines, f)
		}
	}
}

// again reads JSON that stands for what was read before.
func again(t *testing.T, text []byte) (*Node, bool) {
	t.Helper()
	for _, c := range text {
		if c >= 0x7f { // in YAML some of these are no part of a string as they are
			return nil, false
		}
	}
	p := place()
	docs, ok := Parse(Chunk{Text: text}, p)
	if !ok || len(docs) != 1 || p.Report.Errors > 0 {
		t.Fatalf("%d documents in %s: %v", len(docs), text, p.Report.Findings)
	}
	return docs[0], true
}

func sameAsJSON(t *testing.T, n *Node) {
	t.Helper()
	p := place()
	var want, got any
	if !DecodeGo(n, &want, "value", p) || p.Report.Errors > 0 {
		return
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := again(t, text); ok && (!DecodeGo(n, &got, "value", p) || !reflect.DeepEqual(got, want)) {
		t.Errorf("written as %s it is %v, want %v; %v", text, got, want, p.Report.Findings)
	}
}

func sameMessage(t *testing.T, n *Node) {
	t.Helper()
	p := place()
	var want, got descriptorpb.FileDescriptorProto
	ok := DecodeProto(n, &want, "value", p)
	if !ok && p.Report.Errors == 0 {
		t.Error("not fit, and nothing is said")
	}
	if !ok || p.Report.Errors > 0 {
		return
	}
	text, err := protojson.Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := again(t, text); ok && (!DecodeProtoJSON(n, &got, "value", p) || !proto.Equal(&got, &want)) {
		t.Errorf("written as %s it is %v, want %v; %v", text, &got, &want, p.Report.Findings)
	}
}
