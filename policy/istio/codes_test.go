// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/istio/internal/code"
)

var writeCodes = flag.Bool("write", false, "write docs/CODES.md")

const codesFile = "../../docs/CODES.md"

// TestCodes: each warning and note that the code can report has a code, and
// each row of Codes is one of them.
func TestCodes(t *testing.T) {
	texts := map[string]bool{}
	for _, dir := range []string{".", "internal/*"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f, "_test.go") {
				warningTexts(t, f, texts)
			}
		}
	}
	if len(texts) < 100 {
		t.Fatalf("only %d texts were found: the search is wrong", len(texts))
	}
	for text := range texts {
		if code.Of(Warning, text) == "" {
			t.Errorf("no code for the warning %q: add a row to code.All, with the next free number of its subject", text)
		}
	}
	form, last := regexp.MustCompile(`^EGD\d{4}$`), ""
	for _, c := range code.All {
		if !form.MatchString(c.Code) || c.Code < last {
			t.Errorf("%s behind %s: codes are EGD and four digits, ascending", c.Code, last)
		}
		last = c.Code
		if elsewhere := []string{code.Invalid, code.NoLabels, code.Suppress, code.Cgroup, code.Clients, code.Server}; !texts[c.Text] &&
			!slices.Contains(elsewhere, c.Code) && !slices.Contains([]string{"EGD0002", "EGD0003", "EGD0004", "EGD0005"}, c.Code) {
			t.Errorf("%s: nothing says %q any more: keep the code for what says the same now, or remove the row and never use the code again", c.Code, c.Text)
		}
	}
}

// warningTexts adds the formats of the warnings and notes in a file.
func warningTexts(t *testing.T, path string, texts map[string]bool) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		fun, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		i := map[string]int{"Warnf": 1, "Say": 2}[fun.Sel.Name]
		if i == 0 || len(call.Args) <= i {
			return true
		}
		if text := constant(call.Args[i]); text != "" {
			texts[text] = true
		} else if !strings.HasSuffix(path, "finding.go") {
			t.Errorf("%s: the text is not written here, so that it has no code: use SayCode", fset.Position(call.Pos()))
		}
		return true
	})
}

// constant is the value of a string that is written out.
func constant(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, _ := strconv.Unquote(e.Value)
		return s
	case *ast.BinaryExpr:
		if l := constant(e.X); l != "" {
			return l + constant(e.Y)
		}
	}
	return ""
}

// TestCodesAreDocumented: docs/CODES.md has all codes.
func TestCodesAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Codes of findings

Each finding of ` + "`egressd check`" + ` has a code, in the text behind the object and in ` + "`-o json`" + ` as ` + "`code`" + `. A code stays what it is when the words change. [CHECKS.md](CHECKS.md) shows the mistakes that people make.

A warning that you have seen and accept is not reported any more when

- the object has the annotation ` + "`egressd.dev/suppress: EGD0212,EGD1101`" + `, for what is said about that object, or
- ` + "`egressd check --suppress EGD0212`" + ` says so, for all objects.

Errors cannot be suppressed: with one, nothing is loaded. In the table … stands for what the text names, and *Istio* is the code of Istio's analyzers for the same.

| code | Istio | text |
|---|---|---|
`)
	verb := regexp.MustCompile(`%(\[\d\])?[a-z#+]`)
	for _, c := range code.All {
		text := strings.ReplaceAll(verb.ReplaceAllString(c.Text, "…"), "%%", "%")
		text = strings.ReplaceAll(text, "……", "…")
		text = strings.NewReplacer("|", `\|`, "<", `\<`, "*", `\*`).Replace(text)
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.Code, c.Istio, text)
	}
	if *writeCodes {
		if err := os.WriteFile(codesFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(codesFile)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/CODES.md is not that of the code (%v): go test ./policy/istio -run TestCodesAreDocumented -write", err)
	}
}

// TestSuppress: what an object's annotation names is not said about that
// object, and nothing else is left out.
func TestSuppress(t *testing.T) {
	const doc = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: a
  annotations: {%s}
spec:
  hosts: [a.example.com, a.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
  location: MESH_INTERNAL
%s
`
	for _, c := range []struct{ annotation, spec, want string }{
		{"", "", "EGD0210 EGD0215"},
		{"egressd.dev/suppress: EGD0210", "", "EGD0215"},
		{`egressd.dev/suppress: "EGD0215, EGD0210"`, "", ""},
		{"egressd.dev/suppress: EGD0101", "", "EGD0210 EGD0215"},
		{"egressd.dev/suppress: EGD9999", "", "EGD0111 EGD0210 EGD0215"},
		{"egressd.dev/suppress: EGD0003", "  hots: [a]", "EGD0003 EGD0210 EGD0215"},
	} {
		yaml := fmt.Sprintf(doc, c.annotation, c.spec)
		_, findings := Load([]File{{Name: "a.yaml", Data: []byte(yaml)}}, Options{})
		var got []string
		for _, f := range findings {
			got = append(got, f.Code)
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s %s: %s, want %s: %v", c.annotation, c.spec, s, c.want, findings)
		}
	}
}
