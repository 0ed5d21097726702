// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"testing"
	"time"
)

// TestVersion: what is newer sorts behind, for dpkg too.
func TestVersion(t *testing.T) {
	early, late := time.Unix(1700000000, 0).UTC(), time.Unix(1700009000, 0).UTC()
	last := ""
	for _, tt := range []struct {
		version string
		at      time.Time
		want    string
	}{
		{"1c4b006", early, "0.1.0~20231114221320.1c4b006"},
		{"0a4b006-dirty", late, "0.1.0~20231115004320.0a4b006.dirty"},
		{"v0.1.0", late, "0.1.0"},
		{"v0.1.0-dirty", late, "0.1.0+dirty"},
		{"v0.1.1", late, "0.1.1"},
		{"v0.1.1-9-gabcdef0", late, "0.1.1+9.abcdef0"},
		{"v0.1.1-10-gabcdef0-dirty", late, "0.1.1+10.abcdef0.dirty"},
		{"0.2.0", late, "0.2.0"},
	} {
		got := packageVersion(tt.version, tt.at, "0.1.0")
		if got != tt.want {
			t.Errorf("%s is %s, want %s", tt.version, got, tt.want)
		}
		if last != "" && exec.Command("dpkg", "--compare-versions", last, "lt", got).Run() != nil {
			t.Errorf("%s does not sort behind %s", got, last)
		}
		last = got
	}
}
