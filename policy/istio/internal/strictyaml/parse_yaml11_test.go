// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"fmt"
	"testing"
)

// TestYAML11: values and keys are what the API server reads (the wanted ones
// are those of sigs.k8s.io/yaml).
func TestYAML11(t *testing.T) {
	for text, want := range map[string]struct {
		value any
		key   string
	}{
		"yes": {true, "true"}, "No": {false, "false"}, "ON": {true, "true"}, "off": {false, "false"}, "y": {true, "true"}, "N": {false, "false"},
		"true": {true, "true"}, "FALSE": {false, "false"}, "yEs": {"yEs", "yEs"},
		`"yes"`: {"yes", "yes"}, "'off'": {"off", "off"}, "!!str no": {"no", "no"}, "!!bool yes": {true, "true"},
		"010": {int64(8), "8"}, "0o10": {int64(8), "8"}, "0b11": {int64(3), "3"}, "0x1F": {int64(31), "31"}, "1_000": {int64(1000), "1000"},
		"+1": {int64(1), "1"}, "-0": {int64(0), "0"}, "08": {8.0, "8"}, "1e3": {1000.0, "1000"}, "1.50": {1.5, "1.5"}, ".5": {0.5, "0.5"}, "1_0.5": {10.5, "10.5"},
		"1:30": {"1:30", "1:30"}, "2001-01-01": {"2001-01-01", "2001-01-01"}, "'1'": {"1", "1"},
	} {
		r := &Report{}
		docs, _ := Parse(Chunk{Text: []byte("v: " + text + "\n? " + text + "\n: a\n")}, &Reporter{Report: r})
		if len(docs) != 1 || len(docs[0].Fields) != 2 {
			t.Errorf("%s: %v", text, r.Findings)
			continue
		}
		v := docs[0].Fields[0].Value
		got := v.Value
		if got == nil {
			got = v.Text
		}
		if key := docs[0].Fields[1].Key; got != want.value || key != want.key {
			t.Errorf("%s is %v and the key %q, want %v and %q", text, got, key, want.value, want.key)
		}
	}
}

// TestMergeKeys: where readers of YAML differ, a merge key is refused.
func TestMergeKeys(t *testing.T) {
	for text, want := range map[string]string{
		"{<<: {a: 1, b: 2}, a: 3}":         "a=3 b=2",
		"{<<: [{a: 1}, {a: 2, b: 3}]}":     "a=1 b=3",
		"{<<: {a: 1}, <<: {b: 2}}":         "a=1 b=2",
		"{a: 3, <<: {a: 1}}":               "",
		"{a: 3, <<: {b: 1}}":               "a=3 b=1",
		"{<<: {a: 1}, <<: {a: 2}}":         "",
		"{<<: {a: 1}, <<: [{b: 1, a: 2}]}": "",
		"{yes: 1, \"true\": 2}":            "",
		"{~: 1}":                           "",
	} {
		r := &Report{}
		docs, _ := Parse(Chunk{Text: []byte(text)}, &Reporter{Report: r})
		got := ""
		if len(docs) == 1 {
			for _, key := range []string{"a", "b"} {
				if v := docs[0].Get(key); v != nil {
					got += fmt.Sprintf(" %s=%s", key, v.Text)
				}
			}
			got = got[1:]
		}
		if got != want || (want == "") != (r.Errors > 0) {
			t.Errorf("%s is %q with %v, want %q", text, got, r.Findings, want)
		}
	}
}
