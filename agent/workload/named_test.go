// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"slices"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
)

// TestNamed: units and directories name cgroups, and without them it is all.
func TestNamed(t *testing.T) {
	root, err := cgroup.Root()
	if err != nil {
		t.Skipf("needs cgroup2: %v", err)
	}
	t.Setenv("PATH", t.TempDir()) // no systemctl
	got, err := Named(t.Context(), []string{"/some/dir"}, []string{"shop", "a-b.slice/x.scope"})
	want := []string{"/some/dir", root + "/system.slice/shop.service", root + "/a.slice/a-b.slice/x.scope"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if got, err := Named(t.Context(), nil, nil); err != nil || !slices.Equal(got, []string{root}) {
		t.Errorf("without flags: %v, %v", got, err)
	}
	if _, err := Named(t.Context(), nil, []string{"../x"}); !errors.As(err, new(*UnitError)) {
		t.Errorf("no unit's name: %v", err)
	}
}

// TestWhole: only the root, by whatever path, is everything.
func TestWhole(t *testing.T) {
	root, err := cgroup.Root()
	if err != nil {
		t.Skipf("needs cgroup2: %v", err)
	}
	for dir, want := range map[string]bool{root: true, root + "/.": true, t.TempDir(): false, root + "/none": false} {
		if got, err := Whole([]string{dir}); err != nil || got != want {
			t.Errorf("%s: %t, %v", dir, got, err)
		}
	}
}
