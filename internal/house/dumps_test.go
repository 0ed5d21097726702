// SPDX-License-Identifier: Apache-2.0

package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// listing finds what asks the kernel for a list by netlink.
var listing = regexp.MustCompile(`netlink\.(\w*List\w*|ConntrackTableList)\(|NLM_F_DUMP\b`)

// TestListingsAreWhole: a listing of netlink's may lack what came while it was
// given, and the kernel says so: link.Whole asks again. Who asks calls it, at most
// two lines above.
func TestListingsAreWhole(t *testing.T) {
	seen := 0
	for _, p := range packages(t) {
		switch short(p.ImportPath) {
		case "./internal/world", "./internal/machine", "./internal/testenv":
			continue // they list what stands still
		}
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(root, short(p.ImportPath), name))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(text), "\n")
			for i, l := range lines {
				if !listing.MatchString(l) || strings.HasPrefix(strings.TrimSpace(l), "//") {
					continue
				}
				seen++
				if !strings.Contains(strings.Join(lines[max(0, i-2):i+1], "\n"), "Whole(") {
					t.Errorf("%s/%s:%d lists without link.Whole: %s", short(p.ImportPath), name, i+1, strings.TrimSpace(l))
				}
			}
		}
	}
	if seen < 5 {
		t.Errorf("%d listings were found", seen)
	}
}
