// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// rpm calls rpm with a database of the machine's own, in which no package provides /bin/sh;
// that is all that the package requires.
func (m *Machine) rpm(t *testing.T, args ...string) string {
	t.Helper()
	return m.run(t, rpmCommand(args...)...)
}

func rpmCommand(args ...string) []string {
	return append([]string{"sh", "-c", `exec rpm --dbpath /var/lib/rpm-of-test --nosignature --force-debian "$@" 2>&1`, "sh"}, args...)
}

// TestPackageRPM: what somebody does with the .rpm, from the first day to the last.
func TestPackageRPM(t *testing.T) {
	m, first, second := packageMachine(t)
	for line := range strings.Lines(m.rpm(t, "-qp", "--requires", first.rpm)) {
		if !strings.HasPrefix(line, "/bin/sh") && !strings.HasPrefix(line, "rpmlib(") {
			t.Errorf("it requires %s", line)
		}
	}
	if said := m.rpm(t, "-i", "--nodeps", first.rpm); said != "" {
		t.Errorf("the installation says %s", said)
	}
	if out, err := m.Systemctl("is-enabled", unit); err == nil || strings.TrimSpace(out) != "disabled" {
		t.Errorf("it is %q: %v", out, err)
	}
	m.systemctl(t, "enable", "--now", unit)
	must(t, m.Is(soon, unit, "ActiveState", "inactive"))
	m.open(t)
	if changed := m.rpm(t, "-V", "--nodeps", "egressd"); changed != "" {
		t.Errorf("other files than the package's: %s", changed)
	}

	m.run(t, "sh", "-c", "echo '# mine' >>/etc/egressd/policy.yaml")
	if out, err := m.Run(rpmCommand("-V", "--nodeps", "egressd")...); err == nil || !strings.Contains(out, "c /etc/egressd/policy.yaml") || strings.Count(out, "\n") > 1 {
		t.Errorf("of what was changed rpm says %s, %v", out, err)
	}
	m.allow(t, "googleapis", world.GoogleAPIs)
	m.systemctl(t, "enable", "--now", unit)
	must(t, m.Is(soon, unit, "ActiveState", "active"))
	m.locked(t)

	m.replace(t, newer, rpmCommand("-U", "--nodeps", second.rpm)...)
	if out, err := m.Run(rpmCommand("-U", "--nodeps", first.rpm)...); err == nil || !strings.Contains(out, "is already installed") {
		t.Errorf("an older one in its place, and nobody asked for that: %s, %v", out, err)
	}
	m.replace(t, older, rpmCommand("-U", "--nodeps", "--oldpackage", first.rpm)...)
	if out := m.run(t, "tail", "-n", "1", "/etc/egressd/policy.yaml"); out != "# mine" {
		t.Errorf("an upgrade took what somebody wrote: %s", out)
	}
	if got := m.run(t, "sh", "-c", "systemctl is-enabled "+unit); got != "enabled" {
		t.Errorf("after upgrades it is %s", got)
	}

	// Erased while it is at work.
	said := m.rpm(t, "-e", "egressd")
	m.open(t)
	if n := m.attached(t); n != 0 {
		t.Errorf("%d programs are still attached", n)
	}
	m.stays(t, "/etc/egressd/googleapis.yaml", "/etc/egressd/policy.yaml.rpmsave")
	for _, want := range []string{"files that are not the package's stay", "  /etc/egressd/googleapis.yaml\n", "policy.yaml saved as /etc/egressd/policy.yaml.rpmsave"} {
		if !strings.Contains(said+"\n", want) {
			t.Errorf("rpm does not say %q: %s", want, said)
		}
	}
	if out := m.run(t, "find", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug"); out != "" {
		t.Errorf("pins are left: %s", out)
	}
}
