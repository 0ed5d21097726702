// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMistakes compares what is said about testdata/mistakes/*.yaml, each a
// mistake that is made often, with the .golden file of the same name.
func TestMistakes(t *testing.T) {
	docs, err := os.ReadFile("../../docs/CHECKS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range glob(t, "testdata/mistakes/*.yaml") {
		base := strings.TrimSuffix(filepath.Base(name), ".yaml")
		t.Run(base, func(t *testing.T) {
			_, findings := Load([]File{readFile(t, name)}, goldenOptions)
			var b strings.Builder
			for _, f := range findings {
				fmt.Fprintln(&b, f)
				switch {
				case strings.Contains(f.Text, "opens anything"): // it is about all files
				case f.Severity != Note && f.Line == 0:
					t.Errorf("without a place: %v", f)
				}
			}
			compareGolden(t, strings.TrimSuffix(name, ".yaml")+".golden", b.String())
			if !strings.Contains(string(docs), "`"+base+"`") {
				t.Errorf("docs/CHECKS.md does not list `%s`", base)
			}
		})
	}
}

// TestHostHint: whatever is no host gets a hint without a host in it that is
// none either.
func TestHostHint(t *testing.T) {
	for in, want := range map[string]string{
		"https://a.example/x?y": `write "a.example" here, and number: 443`, "HTTP://a.example": "number: 80", "ftp://a.example:2121": "number: 2121",
		"postgres://u:p@a.example:5432/db": `write "a.example" here, and number: 5432`, "ftp://a.example": `write "a.example" here`,
		"a.example:443": "number: 443", "a.example:443/x": `write "a.example" here`, "192.0.2.1:443": "write 192.0.2.1 under addresses",
		"192.0.2.1/32": "is a network", "2001:db8::/32": "is a network", "[2001:db8::1]": "write 2001:db8::1 under", "2001:db8::1": "is an address",
		"{{ x }}": "template", "${X}": "template", "$(X)": "template", "$X": "template", "<%= x %>": "template", "{% x %}": "template",
		"a.example,b.example": "item of its own", " a.example": "no spaces", "a*.example": `write "*.example"`, "a.*.b.*.example": `write "*.example"`,
		"a.example": "", "*.example": "", "ä.example": "", "": "", "a..b": "", "a.example:http": "", "*": "", "a*": "",
	} {
		if got := hostHint(in); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
