// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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

// Pids lists the processes directly in the cgroup at path. One that is gone has
// none, and neither has one with threads only, whose parent has them.
func Pids(path string) (pids []int, err error) {
	procs, err := Procs(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	for _, s := range procs {
		if pid, err := strconv.Atoi(s); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
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
		inside, err := Pids(p)
		pids = append(pids, inside...)
		return err
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

// IDsUpwards lists the ids of the cgroup at dir and of those around it.
func IDsUpwards(dir string) ([]uint64, error) {
	dirs, err := Upwards(dir)
	if err != nil {
		return nil, err
	}
	ids := make([]uint64, len(dirs))
	for i, dir := range dirs {
		if ids[i], err = ID(dir); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// Walk calls f for the cgroup at dir and each below it, with its id and those of the cgroups
// around it, the nearest first; above are those around dir. Cgroups that come
// or go meanwhile may be missing.
func Walk(dir string, above []uint64, f func(dir string, ids []uint64)) error {
	id, err := ID(dir)
	if err != nil {
		return nil // gone
	}
	ids := append([]uint64{id}, above...)
	f(dir, ids)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := Walk(filepath.Join(dir, e.Name()), ids, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// Gone says whether there is no cgroup with this id any more, nor will be: ids
// are not given again. When that cannot be found out it is not gone.
func Gone(id uint64) bool {
	root, err := Root()
	if err != nil {
		return false
	}
	dir, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	f, err := openByID(dir, id)
	if err == nil {
		unix.Close(f)
	}
	return errors.Is(err, unix.ESTALE)
}

// PathOf finds the directory of a cgroup by its id; "" when it is gone.
func PathOf(id uint64) string {
	root, err := Root()
	if err != nil {
		return ""
	}
	dir, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(dir)
	f, err := openByID(dir, id)
	if err != nil {
		return ""
	}
	defer unix.Close(f)
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(f))
	if err != nil {
		return ""
	}
	return path
}

// openByID opens a cgroup by the handle that is made of its id
// (include/linux/exportfs.h, FILEID_KERNFS).
func openByID(root int, id uint64) (int, error) {
	const fileidKernfs = 0xfe
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	return unix.OpenByHandleAt(root, handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
}
