// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"strings"
	"testing"
)

// TestWithin: a finding in a ConfigMap's text has the place that it has in
// the file, however the text is written.
func TestWithin(t *testing.T) {
	const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n"
	tests := map[string]struct{ text, want string }{
		"literal":       {"  mesh: |\n    trustDomain: a\n    wrong: 1\n", "7:5"},
		"strip":         {"  mesh: |-\n    trustDomain: a\n    wrong: 1\n", "7:5"},
		"blank lines":   {"  mesh: |+\n\n\n    trustDomain: a\n\n    wrong: 1\n\n", "10:5"},
		"one space":     {"  mesh: |\n   wrong: 1\n", "6:4"},
		"comment":       {"  mesh: | # text\n     wrong: 1\n", "6:6"},
		"indicator":     {"  mesh: |2\n      trustDomain: a\n      wrong: 1\n", "7:7"},
		"nested":        {"  mesh: |\n    outboundTrafficPolicy:\n      wrong: 1\n", "7:7"},
		"windows":       {"  mesh: |\r\n    trustDomain: a\r\n    wrong: 1\r\n", "7:5"},
		"folded":        {"  mesh: >\n    {trustDomain: a,\n    wrong: 1}\n", "5:9"},
		"double quotes": {"  mesh: \"trustDomain: a\\nwrong: 1\"\n", "5:9"},
		"single quotes": {"  mesh: 'wrong: 1'\n", "5:9"},
		"next line":     {"  mesh:\n    'wrong: 1'\n", "6:5"},
		"plain":         {"  mesh: \"wrong: |\"\n", "5:9"},
		"anchors":       {"  mesh: |\n    trustDomain: &a x\n    rootNamespace: *a\n    wrong: *a\n", "8:5"},
		"syntax":        {"  mesh: |\n    a: b\n    c: ]\n    d: e\n", "7"},
	}
	for name, tt := range tests {
		for _, bom := range []string{"", "\ufeff"} {
			_, findings := Load([]File{{Name: "f", Data: []byte(bom + head + tt.text)}}, Options{})
			got := ""
			for _, f := range findings {
				if f.Severity != Error {
					continue
				}
				if got = fmt.Sprint(f.Line); f.Col > 0 {
					got += fmt.Sprintf(":%d", f.Col)
				}
				break
			}
			if got != tt.want {
				t.Errorf("%s: at %s, want %s: %v", name, got, tt.want, findings)
			}
		}
	}
}

// TestWithinTwice: files of one name, and a document that moves, do not
// confuse the places.
func TestWithinTwice(t *testing.T) {
	text := strings.Repeat("---\n", 40) + "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n" +
		"  metadata: {name: istio}\n  data:\n    mesh: |\n       wrong: 1\n"
	_, findings := Load([]File{{Name: "f", Data: []byte(text)}, {Name: "f", Data: []byte("x")}}, Options{})
	for _, f := range findings {
		if f.Line == 0 {
			t.Errorf("without a place: %v", f)
		}
	}
	_, findings = Load([]File{{Name: "f", Data: []byte(text)}}, Options{})
	if len(findings) == 0 || findings[0].Line != 49 || findings[0].Col != 8 {
		t.Errorf("%v, want 49:8", findings)
	}
}
