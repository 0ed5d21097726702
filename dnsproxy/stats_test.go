// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"os"
	"strings"
	"testing"
)

// TestStatsAreDocumented: docs/METRICS.md says what each count is.
func TestStatsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/METRICS.md")
	if err != nil {
		t.Skipf("needs the source tree around the tests: %v", err)
	}
	_, section, _ := strings.Cut(string(text), "\n### DNS\n")
	section, _, _ = strings.Cut(section, "\n### ")
	for _, name := range append([]string{"names_evicted"}, counterNames[:]...) {
		if !strings.Contains(section, "`"+name+"`") {
			t.Errorf("docs/METRICS.md does not have the event %s", name)
		}
	}
}
