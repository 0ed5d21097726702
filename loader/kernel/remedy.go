// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/memcg"
	"github.com/egressd/egressd/internal/privilege"
)

// Explain says what can be done about an error of loading maps and programs.
func Explain(err error) error {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		if release := unix.ByteSliceToString(u.Release[:]); tooOld(release) {
			return fmt.Errorf("%w; this kernel is %s, and egressd needs Linux 6.1 or newer", err, release)
		}
	}
	switch {
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w; the kernel refused memory for egressd's tables: %s", err, memoryLimit())
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		if missing := privilege.Check(privilege.Needed(false)); missing != nil {
			return fmt.Errorf("%w; %w", err, missing)
		}
		return fmt.Errorf("%w; the kernel does not let egressd use bpf(2) although it has the capabilities: look for a seccomp filter of the container, a security module, or kernel lockdown", err)
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w; the kernel is built without bpf(2) (CONFIG_BPF_SYSCALL)", err)
	}
	return err
}

// tooOld says whether a kernel's release, as in 5.15.0-91-generic, is before 6.1.
func tooOld(release string) bool {
	major, rest, _ := strings.Cut(release, ".")
	minor := strings.FieldsFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	x, err := strconv.Atoi(major)
	if err != nil || len(minor) == 0 {
		return false
	}
	y, err := strconv.Atoi(minor[0])
	return err == nil && (x < 6 || x == 6 && y < 1)
}

// memoryLimit says which limit the memory cgroups around this process have.
func memoryLimit() string {
	all, err := memcg.Limits()
	l, ok := memcg.Least(all)
	switch {
	case err != nil:
		return "see the memory limit of egressd's cgroup"
	case !ok:
		return "no cgroup around egressd limits it, so the node itself has none left"
	}
	return fmt.Sprintf("the memory limit of the cgroup %s is %s (MemoryMax= of a unit, limits.memory of a container); raise it", l.Dir, memcg.MiB(l.Max))
}
