// SPDX-License-Identifier: Apache-2.0

package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// caseName is FILE/CASE in docs/TENANTS.md.
	caseName = regexp.MustCompile("`([a-z]+/[a-zA-Z][^`]*)`")
	// caseMark is where a case begins in a file of cases.
	caseMark = regexp.MustCompile("(?m)^-- case (.+) --$")
)

// TestTenantsAreShown: what docs/TENANTS.md says of namespaces is shown by the
// cases, tests and attack rows that it names, and it names all cases of
// tenants.
func TestTenantsAreShown(t *testing.T) {
	areShown(t, "TENANTS.md", 5)
	const dir = "policy/semantics/tenants"
	there := map[string]bool{} // true: named
	files(t, func(path string, content []byte) {
		if filepath.Dir(path) != dir {
			return
		}
		for _, m := range caseMark.FindAllStringSubmatch(string(content), -1) {
			there[strings.TrimSuffix(filepath.Base(path), ".txtar")+"/"+m[1]] = false
		}
	}, ".txtar")
	text, err := os.ReadFile(filepath.Join(root, "docs", "TENANTS.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range caseName.FindAllStringSubmatch(string(text), -1) {
		if _, ok := there[m[1]]; !ok {
			t.Errorf("docs/TENANTS.md names the case %q, which is not in %s", m[1], dir)
		}
		there[m[1]] = true
	}
	if len(there) < 50 {
		t.Errorf("only %d cases were found in %s", len(there), dir)
	}
	for name, named := range there {
		if !named {
			t.Errorf("docs/TENANTS.md does not name the case %q of %s", name, dir)
		}
	}
}
