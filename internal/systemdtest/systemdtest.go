// SPDX-License-Identifier: Apache-2.0

// Package systemdtest boots machines for tests: systemd is process 1 of namespaces and of
// a cgroup of its own, and starts the units of deploy/systemd as an operator installs them.
// A machine's way out leads to the little internet of internal/world.
//
// The tests have the build tag "node": make test-node.
package systemdtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

const (
	// bootWait bounds the start of systemd; a second on a quiet machine.
	bootWait = 2 * time.Minute
	// commandWait bounds a command on a machine.
	commandWait = 2 * time.Minute
	// every is how often a state is asked for.
	every = 50 * time.Millisecond
)

// Machine is a machine with systemd.
type Machine struct {
	// World is what is beyond the machine's uplink.
	World *world.World
	// Dir is a directory that the machine has by the same path.
	Dir string

	top   string // the repository
	cg    *world.Cgroup
	first *world.Cmd // what started process 1
	pid   string     // of process 1
}

// New prepares a machine, with egressd and hack/kube/tool in its /usr/local/bin. Close
// ends it.
func New() (m *Machine, err error) {
	top, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	m = &Machine{top: top}
	if m.World, err = world.New(world.Options{}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	m.Dir = filepath.Join(m.World.Dir(), "machine")
	if err := os.MkdirAll(filepath.Join(m.Dir, "bin"), 0o755); err != nil {
		return m, err
	}
	for name, path := range map[string]string{"egressd": "cmd/egressd", "tool": "hack/kube/tool"} {
		if _, err := testenv.Build(filepath.Join(m.Dir, "bin"), name, "github.com/egressd/egressd/"+path); err != nil {
			return m, err
		}
	}
	for name, text := range map[string]string{
		"resolv.conf":            "nameserver " + world.ResolverV4 + "\n",
		"hosts":                  "127.0.0.1 localhost\n::1 localhost\n",
		"nsswitch.conf":          "passwd: files\ngroup: files\nhosts: files dns\n",
		"machine-id":             "0123456789abcdef0123456789abcdef\n",
		"systemd/system.conf":    "[Manager]\nDefaultTimeoutStartSec=90s\n",
		"systemd/system/x.mount": "", // a directory for units
	} {
		if err := m.Write(name, text); err != nil {
			return m, err
		}
	}
	return m, os.Remove(m.etc("systemd/system/x.mount"))
}

// etc is a file of /etc: before the machine boots that of its image, afterwards its own.
func (m *Machine) etc(name string) string {
	dir := "etc"
	if m.pid != "" {
		dir = "root-etc"
	}
	return filepath.Join(m.Dir, dir, name)
}

// Write writes a file of the machine's /etc.
func (m *Machine) Write(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(m.etc(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(m.etc(name), []byte(text), 0o644)
}

// Unit installs a unit of the test.
func (m *Machine) Unit(name, text string) error {
	return m.Write("systemd/system/"+name, text)
}

// Install installs a unit of deploy/systemd, as it is. What its processes print goes to
// a file, since the machine has no journal; more are lines for its drop-in file.
func (m *Machine) Install(name string, more ...string) error {
	unit, err := os.ReadFile(filepath.Join(m.top, "deploy/systemd", name))
	if err != nil {
		return err
	}
	out := "append:" + filepath.Join(m.Dir, name+".log")
	lines := append([]string{"[Service]", "StandardOutput=" + out, "StandardError=" + out}, more...)
	return errors.Join(
		m.Unit(name, string(unit)),
		m.Write("systemd/system/"+name+".d/test.conf", strings.Join(lines, "\n")+"\n"))
}

// Boot starts the machine with these units, and waits until nothing is left to start.
func (m *Machine) Boot(units ...string) error {
	if err := os.WriteFile(filepath.Join(m.Dir, "units"), []byte(strings.Join(append(units, ""), "\n")), 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(m.Dir, "run"), 0o755); err != nil {
		return err
	}
	cg, err := world.NewCgroup("systemd")
	if err != nil {
		return err
	}
	m.cg = cg
	m.first = m.World.Node.Command(context.Background(), cg, "unshare",
		"--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child", "--propagation", "private",
		filepath.Join(m.top, "hack/systemd/boot"), m.Dir)
	said, err := os.Create(filepath.Join(m.Dir, "boot.log"))
	if err != nil {
		return err
	}
	defer said.Close()
	m.first.Stdout, m.first.Stderr = said, said
	if err := m.first.Start(); err != nil {
		return err
	}
	return m.await(bootWait, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.first.Process.Pid))
		if err != nil {
			return err
		}
		m.pid = strings.TrimSpace(string(children))
		comm, err := os.ReadFile(filepath.Join("/proc", m.pid, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != "systemd" {
			return fmt.Errorf("process 1 is %q: %w", comm, err)
		}
		jobs, err := m.Systemctl("list-jobs", "--no-legend")
		if err == nil && jobs != "" && !strings.Contains(jobs, "No jobs") {
			err = fmt.Errorf("jobs are left: %s", jobs)
		}
		return err
	})
}

// await asks until there is no error, for a time. The error has what the machine printed.
func (m *Machine) await(within time.Duration, f func() error) error {
	var err error
	for deadline := time.Now().Add(within); ; time.Sleep(every) {
		if err = f(); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s: %w\n%s", within, err, m.Log())
		}
	}
}

// Close ends the machine and removes all of it.
func (m *Machine) Close() error {
	var errs []error
	if m.cg != nil {
		errs = append(errs, m.cg.Close())
	}
	if m.first != nil && m.first.Process != nil {
		_ = m.first.Wait() // it was killed
	}
	return errors.Join(append(errs, m.World.Close())...)
}

// Log is what systemd and the units printed last.
func (m *Machine) Log() string {
	const most = 6 << 10
	var b strings.Builder
	logs, _ := filepath.Glob(filepath.Join(m.Dir, "*log")) // the pattern is right
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "== %s\n%s\n", filepath.Base(log), text[max(0, len(text)-most):])
	}
	return b.String()
}

