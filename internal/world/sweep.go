// SPDX-License-Identifier: Apache-2.0

package world

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/cgroup"
)

// Sweep removes what processes that were killed left behind: cgroups with
// whatever still runs in them, and state directories with their mounts. What
// belongs to a living process is told by its lock and left alone, also when
// that process lives in another pid namespace.
func Sweep() error {
	var errs []error
	if root, err := CgroupRoot(); err == nil {
		for _, path := range stale(root) {
			errs = append(errs, cgroup.Remove(path))
		}
	}
	for _, path := range stale(os.TempDir()) {
		errs = append(errs, removeDir(path))
	}
	return errors.Join(errs...)
}

// Leftovers lists the cgroups and state directories that process pid made and
// that are still there.
func Leftovers(pid int) []string {
	var out []string
	parents := []string{os.TempDir()}
	if root, err := CgroupRoot(); err == nil {
		parents = append(parents, root)
	}
	for _, parent := range parents {
		found, _ := filepath.Glob(filepath.Join(parent, prefix+strconv.Itoa(pid)+"-*")) // the pattern is good
		out = append(out, found...)
	}
	return out
}

// stale lists the directories below parent that belong to nobody any more.
func stale(parent string) []string {
	found, _ := filepath.Glob(filepath.Join(parent, prefix+"*-*")) // the pattern is good
	var out []string
	for _, path := range found {
		id, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), prefix), "-")
		pid, err := strconv.Atoi(id)
		if err != nil || pid <= 0 || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			continue
		}
		if unlocked(path) {
			out = append(out, path)
		}
	}
	return out
}

// unlocked says whether nobody holds the lock of a directory.
func unlocked(path string) bool {
	dir, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = dir.Close() }() // which also gives the lock back
	return unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// removeDir unmounts the BPF file system of a state directory and removes it.
func removeDir(path string) error {
	err := unix.Unmount(filepath.Join(path, bpffsName), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err // rather keep the directory than delete through a mount
	}
	return os.RemoveAll(path)
}
