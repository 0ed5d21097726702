// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/internal/world"
)

// With the .deb, on a machine whose files are all its own.

// newer is the version that the machine is upgraded to.
const newer = "0.1.1"

// deb builds a package of a version, and is its path.
func (m *Machine) deb(t *testing.T, version string) string {
	t.Helper()
	build := func(dir string, args ...string) {
		cmd := exec.Command("go", append([]string{"build", "-C", filepath.Join(m.top, dir)}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	out := filepath.Join(m.Dir, version)
	must(t, os.MkdirAll(out, 0o755))
	build("", "-ldflags", "-s -w -X main.version="+version, "-o", out+"/egressd", "./cmd/egressd")
	build("hack/packages", "-o", out+"/packages", ".")
	cmd := exec.Command(out+"/packages", "-top", m.top, "-version", version, "-o", out, runtime.GOARCH+"="+out+"/egressd")
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return filepath.Join(out, "egressd_"+version+"_"+runtime.GOARCH+".deb")
}

// run runs a command of the machine, which must succeed.
func (m *Machine) run(t *testing.T, command ...string) string {
	t.Helper()
	out, err := m.Run(command...)
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, out, m.Log())
	}
	return out
}

// curl is nil if curl gets an answer.
func (m *Machine) curl(args ...string) error {
	_, err := m.Run(append([]string{"curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "20", "--output", "/dev/null"}, args...)...)
	return err
}

// locked fails the test unless what the policy names is reached, in both families, and
// nothing else.
func (m *Machine) locked(t *testing.T) {
	t.Helper()
	must(t, m.curl("-4", allowed), m.curl("-6", allowed))
	for _, door := range append([]string{world.Stranger}, doors...) {
		if m.curl("http://"+door+"/") == nil {
			t.Errorf("%s is reached", door)
		}
	}
}

// open fails the test unless everything is reached.
func (m *Machine) open(t *testing.T) {
	t.Helper()
	must(t, m.curl("-4", allowed), m.curl("-6", allowed))
	for _, door := range append([]string{world.Stranger}, doors...) {
		must(t, m.curl("http://"+door+"/"))
	}
}

// attached are the programs at the machine's cgroup.
func (m *Machine) attached(t *testing.T) (n int) {
	t.Helper()
	cgroup, err := os.Open(m.cg.Path())
	must(t, err)
	defer cgroup.Close()
	for _, hook := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupInetEgress} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: hook})
		must(t, err)
		n += len(found.Programs)
	}
	return n
}

// left are those paths that the machine has.
func (m *Machine) left(paths ...string) (found []string) {
	for _, path := range paths {
		if _, err := m.Run("test", "-e", path); err == nil {
			found = append(found, path)
		}
	}
	return found
}

// packageMachine has nothing of egressd yet but two packages.
func packageMachine(t *testing.T) (m *Machine, first, second string) {
	t.Helper()
	m = machine(t)
	must(t, os.Remove(filepath.Join(m.Dir, "bin/egressd")), os.WriteFile(filepath.Join(m.Dir, "whole"), nil, 0o644))
	first, second = m.deb(t, "0.1.0"), m.deb(t, newer)
	must(t, m.Boot())
	out := "append:" + filepath.Join(m.Dir, unit+".log")
	must(t, m.Write("systemd/system/"+unit+".d/test.conf", fmt.Sprintf("[Service]\nStandardOutput=%s\nStandardError=%[1]s\n", out)))
	return m, first, second
}

