// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestReasons: Reasons has each that verdict.go declares, once and in its order.
func TestReasons(t *testing.T) {
	source, err := os.ReadFile("verdict.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []Reason
	for _, m := range regexp.MustCompile(`(?m)^\tReason\w+ +Reason += "([^"]+)"$`).FindAllSubmatch(source, -1) {
		want = append(want, Reason(m[1]))
	}
	if got := Reasons(); len(want) < 40 || !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
