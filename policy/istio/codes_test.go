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
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

var writeCodes = flag.Bool("write", false, "write docs/CODES.md")

const codesFile = "../../docs/CODES.md"

// TestCodes: each finding that the code can report has a code of its own, an
// error that of a fault, and each row of Codes is one of them.
func TestCodes(t *testing.T) {
	texts := map[string]strictyaml.Severity{}
	for _, dir := range []string{".", "internal/*"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f, "_test.go") {
				findingTexts(t, f, texts)
			}
		}
	}
	if len(texts) < 100 {
		t.Fatalf("only %d texts were found: the search is wrong", len(texts))
	}
	faults := map[string]bool{}
	for _, c := range code.All {
		faults[c.Code] = c.IsFault()
	}
	for text, severity := range texts {
		switch c := code.Of(severity, text); {
		case c == "" || c == code.Invalid:
			t.Errorf("no code for the %v %q: add a row to package code, with the next free number of its subject, or the fault that it is", severity, text)
		case (severity == Error) != faults[c]:
			t.Errorf("%s is the code of the %v %q: errors have codes of faults, and nothing else has", c, severity, text)
		}
	}
	form, last := regexp.MustCompile(`^EGD\d{4}$`), ""
	for _, c := range code.All {
		if !form.MatchString(c.Code) || c.Code < last {
			t.Errorf("%s behind %s: codes are EGD and four digits, ascending", c.Code, last)
		}
		last = c.Code
		_, said := texts[c.Text]
		if elsewhere := []string{code.Invalid, code.NoLabels, code.Suppress, code.Cgroup, code.Clients, code.Server}; !said && !slices.Contains(elsewhere, c.Code) {
			t.Errorf("%s: nothing says %q any more: keep the code for what says the same now, or remove the row and never use the code again", c.Code, c.Text)
		}
	}
}

// findingTexts adds the formats of the findings in a file, with the severity
// that they have.
func findingTexts(t *testing.T, path string, texts map[string]strictyaml.Severity) {
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
		if x, ok := fun.X.(*ast.Ident); ok && x.Name == "fmt" {
			return true
		}
		i := map[string]int{"Errorf": 1, "errorf": 1, "fail": 1, "Warnf": 1, "Say": 2}[fun.Sel.Name]
		if i == 0 || len(call.Args) <= i {
			return true
		}
		severity := Error
		if fun.Sel.Name == "Warnf" || fun.Sel.Name == "Say" && !isName(call.Args[0], "Error") {
			severity = Warning
		}
		switch text := constant(f, call.Args[i]); {
		case text == "" && isName(call.Args[i], "format"): // it is handed on
		case text == "%s" && strings.HasSuffix(path, "strictyaml/parse.go"): // of the YAML library, and has the code of all that has no other
		case text == "" || text == "%s":
			t.Errorf("%s: the text is not written here, so that it has no code: use SayCode", fset.Position(call.Pos()))
		default:
			texts[text] = severity
		}
		return true
	})
}

// isName says whether e is a name, with or without a package before it.
func isName(e ast.Expr, name string) bool {
	if s, ok := e.(*ast.SelectorExpr); ok {
		e = s.Sel
	}
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

// constant is the value of a string that is written out, there or where its
// name is defined.
func constant(f *ast.File, e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, _ := strconv.Unquote(e.Value)
		return s
	case *ast.BinaryExpr:
		if l := constant(f, e.X); l != "" {
			return l + constant(f, e.Y)
		}
	case *ast.Ident:
		value := ""
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if n.Names[0].Name == e.Name && len(n.Values) == 1 {
					value = constant(f, n.Values[0])
				}
			case *ast.AssignStmt:
				if id, ok := n.Lhs[0].(*ast.Ident); ok && id.Name == e.Name && n.Tok == token.DEFINE {
					value = constant(f, n.Rhs[0])
				}
			}
			return true
		})
		return value
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

Errors cannot be suppressed: with one, nothing is loaded. Those that end in 51 to 56 are errors by the kind of fault: 51 something is missing, 52 things do not go together, 53 something is there twice, 54 a number or a length is out of bounds, 55 a name is not known, 56 a text has the wrong form.

In the table … stands for what the text names, *Istio* is the code of Istio's analyzers for the same, and *kinds* are those of the objects that it is said about; nothing there stands for all.

| code | Istio | kinds | text |
|---|---|---|---|
`)
	verb := regexp.MustCompile(`%(\[\d\])?[a-z#+]`)
	for _, c := range code.All {
		text := strings.ReplaceAll(verb.ReplaceAllString(c.Text, "…"), "%%", "%")
		text = strings.ReplaceAll(text, "……", "…")
		text = strings.NewReplacer("|", `\|`, "<", `\<`, "*", `\*`).Replace(text)
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", c.Code, c.Istio, strings.Join(owners(c.Code), ", "), text)
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
		{"egressd.dev/suppress: EGD0003", "  hots: [a]", "EGD0003 EGD0111 EGD0210 EGD0215"},
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