// TestPackage: what somebody does with the package, from the first day to the last.
func TestPackage(t *testing.T) {
	m, first, second := packageMachine(t)
	m.open(t)

	// Installed, it does nothing, and it does nothing when it is started without a policy.
	m.run(t, "dpkg", "--no-triggers", "-i", first)
	if out, err := m.Systemctl("is-enabled", unit); err == nil || strings.TrimSpace(out) != "disabled" {
		t.Errorf("it is %q: %v", out, err)
	}
	must(t, m.Is(soon, unit, "ActiveState", "inactive"))
	m.open(t)
	m.systemctl(t, "enable", "--now", unit)
	must(t, m.Is(soon, unit, "ActiveState", "inactive"))
	m.open(t)

	// With a policy it is at work.
	m.allow(t, "googleapis", world.GoogleAPIs)
	m.run(t, "egressd", "check", "/etc/egressd")
	m.systemctl(t, "enable", "--now", unit)
	must(t, m.Is(soon, unit, "ActiveState", "active"))
	m.locked(t)
	if m.attached(t) == 0 {
		t.Error("nothing is attached")
	}

	m.upgrade(t, second)

	// A policy that was changed, and one with a mistake.
	m.nothingEscapes(t, func() {
		m.allow(t, "api2", world.API2)
		m.systemctl(t, "reload", unit)
		must(t, m.await(soon, func() error { return m.curl(later) }))
		m.run(t, "sh", "-c", "echo 'kind: [' >/etc/egressd/api2.yaml")
		if _, err := m.Systemctl("reload", unit); err == nil {
			t.Error("a policy with a mistake is reloaded")
		}
		must(t, m.curl(later))
	})

	// Removed, it lets go; what somebody wrote stays.
	m.run(t, "dpkg", "--no-triggers", "-r", "egressd")
	m.open(t)
	if n := m.attached(t); n != 0 {
		t.Errorf("%d programs are still attached", n)
	}
	stays := []string{"/etc/egressd/policy.yaml", "/etc/egressd/googleapis.yaml", "/etc/default/egressd", "/var/lib/egressd/last-good.json"}
	if found := m.left(stays...); len(found) != len(stays) {
		t.Errorf("only %q stay", found)
	}
	if found := m.left("/usr/bin/egressd", "/sys/fs/bpf/egressd", "/usr/lib/systemd/system/"+unit); len(found) != 0 {
		t.Errorf("%q are left", found)
	}

	// Purged, there was never anything.
	m.run(t, "dpkg", "--no-triggers", "-P", "egressd")
	if found := m.left("/etc/egressd", "/etc/default/egressd", "/etc/logrotate.d/egressd", "/var/lib/egressd", "/var/log/egressd", "/run/egressd",
		"/sys/fs/bpf/egressd", "/usr/share/doc/egressd", "/etc/systemd/system/multi-user.target.wants/"+unit); len(found) != 0 {
		t.Errorf("%q are left", found)
	}
	// The kernel's own end in .debug.
	if out := m.run(t, "find", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug"); out != "" {
		t.Errorf("pins are left: %s", out)
	}
	m.open(t)
}

// upgrade installs a newer package while there is load: no request fails, nothing escapes.
func (m *Machine) upgrade(t *testing.T, deb string) {
	t.Helper()
	m.nothingEscapes(t, func() {
		load := m.start(t, "user.slice/load", "load", allowed)
		m.grows(t, m.World.GoogleAPIs.Hits)
		before, err := m.Main(unit)
		must(t, err)
		m.run(t, "dpkg", "--no-triggers", "-i", deb)
		must(t, m.Is(soon, unit, "ActiveState", "active"))
		if after, err := m.Main(unit); err != nil || after == before || after == 0 {
			t.Errorf("its process was %d, and is %d: %v", before, after, err)
		}
		if out := m.run(t, "egressd", "version"); !strings.Contains(out, newer) {
			t.Errorf("the version is %s", out)
		}
		m.grows(t, m.World.GoogleAPIs.Hits)
		if out := load.end(t); !strings.Contains(out, ", failed 0") || strings.Contains(out, "requests 0,") {
			t.Errorf("the load ends with %s", out[max(0, len(out)-1500):])
		}
	})
	m.locked(t)
}

// TestPackageGoes is removed while it is at work, and is purged at once.
func TestPackageGoes(t *testing.T) {
	m, first, _ := packageMachine(t)
	m.run(t, "dpkg", "--no-triggers", "-i", first)
	m.allow(t, "googleapis", world.GoogleAPIs)
	m.systemctl(t, "enable", "--now", unit)
	must(t, m.Is(soon, unit, "ActiveState", "active"))
	m.locked(t)
	// Stopped by hand, it still denies, and then goes as a whole.
	m.systemctl(t, "stop", unit)
	if m.curl("http://"+doors[0]+"/") == nil {
		t.Error("stopped, it is open")
	}
	m.run(t, "dpkg", "--no-triggers", "-P", "egressd")
	m.open(t)
	if n := m.attached(t); n != 0 {
		t.Errorf("%d programs are still attached", n)
	}
}
