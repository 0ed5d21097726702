// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// usual are names of types that mean the same thing in every package: what it
// is made with.
var usual = map[string]bool{"Options": true, "Config": true, "Stats": true}

// TestTypeNames: one word means one thing. No two packages have exported types
// of one name, unless it is an interface: these stand where they are used, and
// two users may ask for the same. What only tests use may have names of its own.
func TestTypeNames(t *testing.T) {
	where := map[string]string{}
	for _, p := range packages(t) {
		name := short(p.ImportPath)
		if testWorld(name) {
			continue
		}
		for _, file := range p.GoFiles {
			for _, typ := range exportedTypes(t, filepath.Join(p.Dir, file)) {
				if usual[typ] {
					continue
				}
				if other, ok := where[typ]; ok {
					t.Errorf("%s and %s both have a type %s: one word means one thing", other, name, typ)
				}
				where[typ] = name
			}
		}
	}
	if len(where) < 100 {
		t.Errorf("only %d exported types were found", len(where))
	}
}

func testWorld(name string) bool {
	for _, prefix := range []string{"./internal/world", "./internal/testenv", "./internal/machine", "./internal/house", "./hack/"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.HasSuffix(name, "test")
}

// exportedTypes are the names of a file's types but interfaces and aliases.
func exportedTypes(t *testing.T, path string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			typ, ok := s.(*ast.TypeSpec)
			if !ok || typ.Assign.IsValid() || !typ.Name.IsExported() {
				continue
			}
			if _, ok := typ.Type.(*ast.InterfaceType); !ok {
				names = append(names, typ.Name.Name)
			}
		}
	}
	return names
}
