// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// jsonTexts are read by parseJSON, and others by the YAML library alone.
var jsonTexts, otherTexts = []string{
	`{}`, `{"a":1}`, `{"a":{"b":[1,22,"x",null,true,false,{}],"c":[]},"d":"e"}` + "\n",
	`{"apiVersion":"networking.istio.io/v1","kind":"ServiceEntry","metadata":{"name":"a","labels":{"x":"y"}},"spec":{"hosts":["a.example.com"],"ports":[{"number":443}]}}`,
	"{\n  \"a\": [\n    1,\n    \"b\" ],\n  \"c\" : null\n}\n\n", `{"a":"\"\\\/\b\f\n\r\té\u0001"}`, `{"ä":"ö","b":"日本","c":{"d":1}}`,
	`{"yes":"no","<<":"x","~":"null","1":"1","a b":"- x: {{ y }}","#":"# no comment"}`, `{"a":123456789012345678}`, `{"a":0}`,
	`{"a":"<>&\u003c\u0026"}`,
}, []string{
	``, `[1]`, `"a"`, `1`, `a: b`, `{a: b}`, `{"a":1} # b`, `{"a":1,}`, `{"a":1}` + "\n---\n" + `{"b":1}`, "---\n{\"a\":1}", `{"a":1,"a":2}`, `{"a":{"b":1,"b":2}}`,
	`{"a":1.5}`, `{"a":1e3}`, `{"a":-1}`, `{"a":1234567890123456789}`, "{\"a\":\t1}", "{\"a\":\"\x7f\"}", "{\"a\":\"\xff\"}", "{\"a\":\"\u2028\"}", `{"a":"\ud83d\ude00"}`,
	`{"a":010}`, `{"a":'b'}`, `{"a":*b}`, `{"a":` + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1) + `}`,
}

// TestJSON: JSON is read as the YAML library reads it, to the place of each value; what
// that reads otherwise is left to it.
func TestJSON(t *testing.T) {
	for _, text := range jsonTexts {
		if !sameAsYAML(t, text) {
			t.Errorf("%s is left to the YAML library", text)
		}
	}
	for _, text := range otherTexts {
		if _, ok := parseJSON(Chunk{Text: []byte(text)}); ok {
			t.Errorf("%s is read as JSON", text)
		}
	}
}

// sameAsYAML compares both readers, and says whether a text is read as JSON.
func sameAsYAML(t *testing.T, text string) bool {
	t.Helper()
	c := Chunk{Text: []byte(text), Line: 6}
	got, ok := parseJSON(c)
	if !ok {
		return false
	}
	p := place()
	want, good := parseYAML(c, p)
	if !good || len(want) != 1 || p.Report.Errors > 0 {
		// JSON is good without what YAML asks for beside it, as keys of no more than
		// 1024 characters.
		return true
	}
	if !reflect.DeepEqual(got, want[0]) {
		t.Errorf("%s\nis %s,\nand of the YAML library %s", text, dump(got), dump(want[0]))
	}
	return true
}

// dump writes a tree with its places.
func dump(n *Node) string {
	text := fmt.Sprintf("%s@%d:%d(%d,%d,%v)", n.What(), n.Line, n.Col, n.size, n.depth, n.Value)
	for _, i := range n.Items {
		text += " [" + dump(i) + "]"
	}
	for _, f := range n.Fields {
		text += fmt.Sprintf(" {%s@%d:%d %s}", f.Key, f.line, f.col, dump(f.Value))
	}
	return text
}

// FuzzJSON: whatever is read as JSON is read as the YAML library reads it.
func FuzzJSON(f *testing.F) {
	for _, text := range append(jsonTexts, otherTexts...) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { sameAsYAML(t, text) })
}
