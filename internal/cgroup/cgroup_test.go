// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
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

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

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
	ids, err := cgroup.IDs(c.Path())
	if err != nil || len(ids) != 2 || !ids[id] {
		t.Errorf("IDs of %s: %v, %v; want two with %d", c.Path(), ids, err, id)
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
