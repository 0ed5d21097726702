// SPDX-License-Identifier: Apache-2.0

package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Names of tests and of attack rows in docs/THREATS.md.
var (
	testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	rowNames = regexp.MustCompile("rows? ((?:`[^`]+`(?:, | and )?)+)")
	quoted   = regexp.MustCompile("`([^`]+)`")
)

// TestThreatsAreShown: what docs/THREATS.md promises is tested by what it says.
func TestThreatsAreShown(t *testing.T) { areShown(t, "THREATS.md", 50) }

// areShown wants every test and every attack row that a document names to be
// there, and the document to name some.
func areShown(t *testing.T, doc string, least int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", doc))
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[string]bool{} // false: not found yet
	for _, m := range testName.FindAllStringSubmatch(string(text), -1) {
		wanted["func "+m[1]+"("] = false
	}
	for _, list := range rowNames.FindAllStringSubmatch(string(text), -1) {
		for _, m := range quoted.FindAllStringSubmatch(list[1], -1) {
			wanted[`attack: "`+m[1]+`"`] = false
		}
	}
	if len(wanted) < least {
		t.Errorf("only %d names were found in the document", len(wanted))
	}
	files(t, func(path string, content []byte) {
		if !strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "threats_test.go") {
			return
		}
		for name, found := range wanted {
			if !found && strings.Contains(string(content), name) {
				wanted[name] = true
			}
		}
	}, ".go")
	for name, found := range wanted {
		if !found {
			t.Errorf("docs/%s names what no test file has: %s", doc, name)
		}
	}
}
