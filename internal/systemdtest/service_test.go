// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// With egressd.service, whose policy is for every process of the machine.

const unit = "egressd.service"

const entry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME}
spec: {hosts: [HOST], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
`

// allow is a file of the policy.
func (m *Machine) allow(t *testing.T, name, host string) {
	t.Helper()
	must(t, m.Write("egressd/"+name+".yaml", strings.NewReplacer("NAME", name, "HOST", host).Replace(entry)))
}

const (
	allowed = "http://" + world.GoogleAPIs + "/"
	later   = "http://" + world.API2 + "/"
)

// serviceMachine is one that has started with egressd. Before, everything is allowed.
func serviceMachine(t *testing.T, more ...string) *Machine {
	t.Helper()
	m := machine(t)
	m.allow(t, "googleapis", world.GoogleAPIs)
	must(t, m.Install(unit, more...), m.Boot())
	if kind, err := m.Show(unit, "Type"); err != nil || !strings.HasPrefix(kind, "notify") {
		t.Fatalf("systemd takes it for one of type %s, and would not wait until it is ready: %v", kind, err)
	}
	must(t, m.get(t, allowed), m.get(t, "http://"+world.Stranger+"/"))
	m.systemctl(t, "start", unit)
	must(t, m.Is(soon, unit, "ActiveState", "active"))
	must(t, m.get(t, allowed)) // ready means that it serves
	return m
}

// nothingEscapes fails the test if a packet to the stranger leaves while f runs, though a
// process knocks there all the time.
func (m *Machine) nothingEscapes(t *testing.T, f func()) {
	t.Helper()
	before := m.escaped()
	knock := m.start(t, "user.slice/knock", append([]string{"knock"}, doors...)...)
	f()
	if out := knock.end(t); !strings.Contains(out, ", connected 0\n") || strings.HasPrefix(out, "tried 0,") {
		t.Errorf("who knocks says %s", out)
	}
	if got := m.escaped() - before; got != 0 {
		t.Errorf("%d packets to the stranger left the machine", got)
	}
}

// TestReload: the policy is read again when systemctl is done, by the same process.
func TestReload(t *testing.T) {
	m := serviceMachine(t)
	m.nothingEscapes(t, func() {
		if m.get(t, later) == nil {
			t.Error("what the policy does not name is allowed")
		}
		before, err := m.Main(unit)
		must(t, err)
		m.allow(t, "api2", world.API2)
		m.systemctl(t, "reload", unit)
		must(t, m.get(t, later)) // in force, and not some time later
		if after, err := m.Main(unit); err != nil || after != before {
			t.Errorf("its process was %d, and is %d: %v", before, after, err)
		}
		// A policy that is wrong fails the reload, and leaves the one before.
		must(t, m.Write("egressd/api2.yaml", "kind: ["))
		if _, err := m.Systemctl("reload", unit); err == nil {
			t.Error("a policy with a mistake is reloaded")
		}
		must(t, m.inFile(unit+".log", "/etc/egressd/api2.yaml:2: error: "), m.inFile(unit+".log", "egressd: the policy was not reloaded: it has errors"),
			m.inFile(unit+".log", " stays in force, also for new connections"))
		must(t, m.get(t, later), m.Is(soon, unit, "ActiveState", "active"), m.Is(soon, unit, "Result", "success"))
		must(t, os.Remove(m.etc("egressd/api2.yaml")))
		m.systemctl(t, "reload", unit)
		if m.get(t, later) == nil {
			t.Error("what was taken out of the policy is allowed when the reload is done")
		}
	})
}

// TestRestart: what arrives while the service starts anew waits in the sockets that the
// manager keeps: no request fails. A service that is stopped leaves the policy in force.
func TestRestart(t *testing.T) {
	m := serviceMachine(t)
	m.nothingEscapes(t, func() {
		load := m.start(t, "user.slice/load", "load", allowed)
		m.grows(t, m.World.GoogleAPIs.Hits)
		before, err := m.Main(unit)
		must(t, err)
		m.systemctl(t, "restart", unit)
		if after, err := m.Main(unit); err != nil || after == before || after == 0 {
			t.Errorf("its process was %d, and is %d: %v", before, after, err)
		}
		m.grows(t, m.World.GoogleAPIs.Hits)
		if out := load.end(t); !strings.Contains(out, ", failed 0") || strings.Contains(out, "requests 0,") {
			t.Errorf("the load ends with %s", out[max(0, len(out)-1500):])
		}

		m.systemctl(t, "stop", unit)
		must(t, m.Is(soon, unit, "Result", "success"))
		if m.get(t, allowed) == nil {
			t.Error("what needs the proxy gets through without it")
		}
		m.systemctl(t, "start", unit)
		must(t, m.get(t, allowed))
	})
	m.systemctl(t, "stop", unit)
	if _, err := m.Run("egressd", "unload"); err != nil {
		t.Fatal(err)
	}
	must(t, m.get(t, "http://"+world.Stranger+"/"))
}

// TestRestartWithoutSockets is the twin: if the manager does not keep the sockets, requests
// fail while the service starts anew, and nothing escapes.
func TestRestartWithoutSockets(t *testing.T) {
	m := serviceMachine(t, "FileDescriptorStoreMax=0")
	m.nothingEscapes(t, func() {
		// A request that waits for a repeated question to DNS may outlast a restart.
		var out string
		for range 5 {
			load := m.start(t, "user.slice/load", "load", allowed)
			m.grows(t, m.World.GoogleAPIs.Hits)
			m.systemctl(t, "restart", unit)
			m.grows(t, m.World.GoogleAPIs.Hits)
			if out = load.end(t); !strings.Contains(out, ", failed 0") {
				return
			}
		}
		t.Errorf("nothing failed: %s", out)
	})
}

// TestWatchdog: a daemon that stands still is killed and started again, a killed one is
// started again, and nothing escapes meanwhile.
func TestWatchdog(t *testing.T) {
	m := serviceMachine(t, "WatchdogSec=5s")
	for i, signal := range []string{"SIGSTOP", "SIGKILL"} {
		m.nothingEscapes(t, func() {
			must(t, m.Signal(unit, signal))
			must(t, m.Is(2*soon, unit, "NRestarts", fmt.Sprint(i+1)), m.Is(soon, unit, "ActiveState", "active"))
			must(t, m.await(soon, func() error { return m.get(t, allowed) }))
		})
	}
	must(t, m.inFile("log", "Watchdog timeout"))
}

// TestNoPolicy: without a policy nothing starts, and nobody is cut off.
func TestNoPolicy(t *testing.T) {
	m := machine(t)
	must(t, m.Write("egressd/policy.yaml", "# kind: ServiceEntry\n"), m.Install(unit), m.Boot())
	m.systemctl(t, "start", unit)
	must(t, m.Is(soon, unit, "ActiveState", "inactive"),
		m.get(t, "http://"+world.Stranger+"/"), m.inFile(unit+".log", "there is no policy in /etc/egressd yet"))
}

// TestVerify: systemd has nothing to say of the units.
func TestVerify(t *testing.T) {
	m := machine(t)
	must(t, m.Install(unit), m.Install(bootUnit), m.Unit("broken.service", "[Service]\nExecStart=/usr/local/bin/no-such-program\n"), m.Boot())
	verify := func(name string) string {
		// Its exit status says no more than what it prints.
		out, err := m.Run("sh", "-c", "systemd-analyze verify --man=no /etc/systemd/system/"+name+" 2>&1 || true")
		must(t, err)
		return out
	}
	for _, name := range []string{unit, bootUnit} {
		if found := verify(name); found != "" {
			t.Errorf("%s: %s", name, found)
		}
	}
	if found := verify("broken.service"); found == "" {
		t.Error("a unit that cannot start is fine, too")
	}
}
