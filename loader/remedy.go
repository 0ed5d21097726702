// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/cgroup"
)

// explainLoad says what can be done about an error of loading maps and programs.
func explainLoad(err error) error {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		if release := unix.ByteSliceToString(u.Release[:]); tooOld(release) {
			return fmt.Errorf("%w; this kernel is %s, and egressd needs Linux 6.1 or newer", err, release)
		}
	}
	switch {
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w; the kernel refused memory for egressd's tables (about 62 MB, and as much again while an earlier run's are replaced): %s", err, memoryLimit())
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		if missing := missingCapabilities(); len(missing) > 0 {
			return fmt.Errorf("%w; egressd has not the capabilities %s: run it as root of the node, in a container with securityContext.privileged or with these capabilities added",
				err, strings.Join(missing, ", "))
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

// memoryLimit says which limit this process's cgroup has.
func memoryLimit() string {
	dir, err := cgroup.Own()
	if err != nil {
		return "see the memory limit of egressd's cgroup"
	}
	least, at := uint64(0), ""
	dirs, _ := cgroup.Upwards(dir) // as far as they can be listed
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "memory.max"))
		if n, perr := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err == nil && perr == nil && (at == "" || n < least) {
			least, at = n, dir
		}
	}
	if at == "" {
		return "no cgroup around egressd limits it (memory.max), so the node itself has none left, or a limit of cgroup v1 holds"
	}
	return fmt.Sprintf("the memory limit of the cgroup %s is %d MB (memory.max; MemoryMax= of a unit, limits.memory of a container); raise it", at, least>>20)
}

// needed are the capabilities that loading and attaching take (capabilities(7)).
var needed = map[string]int{
	"CAP_BPF": unix.CAP_BPF, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
	"CAP_PERFMON": unix.CAP_PERFMON, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN,
}

func missingCapabilities() []string {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return nil
	}
	var out []string
	for name, c := range needed {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// explainAttach says what can be done about an error of attaching to a cgroup.
func explainAttach(err error, path string, h hook) error {
	if !errors.Is(err, unix.EPERM) {
		return explainLoad(err)
	}
	dirs, derr := cgroup.Upwards(path)
	if derr != nil {
		dirs = []string{path}
	}
	for _, dir := range dirs { // one further up may forbid those below it
		if other := otherProgram(dir, h.attach); other != "" {
			return fmt.Errorf("%w; %s is attached to %s for this hook (%v) and lets no other program be there: detach it (bpftool cgroup detach), or have it attached with the multi flag",
				err, other, dir, h.attach)
		}
	}
	return explainLoad(err)
}

// otherProgram names a program that is attached to a cgroup; "" when there is none.
func otherProgram(dir string, attach ebpf.AttachType) string {
	f, err := os.Open(dir)
	if err != nil {
		return ""
	}
	defer f.Close()
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: attach})
	if err != nil {
		return ""
	}
	for _, one := range found.Programs {
		// Those of egressd, of whatever instance, let others be there.
		if name := programName(one.ID); !strings.HasPrefix(name, "egd_") {
			return fmt.Sprintf("another program (%q, id %d)", name, one.ID)
		}
	}
	return ""
}

func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}
