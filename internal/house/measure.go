// SPDX-License-Identifier: Apache-2.0

package house

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Figures are what is measured of a package, or of the module. Lines of
// generated files don't count.
type Figures struct {
	Name         string
	Files, Lines int // without tests
	Longest      int // lines of the longest file
	FuncP90      int // nine of ten functions have at most so many lines
	FuncMax      int
	Comments     int // per cent of the lines that are not empty
	TestLines    int
	// Up and Arrows are counted where there is an Order.
	Up, Arrows int
	Ordered    bool

	funcs             []int
	comments, written int
}

// Share is the share of arrows up in per cent, rounded up.
func (f Figures) Share() int {
	if f.Arrows == 0 {
		return 0
	}
	return (100*f.Up + f.Arrows - 1) / f.Arrows
}

// House is what is measured of the module in a directory.
type House struct {
	Module  Figures
	Largest Figures   // the package with most lines
	Ordered []Figures // of the packages that have an Order
}

// Measure reads and type-checks the module in a directory.
func Measure(in string) (House, error) {
	all, err := goList(in, "-json=ImportPath,Dir,GoFiles,TestGoFiles,XTestGoFiles", "./...")
	if err != nil {
		return House{}, err
	}
	h := House{Module: Figures{Name: "all packages"}}
	by := map[string]Figures{}
	for _, p := range all {
		f, err := measure(p)
		if err != nil {
			return House{}, err
		}
		by[f.Name] = f
		h.Module.add(f)
		if f.Lines > h.Largest.Lines {
			h.Largest = f
		}
	}
	for _, o := range Orders {
		f, ok := by[o.Package]
		if !ok {
			return House{}, fmt.Errorf("internal/house/stages.go orders %s, which is not there", o.Package)
		}
		arrows, err := Arrows(in, o.Package)
		if err != nil {
			return House{}, err
		}
		up, err := o.Up(arrows)
		if err != nil {
			return House{}, err
		}
		f.Ordered, f.Arrows, f.Up = true, len(arrows), len(up)
		h.Ordered = append(h.Ordered, f)
	}
	h.Module.finish()
	return h, nil
}

func measure(p pkg) (Figures, error) {
	f := Figures{Name: short(p.ImportPath)}
	var errs []error
	for _, name := range p.GoFiles {
		content, err := os.ReadFile(filepath.Join(p.Dir, name))
		if err == nil && !generated(content) {
			err = f.read(name, content)
		}
		errs = append(errs, err)
	}
	for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
		content, err := os.ReadFile(filepath.Join(p.Dir, name))
		f.TestLines += strings.Count(string(content), "\n")
		errs = append(errs, err)
	}
	f.finish()
	return f, errors.Join(errs...)
}

// read counts one file.
func (f *Figures) read(name string, content []byte) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	f.Files++
	f.Lines += len(lines)
	f.Longest = max(f.Longest, len(lines))
	for _, l := range lines {
		switch l = strings.TrimSpace(l); {
		case strings.HasPrefix(l, "//"):
			f.comments++
			f.written++
		case l != "":
			f.written++
		}
	}
	for _, d := range file.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			f.funcs = append(f.funcs, fset.Position(fn.End()).Line-fset.Position(fn.Pos()).Line+1)
		}
	}
	return nil
}

func (f *Figures) add(b Figures) {
	f.Files += b.Files
	f.Lines += b.Lines
	f.Longest = max(f.Longest, b.Longest)
	f.TestLines += b.TestLines
	f.comments += b.comments
	f.written += b.written
	f.funcs = append(f.funcs, b.funcs...)
}

// finish computes what needs all files.
func (f *Figures) finish() {
	slices.Sort(f.funcs)
	if n := len(f.funcs); n > 0 {
		f.FuncMax, f.FuncP90 = f.funcs[n-1], f.funcs[(9*n+9)/10-1]
	}
	if f.written > 0 {
		f.Comments = (100*f.comments + f.written/2) / f.written
	}
}

// Table is the figures in Markdown.
func (h House) Table() string {
	var b strings.Builder
	b.WriteString("| package | files | lines | longest file | function, nine of ten / longest | comments | test lines for each line | arrows up |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, f := range append([]Figures{h.Module}, h.Ordered...) {
		up := ""
		if f.Ordered {
			up = fmt.Sprintf("%d of %d, %d %%", f.Up, f.Arrows, f.Share())
		}
		fmt.Fprintf(&b, "| `%s` | %d | %d | %d | %d / %d | %d %% | %.2f | %s |\n",
			strings.TrimPrefix(f.Name, "./"), f.Files, f.Lines, f.Longest, f.FuncP90, f.FuncMax, f.Comments, float64(f.TestLines)/float64(max(1, f.Lines)), up)
	}
	fmt.Fprintf(&b, "\nThe largest package is `%s` with %d lines.\n", strings.TrimPrefix(h.Largest.Name, "./"), h.Largest.Lines)
	return b.String()
}

// Marks of the table in a document.
const (
	tableBegin = "<!-- figures: make house -->\n"
	tableEnd   = "<!-- /figures -->\n"
)

// WriteTable puts the table between its marks in a document.
func (h House) WriteTable(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(content), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the figures: %q and %q", path, tableBegin, tableEnd)
	}
	return os.WriteFile(path, []byte(before+tableBegin+"\n"+h.Table()+"\n"+tableEnd+after), 0o644)
}
