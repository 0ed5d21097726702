// SPDX-License-Identifier: Apache-2.0

package bpffs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/securedir"
)

// Root is where the bpf filesystem is mounted by convention.
const Root = "/sys/fs/bpf"

// VolatileError says that what is pinned in a directory would not outlive
// egressd: its bpf filesystem is not mounted where the first process of the
// machine (or container) sees it, so it goes with egressd's mount namespace,
// and with it every program and table.
type VolatileError struct{ Dir, Why string }

func (e *VolatileError) Error() string {
	return fmt.Sprintf("what is pinned in %s would be gone with egressd: %s", e.Dir, e.Why)
}

// Prepare makes a directory to pin in, and mounts a bpf filesystem at BPFFS
// when dir lies there and none is mounted. It mounts one that outlives egressd
// where that can be had. The error is a *VolatileError if it can't; with
// volatile set dir is there all the same.
func Prepare(dir string, volatile bool) error {
	var lasts error // nil: it does
	switch {
	case strings.HasPrefix(filepath.Clean(dir), Root+"/") && !Is(Root):
		if lasts = mountLasting(); lasts != nil && volatile {
			if err := mountBPFFS(); err != nil {
				return err
			}
		}
	default:
		lasts = Lasting(existing(dir))
	}
	if lasts != nil && !volatile {
		return lasts
	}
	if err := Make(dir); err != nil {
		return err
	}
	return lasts
}

// Make makes a directory that must be on a bpf filesystem.
func Make(dir string) error {
	if dir == "" {
		return errors.New("no directory to pin to")
	}
	if err := securedir.Ensure(dir); err != nil {
		return fmt.Errorf("make the pin directory: %w", err)
	}
	if !Is(dir) {
		_ = os.Remove(dir)
		return fmt.Errorf("%s is not on a bpf filesystem; mount one with: mount -t bpf bpffs %s", dir, Root)
	}
	return nil
}

// existing is the nearest directory from dir upwards that is there.
func existing(dir string) string {
	for dir = filepath.Clean(dir); dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
	}
	return dir
}

// Is says whether a directory is on a bpf filesystem.
func Is(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}

func mountBPFFS() error {
	if err := unix.Mount("bpffs", Root, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpf filesystem at %s: %w", Root, err)
	}
	return nil
}

// mountLasting mounts a bpf filesystem at BPFFS: here, if this is the mount
// namespace of the first process or what is mounted here shows there, else
// there, and the same one here.
func mountLasting() error {
	if os.Getpid() == 1 {
		return &VolatileError{Root, "egressd is the first process of a container, and no bpf filesystem of the node is mounted there"}
	}
	if err := mountBPFFS(); err != nil {
		return err
	}
	err := Lasting(Root)
	if err == nil {
		return nil
	}
	if uerr := unix.Unmount(Root, 0); uerr != nil {
		return fmt.Errorf("unmount %s: %w", Root, uerr)
	}
	if merr := mountAt1(); merr != nil {
		return &VolatileError{Root, fmt.Sprintf("no bpf filesystem is mounted there, egressd is in a mount namespace of its own, and mounting one outside failed: %v", merr)}
	}
	return Lasting(Root)
}

// mountAt1 mounts a bpf filesystem at BPFFS in the mount namespace of the first
// process, unless there is one, and the same one here.
func mountAt1() error {
	tree := -1
	err := inMountsOf1(func() (err error) {
		if !Is(Root) {
			if err = mountBPFFS(); err != nil {
				return err
			}
		}
		tree, err = unix.OpenTree(unix.AT_FDCWD, Root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if Is(Root) { // it was propagated
		return nil
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, Root, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// inMountsOf1 runs f in the mount namespace of the first process, on a thread
// that ends with it: it no longer shares its root and directory with others.
func inMountsOf1(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open("/proc/1/ns/mnt")
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter the mount namespace of process 1: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

// Lasting returns a VolatileError unless the filesystem that dir is on is
// mounted in the mount namespace of the first process, too.
func Lasting(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if !Is(dir) {
		return nil // which is said elsewhere
	}
	const mounts = "/proc/1/mountinfo"
	f, err := os.Open(mounts)
	if err != nil {
		return &VolatileError{dir, fmt.Sprintf("it can't be seen whether the bpf filesystem there is mounted for the whole node: %v", err)}
	}
	defer f.Close()
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	s := bufio.NewScanner(f)
	for s.Scan() {
		// proc(5): "36 35 98:0 / MOUNTPOINT opts... - FSTYPE source opts"
		if fields := strings.Fields(s.Text()); len(fields) > 2 && fields[2] == dev {
			return nil
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read %s: %w", mounts, err)
	}
	return &VolatileError{dir, "the bpf filesystem there is mounted only in egressd's own mount namespace (a container's, or a unit's with PrivateMounts= or the like)"}
}
