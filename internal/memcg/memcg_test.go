// SPDX-License-Identifier: Apache-2.0

package memcg

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lay writes files below a directory; {} in them is the directory.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "{}", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLimits(t *testing.T) {
	const none1 = "9223372036854771712\n"
	for _, c := range []struct {
		name            string
		files           map[string]string
		want            []Limit
		least, tightest string
	}{
		{
			name: "v2, limits above",
			files: map[string]string{
				"proc/cgroup":                            "0::/kubepods/pod/egressd\n",
				"proc/mountinfo":                         "30 20 0:25 / {}/cg rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
				"cg/memory.stat":                         "anon 5\n",
				"cg/kubepods/memory.max":                 "max\n",
				"cg/kubepods/memory.current":             "100\n",
				"cg/kubepods/memory.stat":                "anon 5\n",
				"cg/kubepods/pod/memory.max":             "1000\n",
				"cg/kubepods/pod/memory.current":         "900\n",
				"cg/kubepods/pod/memory.stat":            "anon 5\nactive_file 20\ninactive_file 30\nslab_reclaimable 50\nslab 60\n",
				"cg/kubepods/pod/egressd/memory.max":     "500\n",
				"cg/kubepods/pod/egressd/memory.current": "100\n",
				"cg/kubepods/pod/egressd/memory.stat":    "inactive_file 200\n",
			},
			want:  []Limit{{"/cg/kubepods/pod/egressd", 500, 0}, {"/cg/kubepods/pod", 1000, 800}},
			least: "/cg/kubepods/pod/egressd", tightest: "/cg/kubepods/pod",
		},
		{
			name: "v1, in a container that sees its own part",
			files: map[string]string{
				"proc/cgroup":                  "5:cpu,cpuacct:/other\n4:hugetlb,memory:/docker/abc/in\n0::/\n",
				"proc/mountinfo":               "30 20 0:25 / {}/v2 rw - cgroup2 cgroup2 rw\n31 20 0:26 /docker/abc {}/mem rw - cgroup cgroup rw,memory,hugetlb\n",
				"mem/in/memory.limit_in_bytes": "64\n",
				"mem/in/memory.usage_in_bytes": "80\n",
				"mem/in/memory.stat":           "cache 5\ntotal_inactive_file 6\ntotal_active_file 4\n",
				"mem/memory.limit_in_bytes":    none1,
				"mem/memory.usage_in_bytes":    "80\n",
				"mem/memory.stat":              "cache 5\n",
			},
			want:  []Limit{{"/mem/in", 64, 70}},
			least: "/mem/in", tightest: "/mem/in",
		},
		{
			name: "no controller",
			files: map[string]string{
				"proc/cgroup":    "0::/a\n",
				"proc/mountinfo": "30 20 0:25 / {}/cg rw - cgroup2 cgroup2 rw\n31 20 0:26 / {}/cpu rw - cgroup cgroup rw,cpu\n",
			},
		},
	} {
		dir := lay(t, c.files)
		got, err := limits(filepath.Join(dir, "proc"))
		for i := range got {
			got[i].Dir = strings.TrimPrefix(got[i].Dir, dir)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
		least, _ := Least(got)
		tightest, ok := Tightest(got)
		if least.Dir != c.least || tightest.Dir != c.tightest || ok != (len(c.want) > 0) {
			t.Errorf("%s: the least is %q and the tightest %q", c.name, least.Dir, tightest.Dir)
		}
	}
	if left := (Limit{Max: 64, Used: 70}).Left(); left != 0 {
		t.Errorf("%d left of less than nothing", left)
	}
}

// TestBroken: what cannot be read is an error, and no limit that is not there.
func TestBroken(t *testing.T) {
	for _, text := range []string{"", "many\n", "-1\n"} {
		dir := lay(t, map[string]string{
			"proc/cgroup":    "0::/\n",
			"proc/mountinfo": "30 20 0:25 / {}/cg rw - cgroup2 cgroup2 rw\n",
			"cg/memory.max":  text,
		})
		if got, err := limits(filepath.Join(dir, "proc")); err == nil {
			t.Errorf("memory.max of %q is %+v", text, got)
		}
	}
	if _, err := limits(t.TempDir()); err == nil {
		t.Error("no files, and no error")
	}
}

// TestOwn: the machine's own files can be read.
func TestOwn(t *testing.T) {
	if _, err := Limits(); err != nil {
		t.Error(err)
	}
}
