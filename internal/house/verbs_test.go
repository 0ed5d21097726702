// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"testing"
)

// TestReadingVerbsNeedNoDaemon: the verbs that only read a policy import nothing
// of the daemon: not in the files of the verbs, and not by what these import.
func TestReadingVerbsNeedNoDaemon(t *testing.T) {
	imports := map[string][]string{}
	for _, p := range packages(t) {
		imports[short(p.ImportPath)] = p.Imports
	}
	daemon := map[string]bool{"./agent": true, "./loader": true, "./bpf": true, "./forward": true, "./egress": true, "./ingress": true, "./dnsproxy": true}
	seen := map[string]bool{}
	var visit func(from, name string)
	visit = func(from, name string) {
		if daemon[name] {
			t.Errorf("%s imports %s", from, name)
		}
		if seen[name] || daemon[name] {
			return
		}
		seen[name] = true
		for _, imp := range imports[name] {
			visit(name, short(imp))
		}
	}
	for _, file := range []string{"check.go", "explain.go", "readpolicy.go", "replay.go"} {
		path := filepath.Join(root, "cmd/egressd", file)
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			visit(file, short(name))
		}
	}
	if !seen["./policy"] || !seen["./explain"] {
		t.Errorf("the verbs do not reach the policy: %v", seen)
	}
}
