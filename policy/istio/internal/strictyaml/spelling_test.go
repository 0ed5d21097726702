// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/types/descriptorpb"
)

// TestWord: a Word is read as it is written, and any other string must not
// look like a boolean.
func TestWord(t *testing.T) {
	for text, want := range map[string]Word{"off": "off", "No": "No", "'on'": "on", "true": "true", "audit": "audit"} {
		var v struct {
			Mode Word   `json:"mode"`
			Name string `json:"name"`
		}
		p := place()
		docs, _ := Parse(Chunk{Text: []byte("mode: " + text)}, p)
		if len(docs) != 1 || !DecodeGo(docs[0], &v, "", p) || p.Report.Errors > 0 || v.Mode != want {
			t.Errorf("%s is %q with %v, want %q", text, v.Mode, p.Report.Findings, want)
		}
	}
	var v struct {
		Name string `json:"name"`
	}
	p := place()
	docs, _ := Parse(Chunk{Text: []byte("name: off")}, p)
	if DecodeGo(docs[0], &v, "", p); p.Report.Errors != 1 {
		t.Errorf("a name is %q with %v", v.Name, p.Report.Findings)
	}
}

// TestSpelling: names of the .proto file, numbers of enums and numbers in
// quotes are good where no cluster checks, and names where the Report knows
// them.
func TestSpelling(t *testing.T) {
	const snake, number, quoted = `{message_type: [{name: x}]}`, `{options: {optimizeFor: 2}}`, `{dependency: [a], publicDependency: ["1"]}`
	known := func(key string) bool { return key == "message_type" }
	for _, c := range []struct {
		text    string
		json    bool
		known   func(string) bool
		finding string // "": none
	}{
		{snake, false, nil, `error: unknown field "message_type"`},
		{snake, false, known, ""},
		{snake, true, nil, ""},
		{`{public_dependency: [1]}`, false, known, `error: unknown field "public_dependency"`},
		{number, false, nil, "error: value.options.optimizeFor: expected one of"},
		{number, true, nil, ""},
		{quoted, false, nil, `warning: value.publicDependency: "1" is read as a number`},
		{quoted, true, nil, ""},
	} {
		p := place()
		p.Report.ProtoNamed = c.known
		docs, _ := Parse(Chunk{Text: []byte(c.text)}, p)
		decode := DecodeProto
		if c.json {
			decode = DecodeProtoJSON
		}
		decode(docs[0], &descriptorpb.FileDescriptorProto{}, "value", p)
		got := ""
		for _, f := range p.Report.Findings {
			got += f.String()
		}
		if (c.finding == "") != (got == "") || !strings.Contains(got, c.finding) {
			t.Errorf("%s (as JSON: %t): %q, want %q", c.text, c.json, got, c.finding)
		}
	}
}
