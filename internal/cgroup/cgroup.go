// SPDX-License-Identifier: Apache-2.0

// Package cgroup makes, finds and removes cgroup v2 directories, and tells
// which one a process is in.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killWait bounds how long Cgroup.Close waits for killed processes to go.
const killWait = 10 * time.Second

// makeTries bounds how often NewIn makes a cgroup that others sweep.
const makeTries = 5

// Prefix starts the name of everything that egressd makes for a while in a
// place that others share; the pid of the maker follows.
const Prefix = "egd-"

// Cgroup is a cgroup v2 directory that this process made.
type Cgroup struct {
	path string
	dir  *os.File
}

// New makes a cgroup directly under the cgroup2 mount, named
// egd-<pid>-<name>-<random>. The open directory carries a lock for as long as
// the process lives; Sweep removes cgroups whose lock is free.
func New(name string) (*Cgroup, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	return NewIn(root, name)
}

// NewIn is New below another cgroup.
func NewIn(parent, name string) (*Cgroup, error) {
	for try := 1; ; try++ {
		c, err := makeIn(parent, name)
		// A sweep may come between the cgroup and its lock.
		if err == nil || try == makeTries || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			return c, err
		}
	}
}

func makeIn(parent, name string) (*Cgroup, error) {
	path, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-%s-*", Prefix, os.Getpid(), name))
	if err != nil {
		return nil, fmt.Errorf("making a cgroup: %w", err)
	}
	// MkdirTemp makes mode 0700; the usual mode of cgroups lets others look.
	if err := os.Chmod(path, 0o755); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return open(path)
}

// Make makes the cgroup at path, which must not exist.
func Make(path string) (*Cgroup, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	return open(path)
}

func open(path string) (*Cgroup, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), dir.Close(), os.Remove(path))
	}
	return &Cgroup{path: path, dir: dir}, nil
}

// SweepIn removes the cgroups that NewIn made below parent for processes that
// are dead, unless there are processes in them.
func SweepIn(parent, name string) {
	found, _ := filepath.Glob(filepath.Join(parent, Prefix+"*-"+name+"-*")) // the pattern is good
	for _, path := range found {
		dir, err := os.Open(path)
		if err != nil {
			continue // gone meanwhile
		}
		if unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(path) // rmdir(2) refuses a populated one
		}
		dir.Close()
	}
}

// SweepBelow is SweepIn for parent and every cgroup below it.
func SweepBelow(parent, name string) {
	SweepIn(parent, name)
	entries, _ := os.ReadDir(parent) // one that is gone has none
	for _, e := range entries {
		if e.IsDir() {
			SweepBelow(filepath.Join(parent, e.Name()), name)
		}
	}
}

// Path is the cgroup's directory.
func (c *Cgroup) Path() string { return c.path }

// FD is a descriptor of the directory, for SysProcAttr.CgroupFD and BPF links.
// It is valid until Close.
func (c *Cgroup) FD() int { return int(c.dir.Fd()) }

// ID is the cgroup's id as bpf_get_current_cgroup_id reports it.
func (c *Cgroup) ID() (uint64, error) { return ID(c.path) }

// Child makes a cgroup inside this one. Closing the parent closes it too.
func (c *Cgroup) Child(name string) (*Cgroup, error) {
	return Make(filepath.Join(c.path, name))
}

// Add moves a running process into the cgroup.
func (c *Cgroup) Add(pid int) error {
	return os.WriteFile(filepath.Join(c.path, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// CPU is the processor time that the cgroup's processes, past and present,
// have used.
func (c *Cgroup) CPU() (time.Duration, error) {
	b, err := os.ReadFile(filepath.Join(c.path, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s/cpu.stat has no usage_usec", c.path)
}

// Kill ends every process in the cgroup and below, and waits until they are gone.
func (c *Cgroup) Kill() error { return kill(c.path, killWait) }

// Close kills what is inside, waits until it is gone, and removes the cgroup
// and those below. Closing twice is fine.
func (c *Cgroup) Close() error {
	err := Remove(c.path)
	if cerr := c.dir.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}

// Remove kills what is in, and removes, the cgroup tree at path; absent is fine.
func Remove(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := kill(path, killWait); err != nil {
		return err
	}
	var dirs []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return err
	})
	for i := len(dirs) - 1; i >= 0; i-- { // children first
		if rmErr := os.Remove(dirs[i]); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}

// kill writes cgroup.kill (Linux 5.14) and waits on cgroup.events, which
// the kernel makes readable as priority data whenever it changes.
func kill(path string, wait time.Duration) error {
	if err := os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("killing %s: %w", path, err)
	}
	events, err := os.Open(filepath.Join(path, "cgroup.events"))
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }() // only read from
	buf := make([]byte, 256)
	for deadline := time.Now().Add(wait); ; {
		n, err := events.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return fmt.Errorf("reading %s: %w", events.Name(), err)
		}
		if strings.Contains(string(buf[:n]), "populated 0") {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("processes in %s did not end within %s", path, wait)
		}
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
