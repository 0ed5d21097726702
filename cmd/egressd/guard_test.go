// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/link"
)

// TestGuardChoice: what is behind veths and taps is guarded by itself only when
// everything on the node is captured.
func TestGuardChoice(t *testing.T) {
	root, err := cgroup.Root()
	if err != nil {
		t.Skipf("needs cgroup2: %v", err)
	}
	veth := link.Link{Name: "veth1", Outside: true}
	for _, c := range []struct {
		flag, captured string
		picks, none    bool
	}{
		{"auto", root, true, false},
		{"auto", t.TempDir(), false, false},
		{"none", root, false, true},
		{"veth*", t.TempDir(), true, false},
	} {
		whole, err := wholeNode([]string{c.captured})
		if err != nil {
			t.Fatal(err)
		}
		got, err := guardChoice(c.flag, whole)
		if err != nil || got.Picks(veth) != c.picks || got.None() != c.none {
			t.Errorf("--interfaces %s: picks a veth %t, none %t, %v", c.flag, got.Picks(veth), got.None(), err)
		}
	}
	if _, err := guardChoice("[", true); err == nil {
		t.Error("a bad pattern was taken")
	}
}
