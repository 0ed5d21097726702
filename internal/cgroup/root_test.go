// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"slices"
	"testing"
)

// TestMounts: of several mounts of cgroup v2 the one that shows most comes first, as
// mountinfo has them on nodes, hybrid ones, and in containers.
func TestMounts(t *testing.T) {
	t.Parallel()
	const opts = " rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	for _, c := range []struct {
		name, info string
		want       []string
	}{
		{"none", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:27 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu\n", nil},
		{"unified", "30 22 0:27 / /sys/fs/cgroup" + opts, []string{"/sys/fs/cgroup"}},
		{"hybrid", "29 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n30 29 0:27 / /sys/fs/cgroup/unified" + opts, []string{"/sys/fs/cgroup/unified"}},
		{"own and the node's, cgroup namespace", "30 22 0:27 / /sys/fs/cgroup" + opts + "31 22 0:27 /../../../.. /host/cgroup" + opts,
			[]string{"/host/cgroup", "/sys/fs/cgroup"}},
		{"own and the node's, without a namespace", "30 22 0:27 /kubepods/podx/y /sys/fs/cgroup" + opts + "31 22 0:27 / /host/cgroup" + opts,
			[]string{"/host/cgroup", "/sys/fs/cgroup"}},
		{"the node's over the own", "30 22 0:27 / /sys/fs/cgroup" + opts + "31 30 0:27 /../.. /sys/fs/cgroup" + opts, []string{"/sys/fs/cgroup"}},
		{"hidden by another file system", "30 22 0:27 / /a" + opts + "31 30 0:28 / /a rw - tmpfs tmpfs rw\n32 22 0:27 / /b" + opts, []string{"/b"}},
		{"a space", "30 22 0:27 / /a\\040b" + opts, []string{"/a b"}},
		{"nonsense", "30 22\n - cgroup2 \n\\", nil},
	} {
		var got []string
		for _, m := range mounts(c.info) {
			got = append(got, m.point)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, fmt.Sprint(got), fmt.Sprint(c.want))
		}
	}
}