// Run runs a command on the machine, in the cgroup that is its root.
func (m *Machine) Run(command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	c := m.World.Node.Command(ctx, m.cg, "nsenter", append([]string{"-t", m.pid, "-m", "-u", "-i", "-p", "-C", "--"}, command...)...)
	var out, problem bytes.Buffer
	c.Stdout, c.Stderr = &out, &problem
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(problem.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// Systemctl calls systemctl on the machine.
func (m *Machine) Systemctl(args ...string) (string, error) {
	return m.Run(append([]string{"systemctl"}, args...)...)
}

// Show is a property of a unit, as "systemctl show" has it.
func (m *Machine) Show(unit, property string) (string, error) {
	return m.Systemctl("show", unit, "--property", property, "--value")
}

// Is waits until a property of a unit has a value.
func (m *Machine) Is(within time.Duration, unit, property, want string) error {
	return m.await(within, func() error {
		got, err := m.Show(unit, property)
		if err == nil && got != want {
			err = fmt.Errorf("%s of %s is %q, want %q", property, unit, got, want)
		}
		return err
	})
}

// Cgroup is where a cgroup of the machine is.
func (m *Machine) Cgroup(path string) string { return filepath.Join(m.cg.Path(), path) }

// tool prepares hack/kube/tool in a cgroup of the machine, which is there.
func (m *Machine) tool(ctx context.Context, path string, args ...string) *world.Cmd {
	return m.program(ctx, path, append([]string{filepath.Join(m.Dir, "bin/tool")}, args...)...)
}

// program prepares a command in a cgroup of the machine, which is there.
func (m *Machine) program(ctx context.Context, path string, command ...string) *world.Cmd {
	// A shell joins the cgroup first: whatever the program does, it does there.
	const script = `echo $$ >"$0" && exec "$@"`
	return m.World.Client(ctx, m.cg, "sh", append([]string{"-c", script, filepath.Join(m.Cgroup(path), "cgroup.procs")}, command...)...)
}

// Signal sends a signal to the main process of a unit.
func (m *Machine) Signal(unit, signal string) error {
	_, err := m.Systemctl("kill", "--kill-whom=main", "--signal="+signal, unit)
	return err
}

// Main is the main process of a unit, by its number on the machine.
func (m *Machine) Main(unit string) (int, error) {
	text, err := m.Show(unit, "MainPID")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}
