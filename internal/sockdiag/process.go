// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OfProcess calls f with a descriptor of each socket of a process, and with the
// number that it has there. What goes away meanwhile is left out. Process 0 is
// ErrHidden.
func OfProcess(pid int, f func(fd, n int) error) error {
	if pid == 0 {
		return ErrHidden
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(process)
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || !strings.HasPrefix(link, "socket:") {
			continue
		}
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fd, err := unix.PidfdGetfd(process, n, 0)
		if err == nil {
			err = errors.Join(f(fd, n), unix.Close(fd))
		}
		if err != nil && !Gone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ErrHidden says that a process is in a PID namespace that does not show here, in
// which case cgroup.procs has 0 for it (cgroups(7)).
var ErrHidden = errors.New("the process is in another PID namespace, where its sockets cannot be looked into; give egressd the node's (hostPID: true, --pid=host)")

// Gone says whether an error means that a process or a descriptor went away.
func Gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF)
}
