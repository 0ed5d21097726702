// SPDX-License-Identifier: Apache-2.0

// Package flock takes a lock (flock(2)), and tells who holds one.
package flock

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// takeWait is how long Take waits for who has the lock.
	takeWait = time.Second
	takeTick = 5 * time.Millisecond
)

// Take locks f for its holder alone, until it is closed. It waits for a second where
// somebody has the lock, because that of a process that was killed may outlive it for
// a moment: a child that it had just forked has all of its descriptors until it calls
// execve(2). EWOULDBLOCK says that somebody has it still.
func Take(f *os.File) error {
	deadline := time.Now().Add(takeWait)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(takeTick) // flock(2) has no deadline of its own
	}
}

// Holder says whether somebody holds an exclusive lock on the file or directory at path,
// and the pid of who does; 0: it cannot be known, as of a process in another pid
// namespace.
func Holder(path string) (pid int, held bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	return HolderOf(f)
}

// HolderOf is Holder of an open file, which may have been removed since.
func HolderOf(f *os.File) (pid int, held bool, err error) {
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case err == nil:
		return 0, false, unix.Flock(int(f.Fd()), unix.LOCK_UN)
	case !errors.Is(err, unix.EWOULDBLOCK):
		return 0, false, fmt.Errorf("look at the lock on %s: %w", f.Name(), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, true, err
	}
	return pidOf(fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)), true, nil
}

// pidOf finds who locks a file in /proc/locks (proc(5)):
// "1: FLOCK ADVISORY WRITE 1234 00:2f:5678 0 EOF".
func pidOf(file string) int {
	f, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) >= 6 && fields[1] == "FLOCK" && fields[3] == "WRITE" && fields[5] == file {
			pid, _ := strconv.Atoi(fields[4]) // 0 if it is no number
			return max(pid, 0)
		}
	}
	return 0
}
