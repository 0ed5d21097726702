// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
)

const entries = `# one
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example]
  ports:
  - {number: 443, name: https, protocol: HTTPS}
---
kind: List
items:
- kind: ServiceEntry
  metadata: {name: b, namespace: x}
  spec:
    hosts: [b.example, c.example]
    ports:
    - {number: 443, name: https, protocol: HTTPS}
`

func TestAddPorts(t *testing.T) {
	files := []File{{"other.yaml", []byte("kind: x\n")}, {"f.yaml", []byte(entries)}}
	port := []SuggestedPort{{22, "tcp-22", "TCP"}}
	ref := policy.Ref{Namespace: "default", Name: "a", File: "f.yaml", Line: 5}
	if got := AddPorts(files, ref, "a.example", port); !strings.Contains(got, "number: 22") || !strings.Contains(got, "443") || !strings.Contains(got, "# one") || strings.Contains(got, "b.example") {
		t.Errorf("got\n%s", got)
	}
	for what, got := range map[string]string{
		"another file":          AddPorts(files, policy.Ref{Namespace: "default", Name: "a", File: "g.yaml", Line: 5}, "a.example", port),
		"another line":          AddPorts(files, policy.Ref{Namespace: "default", Name: "a", File: "f.yaml", Line: 12}, "a.example", port),
		"another host":          AddPorts(files, ref, "b.example", port),
		"a port that is there":  AddPorts(files, ref, "a.example", []SuggestedPort{{443, "tcp", "TCP"}}),
		"an object for several": AddPorts(files, policy.Ref{Namespace: "x", Name: "b", File: "f.yaml", Line: 13}, "b.example", port),
		"what is not YAML":      AddPorts([]File{{"f.yaml", []byte("a: [")}}, ref, "a.example", port),
	} {
		if got != "" {
			t.Errorf("%s:\n%s", what, got)
		}
	}
}

func TestMerge(t *testing.T) {
	add := "kind: ServiceEntry\nmetadata:\n  name: a\nspec: {hosts: [new.example]}\n---\nkind: ServiceEntry\nmetadata:\n  name: z\n"
	got, err := Merge([]byte(entries), []byte(add))
	if err != nil {
		t.Fatal(err)
	}
	text := string(got)
	if strings.Contains(text, "a.example") || !strings.Contains(text, "new.example") || !strings.Contains(text, "kind: List") || strings.Count(text, "name: z") != 1 || strings.Index(text, "new.example") > strings.Index(text, "kind: List") {
		t.Errorf("got\n%s", text)
	}
	again, err := Merge(got, []byte(add))
	if err != nil || string(again) != text {
		t.Errorf("a second time: %v\n%s", err, again)
	}
	if got, err := Merge(nil, nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: %q, %v", got, err)
	}
	if _, err := Merge([]byte("a: ["), []byte(add)); err == nil {
		t.Error("what is not YAML is written over")
	}
}
