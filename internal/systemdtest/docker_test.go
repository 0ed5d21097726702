// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

// With Debian's Docker, whose containers systemd's own scopes are for, or cgroups that
// Docker makes.

const dockerUnit = "docker.service"

// dockerService is Docker with one of its cgroup drivers. The kernel's modules and AppArmor are
// the machine's that the test is on.
const dockerService = `[Unit]
DefaultDependencies=no
[Service]
Type=notify
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/usr/sbin/dockerd --exec-opt native.cgroupdriver=DRIVER --storage-driver vfs --host unix:///run/docker.sock \
 --experimental --ipv6 --fixed-cidr-v6 fd00:d0c::/64 --ip6tables --userland-proxy=false
Delegate=yes
KillMode=process
StandardOutput=append:DIR/docker.log
StandardError=append:DIR/docker.log
`

// containerPolicy lets the node's services do what they like, and containers around which nobody
// says anything else; those that are named web-* reach the API alone.
const containerPolicy = `apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: services, namespace: node}
spec:
  cgroups: ["system.slice", "docker"]
  mode: off
---
apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: web, namespace: shop}
spec:
  containers: [{name: "web-*", image: localhost/dialer, labels: {app: web}, runtime: docker}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec:
  exportTo: ["."]
  hosts: [api.internal]
  addresses: ["ALLOWED4", "ALLOWED6"]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: NONE
`

// dockerMachine has a Docker with an image that dials, and egressd is not started.
func dockerMachine(t *testing.T, driver string) *Machine {
	t.Helper()
	testenv.RequireTool(t, "dockerd")
	m := machine(t)
	must(t, m.Write("egressd/policy.yaml", strings.NewReplacer("ALLOWED4", m.World.API.V4.String(), "ALLOWED6", m.World.API.V6.String()).Replace(containerPolicy)))
	must(t, m.Install(unit, `Environment="EGRESSD_OPTS=--container-runtimes docker=/run/docker.sock"`))
	must(t, m.Unit(dockerUnit, strings.NewReplacer("DRIVER", driver, "DIR", m.Dir).Replace(dockerService)))
	tool := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(m.Dir, "dialer"), "github.com/egressd/egressd/internal/e2e/testdata/dialer")
	tool.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := tool.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", m.Dir, "-cf", filepath.Join(m.Dir, "dialer.tar"), "dialer").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, m.Boot())
	m.systemctl(t, "start", dockerUnit)
	m.docker(t, "import", filepath.Join(m.Dir, "dialer.tar"), "localhost/dialer:1")
	return m
}

// docker calls Docker; the test fails when that does.
func (m *Machine) docker(t *testing.T, args ...string) string {
	t.Helper()
	return m.run(t, append([]string{"/usr/bin/docker", "--host", "unix:///run/docker.sock"}, args...)...)
}

// dials is what a new container says that dials an address as the first thing that it does.
func (m *Machine) dials(t *testing.T, name, network, addr string, tries int) string {
	t.Helper()
	return m.docker(t, "run", "--rm", "--name", name, "--network", network, "--label", "app=web", "localhost/dialer:1", "/dialer", addr, fmt.Sprint(tries))
}

// TestDocker: no container gets out before it is known what it is, with both of Docker's
// drivers, in the node's network and in its own.
func TestDocker(t *testing.T) {
	for _, driver := range []string{"systemd", "cgroupfs"} {
		t.Run(driver, func(t *testing.T) {
			m := dockerMachine(t, driver)
			networks := []string{"host", "bridge"}
			for _, network := range networks {
				for _, door := range doors {
					if got := m.dials(t, "web-0", network, door, 1); got != "first open last open" {
						t.Fatalf("without egressd, %s to %s: %q", network, door, got)
					}
				}
			}
			m.systemctl(t, "start", unit)
			before := m.escaped()
			m.burst(t, "with egressd", networks)
			for _, addr := range []netip.Addr{m.World.API.V4, m.World.API.V6} {
				if got := m.dials(t, "web-1", "host", netip.AddrPortFrom(addr, 80).String(), 200); !strings.HasSuffix(got, "last open") {
					t.Errorf("what is allowed: %q", got)
				}
			}
			m.systemctl(t, "stop", unit)
			m.burst(t, "without a daemon", networks)
			if n := m.escaped() - before; n != 0 {
				t.Errorf("%d packets to the stranger left the machine", n)
			}
			m.systemctl(t, "start", unit)
			for _, door := range doors { // which nothing selects
				if got := m.dials(t, "other", "host", door, 200); !strings.HasSuffix(got, "last open") {
					t.Errorf("one that nothing selects, to %s: %q", door, got)
				}
			}
		})
	}
}

// burst starts containers side by side that must not get out.
func (m *Machine) burst(t *testing.T, when string, networks []string) {
	t.Helper()
	var all sync.WaitGroup
	for i, network := range networks {
		for j, door := range doors {
			all.Go(func() {
				for k := range 3 {
					if got := m.dials(t, fmt.Sprintf("web-%d-%d-%d", i, j, k), network, door, 1); got != "first refused last refused" {
						t.Errorf("%s, %s to %s: %q", when, network, door, got)
					}
				}
			})
		}
	}
	all.Wait()
}
