// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
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

// TestToCapture: --unit and --cgroup name cgroups, and without them it is all.
func TestToCapture(t *testing.T) {
	root, err := cgroup.Root()
	if err != nil {
		t.Skipf("needs cgroup2: %v", err)
	}
	t.Setenv("PATH", t.TempDir()) // no systemctl
	got, err := toCapture(t.Context(), []string{"/some/dir"}, []string{"shop", "a-b.slice/x.scope"})
	want := []string{"/some/dir", root + "/system.slice/shop.service", root + "/a.slice/a-b.slice/x.scope"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if got, err := toCapture(t.Context(), nil, nil); err != nil || !slices.Equal(got, []string{root}) {
		t.Errorf("without flags: %v, %v", got, err)
	}
	if _, err := toCapture(t.Context(), nil, []string{"../x"}); !errors.As(err, new(usageError)) {
		t.Errorf("no unit's name: %v", err)
	}
}
