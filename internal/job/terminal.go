// SPDX-License-Identifier: Apache-2.0

package job

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// terminal is the controlling terminal of this process. Its methods do nothing
// when there is none (nil).
type terminal struct {
	file *os.File
	// group is the process group of this process, shared says that others are
	// in it.
	group  int
	shared bool
}

// openTerminal returns nil when there is no controlling terminal.
func openTerminal() *terminal {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	group := unix.Getpgrp()
	return &terminal{file: f, group: group, shared: group != os.Getpid() || !alone(group)}
}

func (t *terminal) close() {
	if t != nil {
		t.file.Close()
	}
}

func (t *terminal) ownGroup() int {
	if t == nil {
		return 0
	}
	return t.group
}

// foreground is the process group that has the terminal; 0: nobody's.
func (t *terminal) foreground() int {
	group, err := unix.IoctlGetInt(int(t.file.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return 0 // the terminal is gone
	}
	return group
}

// hand gives the terminal to a group if another one has it.
func (t *terminal) hand(from, to int) {
	if t == nil || t.foreground() != from {
		return
	}
	// Who is in the background may do so with SIGTTOU blocked (tcsetpgrp(3)).
	withBlocked(unix.SIGTTOU, func() {
		_ = unix.IoctlSetPointerInt(int(t.file.Fd()), unix.TIOCSPGRP, to) // the group is gone
	})
}

// alone says whether no other process is in a process group.
func alone(group int) bool {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	own := strconv.Itoa(os.Getpid())
	for _, path := range stats {
		if filepath.Base(filepath.Dir(path)) == own {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// proc_pid_stat(5): "PID (COMM) STATE PPID PGRP ..."; COMM may have
		// parentheses.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(fields) > 2 && string(fields[2]) == strconv.Itoa(group) && string(fields[0]) != "Z" {
			return false
		}
	}
	return true
}
