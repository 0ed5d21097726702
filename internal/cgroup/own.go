// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Own returns the directory of the calling process's cgroup v2.
func Own() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		// cgroups(7): the v2 entry is "0::PATH"; PATH starts with /.. when it
		// lies outside the cgroup namespace's root.
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(root, path), nil
		}
	}
	return "", fmt.Errorf("%w: no entry in /proc/self/cgroup", ErrNone)
}

// Contains says whether the cgroup directory inner is outer or lies in it.
func Contains(outer, inner string) bool {
	rel, err := filepath.Rel(outer, inner)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// Procs lists the processes directly in the cgroup at path, as the kernel
// prints their pids.
func Procs(path string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(data)), nil
}

// AllProcs lists the processes in the cgroup at path and below. Processes that
// come or go meanwhile may be missing.
func AllProcs(path string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		procs, err := Procs(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) &&
			!errors.Is(err, unix.EOPNOTSUPP) { // removed meanwhile; a threaded cgroup, its parent has them
			return err
		}
		for _, s := range procs {
			if pid, err := strconv.Atoi(s); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// Enter makes the cgroup at path, if it is missing, and moves the calling
// process there.
func Enter(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make the cgroup %s: %w", path, err)
	}
	if err := os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter the cgroup %s: %w", path, err)
	}
	return nil
}

// ID is the id that the kernel programs and sock_diag(7) see for the cgroup v2
// directory at path: its inode number.
func ID(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", path, err)
	}
	return st.Ino, nil
}

// IDs lists the ids of the cgroup at path and of all below it. Cgroups that come or go meanwhile may be missing.
func IDs(path string) (map[uint64]bool, error) {
	ids := map[uint64]bool{}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		if id, err := ID(p); err == nil {
			ids[id] = true
		}
		return nil
	})
	return ids, err
}
