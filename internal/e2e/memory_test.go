// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/world"
)

// memoryCgroup makes a cgroup with a limit of memory, and returns the file that a
// process enters it by. Where the controller is v1's that is beside the cgroups
// of the world, else the daemon's own cgroup is in it.
func memoryCgroup(t *testing.T, limit int) (enter string) {
	t.Helper()
	dir, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
		root, err := cgroup.Root()
		if err != nil {
			t.Fatal(err)
		}
		dir, file = root, "memory.max"
		// The root's children have the controller when it says so.
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp(dir, "egressd-test-memory-")
	if err != nil {
		t.Fatal(err)
	}
	// The kernel frees tables some time after those who used them are gone.
	t.Cleanup(func() {
		eventually(t, soon, "the memory cgroup is removed", func() bool { return os.Remove(dir) == nil })
	})
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(limit)), 0); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "cgroup.procs")
}

// startsIn makes the daemon start in that cgroup.
func (n *node) startsIn(enter string) {
	n.d.Prefix = []string{"/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, enter}
}

// TestMemoryLimit: in a cgroup of 64 MB the daemon starts, is killed, starts again
// beside the tables that are pinned, ten times, and serves.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	enter := memoryCgroup(t, 64_000_000)
	n := prepare(t, map[string]string{"api.yaml": upgradePolicy}, nil)
	n.startsIn(enter)
	for round := range 11 {
		if err := n.d.Start(t.Context()); err != nil {
			t.Fatalf("start %d: %v", round, err)
		}
		n.learn(t, world.API)
		m := n.status(t).Memory
		if m.Limit == 0 || m.Limit > 64_000_000 || m.Tables == 0 || m.Tables > 16_000_000 || m.Used < m.Tables {
			t.Errorf("start %d: status says %+v", round, m)
		}
		if err := n.d.Kill(); err != nil {
			t.Logf("start %d: %v", round, err) // it was killed
		}
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestMemoryTooSmall: a limit that the tables do not fit in is said with what is
// needed, before the kernel ends the daemon for it.
func TestMemoryTooSmall(t *testing.T) {
	t.Parallel()
	enter := memoryCgroup(t, 64_000_000)
	n := prepare(t, map[string]string{"api.yaml": upgradePolicy}, nil, "--max-flows", "1048576")
	n.startsIn(enter)
	err := n.d.Start(t.Context())
	log := n.d.Log()
	if err == nil || !strings.Contains(log, "of kernel memory are needed and the memory cgroup /sys/fs/cgroup/") ||
		!strings.Contains(log, "left of its limit of 61.0 MiB") {
		t.Errorf("a start with too little memory: %v\n%s", err, log)
	}
}
