// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"strings"
	"testing"
)

// TestRemedies: errors say what to do.
func TestRemedies(t *testing.T) {
	for release, want := range map[string]bool{
		"5.15.0-91-generic": true, "6.0.19": true, "6.1.0-18-amd64": false, "6.12": false, "7.0.0": false, "strange": false,
	} {
		if tooOld(release) != want {
			t.Errorf("%s: too old %t", release, !want)
		}
	}
	if got := memoryLimit(); !strings.Contains(got, "cgroup") {
		t.Error(got)
	}
}
