// SPDX-License-Identifier: Apache-2.0

package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestArrows holds the share of arrows up in each package that has an order of
// its files. With -v it prints the figures.
func TestArrows(t *testing.T) {
	h, err := Measure(root)
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]pkg{}
	for _, p := range packages(t) {
		by[short(p.ImportPath)] = p
	}
	for i, o := range Orders {
		if err := o.check(by[o.Package].GoFiles); err != nil {
			t.Error(err)
		}
		f := h.Ordered[i]
		switch share := f.Share(); {
		case share > o.Limit:
			t.Errorf("%s: %d of %d arrows go up, %d %%, more than %d: \"go run ./hack/house -up %s\" lists them; declare what is used where it belongs",
				o.Package, f.Up, f.Arrows, share, o.Limit, o.Package)
		case share < o.Limit:
			t.Logf("%s: the limit in internal/house/stages.go can be %d instead of %d", o.Package, share, o.Limit)
		}
	}
	t.Logf("\n%s", h.Table())
}

// TestArrowsOf counts in a small package: types, methods and fields are used by
// other files, what is used where it is declared is no arrow.
func TestArrowsOf(t *testing.T) {
	fset := token.NewFileSet()
	var files []*ast.File
	for name, text := range map[string]string{
		"low.go":  "package p\ntype low struct{ a, b int }\nfunc (l low) sum() int { return l.a + l.b + high }\n",
		"high.go": "package p\nconst high = 1\nfunc use(l low) int { return l.sum() + l.a }\n",
		"own.go":  "package p\nvar own = 1\nvar also = own\n",
	} {
		f, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	arrows, err := arrowsOf(fset, "p", files, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(arrows); got != "[{high.go low.go [a low sum]} {low.go high.go [high]}]" {
		t.Error(got)
	}
	for _, c := range []struct {
		stages []Stage
		up     string
	}{
		{[]Stage{{"one", "low"}, {"two", "high own"}}, "[{low.go high.go [high]}]"},
		{[]Stage{{"one", "high"}, {"two", "*"}}, "[{high.go low.go [a low sum]}]"},
		{[]Stage{{"one", "low high"}, {"two", "own"}}, "[]"},
	} {
		o := Order{Package: "p", Stages: c.stages}
		up, err := o.Up(arrows)
		if got := fmt.Sprint(up); got != c.up || err != nil {
			t.Errorf("%v: %s, %v, want %s", c.stages, got, err, c.up)
		}
		if err := o.check([]string{"low.go", "high.go", "own.go"}); err != nil {
			t.Error(err)
		}
	}
	o := Order{Package: "p", Stages: []Stage{{"one", "low gone"}, {"two", "low"}}}
	if err := o.check([]string{"low.go", "high.go"}); err == nil ||
		!strings.Contains(err.Error(), "high.go is in no stage") || !strings.Contains(err.Error(), "no gone.go") || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a wrong table: %v", err)
	}
	all := []Arrow{{From: "low.go", To: "high.go"}, {From: "high.go", To: "low.go"}, {From: "high.go", To: "own.go"}}
	_, err = o.Up(all)
	if err == nil {
		t.Fatal("an arrow of a file in no stage is counted")
	}
	for _, file := range []string{"high.go", "own.go"} { // once, however many arrows it has
		if n := strings.Count(err.Error(), file+" is in no stage"); n != 1 {
			t.Errorf("%s: said %d times: %v", file, n, err)
		}
	}
}

func TestFigures(t *testing.T) {
	f := Figures{Name: "./p", TestLines: 5, Ordered: true, Up: 1, Arrows: 3}
	text := "package p\n\n// F does.\nfunc F() {\n\tG()\n}\n\nfunc G() {}\n"
	if err := f.read("p.go", []byte(text)); err != nil {
		t.Fatal(err)
	}
	f.finish()
	if f.Files != 1 || f.Lines != 8 || f.Longest != 8 || f.FuncMax != 3 || f.FuncP90 != 3 || f.Comments != 17 || f.Share() != 34 {
		t.Errorf("%+v", f)
	}
	path := filepath.Join(t.TempDir(), "doc.md")
	if err := (House{}).WriteTable(path); err == nil {
		t.Error("written where there is no document")
	}
	for _, before := range []string{"", "old\n"} {
		if err := os.WriteFile(path, []byte("above\n"+tableBegin+before+tableEnd+"below\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (House{Module: f, Largest: f}).WriteTable(path); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(got), "old") || !strings.HasPrefix(string(got), "above\n") || !strings.HasSuffix(string(got), tableEnd+"below\n") ||
			!strings.Contains(string(got), "| `p` | 1 | 8 | 8 | 3 / 3 | 17 % | 0.62 | 1 of 3, 34 % |") {
			t.Errorf("%s, %v", got, err)
		}
	}
	if err := os.WriteFile(path, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (House{}).WriteTable(path); err == nil {
		t.Error("written where there is no place for it")
	}
}
