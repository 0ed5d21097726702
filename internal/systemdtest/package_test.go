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
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/internal/world"
)

// With the packages, on a machine whose files are all its own.

// older and newer are the versions that the machine is installed with and upgraded to.
const older, newer = "0.1.0", "0.1.1"

// otherTables makes a program that cannot go on with the tables of the one before, as a
// newer version may.
const otherTables = " -X github.com/egressd/egressd/loader/layout.meaning=other"

// pair are the packages of a version.
type pair struct{ deb, rpm string }

// built are the packages of both versions, which the first test that needs them makes, and
// where they are.
var built struct {
	once          sync.Once
	dir           string
	first, second pair
	err           error
}

// source is where a version is built from: EGRESSD_FROM names a commit for the older one.
func source(version, dir string) (string, error) {
	top, err := filepath.Abs("../..")
	commit := os.Getenv("EGRESSD_FROM")
	if err != nil || commit == "" || version != older {
		return top, err
	}
	dir = filepath.Join(dir, "source")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if out, err := exec.Command("sh", "-c", `git -C "$0" archive "$1" | tar -x -C "$2"`, top, commit, dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
}

// packages builds the packages of a version.
func packages(version, flags, dir string) (pair, error) {
	top, err := source(version, dir)
	if err != nil {
		return pair{}, err
	}
	out := filepath.Join(dir, version)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return pair{}, err
	}
	for _, command := range [][]string{
		{"go", "build", "-C", top, "-buildvcs=false", "-ldflags", "-s -w -X main.version=" + version + flags, "-o", out + "/egressd", "./cmd/egressd"},
		{"go", "build", "-C", filepath.Join(top, "hack/packages"), "-buildvcs=false", "-o", out + "/packages", "."},
		{out + "/packages", "-top", top, "-version", version, "-o", out, runtime.GOARCH + "=" + out + "/egressd"},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "SOURCE_DATE_EPOCH=1700000000")
		if said, err := cmd.CombinedOutput(); err != nil {
			return pair{}, fmt.Errorf("%q: %w: %s", command, err, said)
		}
	}
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return pair{filepath.Join(out, "egressd_"+version+"_"+runtime.GOARCH+".deb"), filepath.Join(out, "egressd-"+version+"-1."+arch+".rpm")}, nil
}

// buildPackages fills built.
func buildPackages() {
	if built.dir, built.err = os.MkdirTemp("", "egressd-packages-"); built.err != nil {
		return
	}
	if built.first, built.err = packages(older, "", built.dir); built.err == nil {
		built.second, built.err = packages(newer, otherTables, built.dir)
	}
}

// bring copies a package to the machine.
func (m *Machine) bring(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	to := filepath.Join(m.Dir, filepath.Base(path))
	must(t, os.WriteFile(to, b, 0o644))
	return to
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

// packageMachine has nothing of egressd yet but packages of two versions.
func packageMachine(t *testing.T) (m *Machine, first, second pair) {
	t.Helper()
	m = machine(t)
	must(t, os.Remove(filepath.Join(m.Dir, "bin/egressd")), os.WriteFile(filepath.Join(m.Dir, "whole"), nil, 0o644))
	built.once.Do(buildPackages)
	must(t, built.err)
	first = pair{m.bring(t, built.first.deb), m.bring(t, built.first.rpm)}
	second = pair{m.bring(t, built.second.deb), m.bring(t, built.second.rpm)}
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
	m.run(t, "dpkg", "--no-triggers", "-i", first.deb)
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

	m.replace(t, newer, "dpkg", "--no-triggers", "-i", second.deb)
	m.replace(t, older, "dpkg", "--no-triggers", "-i", first.deb) // a way back

	// A policy that was changed, and one with a mistake.
	m.nothingEscapes(t, func() {
		m.allow(t, "api2", world.API2)
		m.systemctl(t, "reload", unit)
		must(t, m.curl(later))
		m.run(t, "sh", "-c", "echo 'kind: [' >/etc/egressd/api2.yaml")
		if _, err := m.Systemctl("reload", unit); err == nil {
			t.Error("a policy with a mistake is reloaded")
		}
		must(t, m.curl(later))
	})

	// Removed, it lets go; what somebody wrote stays.
	m.run(t, "sh", "-c", "echo x >/var/log/egressd/access.log-20260101.gz; echo x >/etc/egressd/credentials/own.key")
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

	// Purged, nothing of the package's is left, and what somebody wrote still stays: it is
	// named.
	said := m.run(t, "sh", "-c", "dpkg --no-triggers -P egressd 2>&1")
	m.stays(t, "/etc/egressd/api2.yaml", "/etc/egressd/credentials/own.key", "/etc/egressd/googleapis.yaml")
	for _, want := range []string{"files that are not the package's stay", "  /etc/egressd/api2.yaml\n", "  /etc/egressd/googleapis.yaml\n"} {
		if !strings.Contains(said+"\n", want) {
			t.Errorf("dpkg does not say %q: %s", want, said)
		}
	}
	// The kernel's own end in .debug.
	if out := m.run(t, "find", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug"); out != "" {
		t.Errorf("pins are left: %s", out)
	}
	m.open(t)
}

// stays fails the test unless these files, and nothing else, are left of egressd.
func (m *Machine) stays(t *testing.T, files ...string) {
	t.Helper()
	found := m.run(t, "sh", "-c", "find /etc /var /run/egressd /usr/bin /usr/lib/systemd /usr/share /sys/fs/bpf -path '*egressd*' ! -type d ! -name test.conf 2>/dev/null | sort")
	if want := strings.Join(files, "\n"); found != want {
		t.Errorf("these are left:\n%s\nwant\n%s", found, want)
	}
}

// replace installs another version while there is load: no request fails, nothing escapes.
func (m *Machine) replace(t *testing.T, version string, install ...string) {
	t.Helper()
	m.nothingEscapes(t, func() {
		load := m.start(t, "user.slice/load", "load", allowed)
		m.grows(t, m.World.GoogleAPIs.Hits)
		before, err := m.Main(unit)
		must(t, err)
		m.run(t, install...)
		must(t, m.Is(soon, unit, "ActiveState", "active"))
		if after, err := m.Main(unit); err != nil || after == before || after == 0 {
			t.Errorf("its process was %d, and is %d: %v", before, after, err)
		}
		if out := m.run(t, "egressd", "status", "-o", "json"); !strings.Contains(out, `"version": "`+version+`"`) {
			t.Errorf("another version than %s runs: %s", version, out[:min(len(out), 200)])
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
	m.run(t, "dpkg", "--no-triggers", "-i", first.deb)
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
