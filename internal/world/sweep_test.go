// SPDX-License-Identifier: Apache-2.0

package world_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// state is everything that a world might leave on the machine.
func state(t *testing.T) []string {
	t.Helper()
	var out []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		out = append(out, "link "+l.Attrs().Name)
	}
	patterns := []string{"/run/netns/*", filepath.Join(os.TempDir(), "egd-*")}
	if root, err := world.CgroupRoot(); err == nil {
		patterns = append(patterns, filepath.Join(root, "egd-"+fmt.Sprint(os.Getpid())+"-*"))
	}
	for _, p := range patterns {
		found, _ := filepath.Glob(p)
		for _, f := range found {
			if !strings.Contains(f, "egd-") || strings.Contains(f, fmt.Sprintf("egd-%d-", os.Getpid())) {
				out = append(out, f)
			}
		}
	}
	return out
}

func TestCloseLeavesNothing(t *testing.T) {
	testenv.RequireBPF(t)
	before := state(t)
	w, err := world.New(world.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.MountBPFFS(); err != nil {
		t.Error(err)
	}
	if during := state(t); slices.Equal(before, during) {
		t.Error("a world that is there does not show; the comparison below proves nothing")
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if after := state(t); !slices.Equal(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
}

// TestHelperIsKilled is no test: TestSweep runs it in a process to kill.
func TestHelperIsKilled(t *testing.T) {
	if os.Getenv("WORLD_HELPER") == "" {
		return
	}
	w, err := world.New(world.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.MountBPFFS(); err != nil {
		t.Fatal(err)
	}
	cg, err := world.NewCgroup("helper")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Node.Command(t.Context(), cg, "sleep", "600").Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("READY")
	select {}
}

func TestSweep(t *testing.T) {
	testenv.RequireBPF(t)
	testenv.RequireCgroup2(t)
	c := exec.CommandContext(ctx(t), os.Args[0], "-test.run=^TestHelperIsKilled$")
	c.Env = append(os.Environ(), "WORLD_HELPER=1")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	for buf := make([]byte, 256); !strings.Contains(seen.String(), "READY"); {
		n, err := out.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("helper: %v, output %q", err, seen.String())
		}
	}
	if err := world.Sweep(); err != nil {
		t.Error(err)
	}
	if left := world.Leftovers(c.Process.Pid); len(left) != 2 {
		t.Errorf("a living process has %v, want a cgroup and a directory that Sweep left alone", left)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // killed
	if err := world.Sweep(); err != nil {
		t.Error(err)
	}
	if left := world.Leftovers(c.Process.Pid); len(left) != 0 {
		t.Errorf("left after Sweep: %v", left)
	}
}
