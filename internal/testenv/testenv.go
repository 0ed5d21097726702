// SPDX-License-Identifier: Apache-2.0

// Package testenv gives tests what they need of the machine (root, cgroups,
// BPF, a little internet), skips by name where it is not to be had, and finds
// what tests leave behind.
//
// With EGRESSD_CI=1 in the environment a skip is a failure: the machine that
// is meant to run every test must not quietly stop doing so.
package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

// skip ends the test: as skipped, or with EGRESSD_CI=1 as failed.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("EGRESSD_CI") == "1" {
		t.Fatalf("EGRESSD_CI=1 forbids skipping: "+format, args...)
	}
	t.Skipf(format, args...)
}

// RequireRoot skips unless the test runs as root.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root: run as uid 0 (this is uid %d)", os.Geteuid())
	}
}

// RequireCgroup2 skips unless a cgroup v2 hierarchy is mounted in which this
// process may make cgroups.
func RequireCgroup2(t testing.TB) {
	t.Helper()
	RequireRoot(t)
	root, err := world.CgroupRoot()
	if err != nil {
		skip(t, "needs cgroup2: %v", err)
	}
	if err := unix.Access(root, unix.W_OK); err != nil {
		skip(t, "needs cgroup2: %s is not writable: %v", root, err)
	}
}

// RequireBPF skips unless the kernel loads the program types that egressd is
// made of, and lifts the memory limit that old kernels put on maps.
func RequireBPF(t testing.TB) {
	t.Helper()
	RequireRoot(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		skip(t, "needs BPF: memlock: %v", err)
	}
	for _, typ := range []ebpf.ProgramType{ebpf.CGroupSockAddr, ebpf.CGroupSKB, ebpf.CGroupSock, ebpf.SockOps, ebpf.SchedCLS} {
		if err := features.HaveProgramType(typ); err != nil {
			skip(t, "needs BPF: program type %s: %v", typ, err)
		}
	}
}

// RequireTool skips unless a program is installed.
func RequireTool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		skip(t, "needs %s: %v", name, err)
	}
}

// RequireTun skips unless tap devices can be made.
func RequireTun(t testing.TB) {
	t.Helper()
	RequireRoot(t)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		skip(t, "needs tap devices: /dev/net/tun: %v", err)
	}
	unix.Close(fd)
}

// World builds a little internet that goes away with the test.
func World(t testing.TB) *world.World {
	t.Helper()
	return NewWorld(t, world.Options{})
}

// NewWorld is World with options.
func NewWorld(t testing.TB, o world.Options) *world.World {
	t.Helper()
	RequireRoot(t)
	w, err := world.New(o)
	if err != nil {
		t.Fatalf("building the little internet: %v", err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("removing the little internet: %v", err)
		}
	})
	return w
}

// Cgroup makes a cgroup that goes away, with all that runs in it, at the end
// of the test. Make it after the World that its processes use.
func Cgroup(t testing.TB) *world.Cgroup {
	t.Helper()
	RequireCgroup2(t)
	cg, err := world.NewCgroup("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cg.Close(); err != nil {
			t.Errorf("removing the cgroup: %v", err)
		}
	})
	return cg
}

// BPFFS mounts a BPF file system that goes away, with the pins in it, at the
// end of the test.
func BPFFS(t testing.TB) string {
	t.Helper()
	RequireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		skip(t, "needs BPF: mounting a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}

// PinnedMap is the kernel's id of the map that is pinned at path.
func PinnedMap(t testing.TB, path string) uint32 {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return uint32(id)
}

// PinnedEntries counts the entries of the map that is pinned at path.
func PinnedEntries(t testing.TB, path string) (count int) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	it := m.Iterate()
	for it.Next(&key, &value) {
		count++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return count
}

// NoPins fails the test if anything is pinned below dir. An absent directory
// is fine.
func NoPins(t testing.TB, dir string) {
	t.Helper()
	if left := pins(dir); len(left) > 0 {
		t.Errorf("pins left in %s: %s", dir, strings.Join(left, ", "))
	}
}

// pins lists the files below dir.
func pins(dir string) []string {
	var left []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		left = append(left, fmt.Sprintf("(%v)", err))
	}
	return left
}
