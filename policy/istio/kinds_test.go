// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/istio/internal/analyze"
	"github.com/egressd/egressd/policy/istio/internal/code"
)

// has says whether a code is one of a list, or begins with one of it.
func has(list []string, c string) bool {
	return slices.ContainsFunc(list, func(prefix string) bool { return strings.HasPrefix(c, prefix) })
}

// anyKind are the codes of what is said of objects of all kinds, or of what is
// no object.
var anyKind = []string{"EGD00", "EGD01", "EGD0902"}

// owners are the kinds of the objects that a code is about; none: all.
func owners(c string) (out []string) {
	for _, k := range newKinds() {
		if has(k.codes, c) && !has([]string{"EGD0005"}, c) && !slices.Contains(out, k.name) {
			out = append(out, k.name)
		}
	}
	for _, a := range analyze.Analyzers() {
		for _, k := range a.Kinds {
			if has(a.Codes, c) && !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestKinds: each kind is documented, has its files, and an example or a test
// file; what an analyzer looks at is a kind; and nobody's codes are nobody's.
func TestKinds(t *testing.T) {
	docs, err := os.ReadFile("../../docs/POLICY.md")
	if err != nil {
		t.Fatal(err)
	}
	written := ""
	for _, pattern := range []string{"testdata/*/*.yaml", "../semantics/*.txtar", "../semantics/*/*", "../../examples/*/*.yaml"} {
		for _, name := range glob(t, pattern) {
			if data, err := os.ReadFile(name); err == nil {
				written += string(data)
			}
		}
	}
	table, acting := newKindTable(), 0
	if len(table.byName) != len(table.all) {
		t.Error("two rows have one group and kind")
	}
	for _, k := range table.all {
		if !regexp.MustCompile(`\b` + k.name + `\b`).Match(docs) {
			t.Errorf("docs/POLICY.md does not name %s", k.name)
		}
		if !regexp.MustCompile(`kind: "?` + k.name + `\b`).MatchString(written) {
			t.Errorf("no file of testdata, semantics or examples has a %s", k.name)
		}
		if k.decode == nil || k.inert != "" && len(k.codes) == 0 || k.inert == "" && len(k.files) == 0 {
			t.Errorf("%s: a row says how it is decoded, with which codes, and where", k.name)
		}
		if k.translate != nil {
			acting++
		}
		for _, f := range k.files {
			if _, err := os.Stat(filepath.FromSlash(f) + ".go"); err != nil {
				t.Errorf("%s: %v", k.name, err)
			}
		}
		for _, c := range k.codes {
			if !slices.ContainsFunc(code.All, func(x code.Code) bool { return strings.HasPrefix(x.Code, c) }) {
				t.Errorf("%s: there is no code %s", k.name, c)
			}
		}
	}
	if acting < 10 {
		t.Errorf("only %d kinds are translated", acting)
	}
	for _, a := range analyze.Analyzers() {
		for _, name := range a.Kinds {
			if !slices.ContainsFunc(table.all, func(k kind) bool { return k.name == name }) {
				t.Errorf("analyzer %q: there is no kind %s", a.Name, name)
			}
		}
		for _, c := range a.Codes {
			if !slices.ContainsFunc(code.All, func(x code.Code) bool { return strings.HasPrefix(x.Code, c) }) {
				t.Errorf("analyzer %q: there is no code %s", a.Name, c)
			}
		}
	}
	for _, c := range code.All {
		if len(owners(c.Code)) == 0 && !has(anyKind, c.Code) {
			t.Errorf("no kind and no analyzer has %s: %s", c.Code, c.Text)
		}
	}
}

// TestCodesComeUp: a file shows each code, and what is said about objects of a
// kind has a code of the kind, or of its analyzers.
func TestCodesComeUp(t *testing.T) {
	seen := map[string]bool{}
	for _, pattern := range []string{"testdata/*/*.yaml", "../semantics/*.txtar"} {
		for _, name := range glob(t, pattern) {
			_, findings := Load([]File{readFile(t, name)}, goldenOptions)
			for _, f := range findings {
				seen[f.Code] = true
				kind, _, _ := strings.Cut(f.Object, " ")
				kind, _, _ = strings.Cut(kind, ".") // its group
				if of := owners(f.Code); len(of) > 0 && kind != "" && !slices.Contains(of, kind) {
					t.Errorf("%s: %s is of %v: %v", name, f.Code, of, f)
				}
			}
		}
	}
	for _, c := range code.All {
		if !seen[c.Code] && !slices.Contains(elsewhere, c.Code) {
			t.Errorf("no file shows %s: %s", c.Code, c.Text)
			seen[c.Code] = true
		}
	}
}

// elsewhere are the codes that no file of this package shows.
var elsewhere = []string{
	code.Server,                                // compiling says it; see policy/load
	"EGD0109",                                  // of two files; see TestSeed
	"EGD0305",                                  // of a long text; see TestLongValues
	"EGD0406", "EGD0407", "EGD0408", "EGD0409", // of certificates; see TestCredentials
}
