// SPDX-License-Identifier: Apache-2.0

package house

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Arrow is that a file uses what another file of its package declares.
type Arrow struct {
	From, To string   // names of the files
	Symbols  []string // what is used, sorted
}

// Arrows lists the arrows of a package, sorted.
func Arrows(in, pattern string) ([]Arrow, error) {
	listed, err := goList(in, "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles", pattern)
	if err != nil {
		return nil, err
	}
	p := listed[len(listed)-1] // -deps lists a package after what it imports
	export := map[string]string{}
	for _, l := range listed {
		export[l.ImportPath] = l.Export
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	lookup := func(path string) (io.ReadCloser, error) {
		if export[path] == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(export[path])
	}
	return arrowsOf(fset, p.ImportPath, files, importer.ForCompiler(fset, "gc", lookup))
}

// arrowsOf is Arrows for parsed files.
func arrowsOf(fset *token.FileSet, path string, files []*ast.File, imp types.Importer) ([]Arrow, error) {
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: imp}
	pkg, err := conf.Check(path, fset, files, info)
	if err != nil {
		return nil, err
	}
	name := func(pos token.Pos) string { return filepath.Base(fset.Position(pos).Filename) }
	found := map[[2]string]map[string]bool{}
	for ident, o := range info.Uses {
		if o.Pkg() != pkg || !o.Pos().IsValid() {
			continue
		}
		pair := [2]string{name(ident.Pos()), name(o.Pos())}
		if pair[0] == pair[1] {
			continue
		}
		if found[pair] == nil {
			found[pair] = map[string]bool{}
		}
		found[pair][o.Name()] = true
	}
	var out []Arrow
	for pair, symbols := range found {
		a := Arrow{From: pair[0], To: pair[1]}
		for s := range symbols {
			a.Symbols = append(a.Symbols, s)
		}
		slices.Sort(a.Symbols)
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Arrow) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	return out, nil
}

// Up are those of the arrows that go from an earlier stage to a later one.
func (o Order) Up(arrows []Arrow) ([]Arrow, error) {
	var up []Arrow
	var errs []error
	stages := map[string]int{}
	stage := func(file string) int {
		s, known := stages[file]
		if !known {
			var err error
			s, err = o.stageOf(file)
			stages[file], errs = s, append(errs, err) // said once for a file
		}
		return s
	}
	for _, a := range arrows {
		if stage(a.From) < stage(a.To) {
			up = append(up, a)
		}
	}
	return up, errors.Join(errs...)
}

// stageOf is the index of a file's stage. Its name counts before a pattern, and
// a longer pattern before a shorter one.
func (o Order) stageOf(file string) (int, error) {
	stage, best := -1, -1
	for i, s := range o.Stages {
		for _, pattern := range strings.Fields(s.Files) {
			weight := len(pattern)
			if !strings.Contains(pattern, "*") {
				weight = 1 << 10
			}
			if ok, _ := path.Match(pattern+".go", file); ok && weight > best {
				stage, best = i, weight
			}
		}
	}
	if stage < 0 {
		return 0, fmt.Errorf("%s/%s is in no stage: say in internal/house/stages.go where it stands", o.Package, file)
	}
	return stage, nil
}

// check says which files are in no stage, and which names in the table stand for
// no file.
func (o Order) check(files []string) error {
	var errs []error
	for _, f := range files {
		_, err := o.stageOf(f)
		errs = append(errs, err)
	}
	seen := map[string]bool{}
	for _, s := range o.Stages {
		for _, pattern := range strings.Fields(s.Files) {
			if seen[pattern] {
				errs = append(errs, fmt.Errorf("%s: %s is named twice in internal/house/stages.go", o.Package, pattern))
			}
			seen[pattern] = true
			if !slices.ContainsFunc(files, func(f string) bool { ok, _ := path.Match(pattern+".go", f); return ok }) {
				errs = append(errs, fmt.Errorf("%s: there is no %s.go, which the stage %q of internal/house/stages.go names", o.Package, pattern, s.Name))
			}
		}
	}
	return errors.Join(errs...)
}
