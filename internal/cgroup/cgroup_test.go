// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
)

// tellOwn makes the test binary say what its own cgroup is.
const tellOwn = "EGRESSD_TEST_TELL_OWN"

func TestMain(m *testing.M) {
	if os.Getenv(tellOwn) != "" {
		own, err := cgroup.Own()
		fmt.Println(own, err)
		os.Exit(0)
	}
	os.Exit(testenv.Main(m))
}

func TestContains(t *testing.T) {
	for _, c := range []struct {
		outer, inner string
		want         bool
	}{
		{"/c", "/c", true}, {"/c", "/c/a/b", true}, {"/c/a", "/c", false},
		{"/c/a", "/c/ab", false}, {"/c/a", "/c/b/a", false}, {"/", "/c", true}, {"/c/a/..", "/c/b", true},
	} {
		if got := cgroup.Contains(c.outer, c.inner); got != c.want {
			t.Errorf("%s contains %s: %t", c.outer, c.inner, got)
		}
	}
}

// TestLife: a process is in the cgroup from its first instruction, and gone
// with it.
func TestLife(t *testing.T) {
	testenv.RequireCgroup2(t)
	c, err := cgroup.New("life")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	inner, err := c.Child("inner")
	if err != nil {
		t.Fatal(err)
	}
	id, err := inner.ID()
	if err != nil {
		t.Fatal(err)
	}
	above, err := cgroup.IDsUpwards(filepath.Dir(c.Path()))
	if err != nil || len(above) != 1 {
		t.Fatalf("above %s: %v, %v; want the root", c.Path(), above, err)
	}
	seen := map[string][]uint64{}
	if err := cgroup.Walk(c.Path(), above, func(dir string, ids []uint64) { seen[dir] = ids }); err != nil {
		t.Fatal(err)
	}
	if ids := seen[inner.Path()]; len(seen) != 2 || len(ids) != 3 || ids[0] != id || ids[2] != above[0] {
		t.Errorf("%s has %v; want two with %d, the inner one's", c.Path(), seen, id)
	}
	if path := cgroup.PathOf(id); path != inner.Path() || cgroup.Gone(id) {
		t.Errorf("the cgroup %d is at %q, gone: %t; want %s", id, path, cgroup.Gone(id), inner.Path())
	}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: inner.FD()}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	procs, err := cgroup.Procs(inner.Path())
	if err != nil || !slices.Equal(procs, []string{strconv.Itoa(cmd.Process.Pid)}) {
		t.Errorf("processes %v, %v; want %d", procs, err, cmd.Process.Pid)
	}
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "cgroup"))
	if err != nil || !strings.Contains(string(data), filepath.Base(c.Path())+"/inner") {
		t.Errorf("the kernel says %q, %v", data, err)
	}
	if err := c.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	if err := inner.Close(); err != nil {
		t.Error(err)
	}
	if !cgroup.Gone(id) || cgroup.PathOf(id) != "" {
		t.Error("a removed cgroup is not gone")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Path()); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", c.Path(), err)
	}
}

func TestOwn(t *testing.T) {
	testenv.RequireCgroup2(t)
	own, err := cgroup.Own()
	if err != nil {
		t.Fatal(err)
	}
	procs, err := cgroup.Procs(own)
	if err != nil || !slices.Contains(procs, strconv.Itoa(os.Getpid())) {
		t.Errorf("%s has %v, %v; want this process %d", own, procs, err, os.Getpid())
	}
}

// TestOwnInContainer: a process whose cgroup namespace begins at its own cgroup finds that in
// the node's tree, wherever that is mounted; without the tree it says what is missing.
func TestOwnInContainer(t *testing.T) {
	testenv.RequireCgroup2(t)
	testenv.RequireTool(t, "unshare")
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	pod, err := cgroup.New("own")
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	container, err := pod.Child("container")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	rel, err := filepath.Rel(root, container.Path())
	if err != nil {
		t.Fatal(err)
	}
	tell := func(mounts string) string {
		t.Helper()
		c := exec.Command("unshare", "--cgroup", "--mount", "sh", "-ec", mounts+"\nexec \"$0\"", os.Args[0])
		c.Env = append(os.Environ(), tellOwn+"=1", "ROOT="+root, "ELSEWHERE="+elsewhere)
		c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: container.FD()}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, c := range []struct{ mounts, want string }{
		{"", container.Path() + " <nil>"},
		{`mount -t cgroup2 own "$ELSEWHERE"`, container.Path() + " <nil>"},
		{`mount --bind "$ROOT" "$ELSEWHERE"; umount -l "$ROOT"; mount -t cgroup2 own "$ROOT"`, filepath.Join(elsewhere, rel) + " <nil>"},
		{`umount -l "$ROOT"; mount -t cgroup2 own "$ROOT"`, root + " <nil>"}, // its own tree is all that it sees
	} {
		if got := tell(c.mounts); got != c.want {
			t.Errorf("%s: %s, want %s", c.mounts, got, c.want)
		}
	}
	other, err := cgroup.New("own-other")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	got := tell(`mount --bind "` + other.Path() + `" "$ELSEWHERE"; umount -l "$ROOT"`)
	if !strings.Contains(got, "has this process") {
		t.Errorf("another part of the tree: %s", got)
	}
}
