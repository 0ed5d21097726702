// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

// With Debian's Docker and podman, whose containers have scopes of systemd's, or cgroups that
// the runtime makes.

const (
	dockerUnit = "docker.service"
	podmanUnit = "podman.service"
)

// service is a runtime's, which answers its API.
const service = `[Unit]
DefaultDependencies=no
[Service]
Type=TYPE
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=COMMAND
Delegate=yes
KillMode=process
StandardOutput=append:DIR/containers.log
StandardError=append:DIR/containers.log
`

// containerPolicy lets the node's services do what they like, and containers around which nobody
// says anything else; those that are named web-* reach the API alone.
const containerPolicy = `apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: services, namespace: node}
spec:
  cgroups: ["system.slice", "docker", "machine.slice", "libpod_parent"]
  mode: off
---
apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: web, namespace: shop}
spec:
  containers: [{name: "web-*", image: localhost/dialer, labels: {app: web}}]
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

// containers are those of a runtime on a machine.
type containers struct {
	*Machine
	client   []string // calls the runtime
	run      []string // what its run is told besides
	networks []string
}

// docker is one with a cgroup driver. Of IPv6 it has a network that is translated.
func docker(m *Machine, t *testing.T, driver string) *containers {
	t.Helper()
	testenv.RequireTool(t, "dockerd")
	must(t, m.Unit(dockerUnit, strings.NewReplacer("DIR", m.Dir, "TYPE", "notify", "COMMAND", "/usr/sbin/dockerd --exec-opt native.cgroupdriver="+driver+
		" --storage-driver vfs --host unix:///run/docker.sock --experimental --ipv6 --fixed-cidr-v6 fd00:d0c::/64 --ip6tables --userland-proxy=false").Replace(service)))
	must(t, m.Boot())
	m.systemctl(t, "start", dockerUnit)
	return &containers{m, []string{"/usr/bin/docker", "--host", "unix:///run/docker.sock"}, nil, []string{"host", "bridge"}}
}

// podman is one with a cgroup manager. What it is told of limits is for machines that may not
// raise them.
func podman(m *Machine, t *testing.T, manager string) *containers {
	t.Helper()
	testenv.RequireTool(t, "podman")
	testenv.RequireTool(t, "runc")
	// These are the machine's own; longer paths are too long for podman.
	client := []string{"/usr/bin/podman", "--root", "/var/lib/podman", "--runroot", "/run/podman/run", "--tmpdir", "/run/podman/tmp",
		"--storage-driver", "vfs", "--cgroup-manager", manager, "--events-backend", "file", "--runtime", "runc"}
	must(t, m.Unit(podmanUnit, strings.NewReplacer("DIR", m.Dir, "TYPE", "exec", "COMMAND", strings.Join(client, " ")+" system service --time 0 unix:///run/podman.sock").Replace(service)))
	must(t, m.Boot())
	m.systemctl(t, "start", podmanUnit)
	return &containers{m, client, []string{"--pids-limit", "0", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, []string{"host"}}
}

// call calls the runtime; the test fails when that does.
func (c *containers) call(t *testing.T, args ...string) string {
	t.Helper()
	return c.Machine.run(t, append(slices.Clone(c.client), args...)...)
}

// dials is what a new container says that dials an address as the first thing that it does.
func (c *containers) dials(t *testing.T, name, network, addr string, tries int) string {
	t.Helper()
	args := append([]string{"run", "--rm", "--name", name, "--network", network, "--label", "app=web"}, c.run...)
	return c.call(t, append(args, "localhost/dialer:1", "/dialer", addr, fmt.Sprint(tries))...)
}

// burst starts containers side by side that must not get out.
func (c *containers) burst(t *testing.T, when string) {
	t.Helper()
	var all sync.WaitGroup
	for i, network := range c.networks {
		for j, door := range doors {
			all.Go(func() {
				for k := range 3 {
					if got := c.dials(t, fmt.Sprintf("web-%d-%d-%d", i, j, k), network, door, 1); got != "first refused last refused" {
						t.Errorf("%s, %s to %s: %q", when, network, door, got)
					}
				}
			})
		}
	}
	all.Wait()
}

// containerMachine has an image that dials beside it, and is not booted.
func containerMachine(t *testing.T) *Machine {
	t.Helper()
	m := machine(t)
	must(t, m.Write("egressd/policy.yaml", strings.NewReplacer("ALLOWED4", m.World.API.V4.String(), "ALLOWED6", m.World.API.V6.String()).Replace(containerPolicy)))
	must(t, m.Install(unit, `Environment="EGRESSD_OPTS=--container-runtimes docker=/run/docker.sock,podman=/run/podman.sock"`))
	tool := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(m.Dir, "dialer"), "github.com/egressd/egressd/internal/e2e/testdata/dialer")
	tool.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := tool.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", m.Dir, "-cf", filepath.Join(m.Dir, "dialer.tar"), "dialer").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return m
}

// TestRuntimes: no container gets out before it is known what it is, with the drivers that
// runtimes have for cgroups, in the node's network and in the container's own, with and
// without a daemon.
func TestRuntimes(t *testing.T) {
	for _, name := range []string{"docker/systemd", "docker/cgroupfs", "podman/systemd", "podman/cgroupfs"} {
		t.Run(name, func(t *testing.T) {
			m := containerMachine(t)
			runtime, driver, _ := strings.Cut(name, "/")
			start := map[string]func(*Machine, *testing.T, string) *containers{"docker": docker, "podman": podman}[runtime]
			c := start(m, t, driver)
			c.call(t, "import", filepath.Join(m.Dir, "dialer.tar"), "localhost/dialer:1")
			for _, network := range c.networks {
				for _, door := range doors {
					if got := c.dials(t, "web-0", network, door, 1); got != "first open last open" {
						t.Fatalf("without egressd, %s to %s: %q", network, door, got)
					}
				}
			}
			m.systemctl(t, "start", unit)
			before := m.escaped()
			c.burst(t, "with egressd")
			for _, addr := range []netip.Addr{m.World.API.V4, m.World.API.V6} {
				if got := c.dials(t, "web-1", "host", netip.AddrPortFrom(addr, 80).String(), 200); !strings.HasSuffix(got, "last open") {
					t.Errorf("what is allowed: %q", got)
				}
			}
			m.systemctl(t, "stop", unit)
			c.burst(t, "without a daemon")
			if n := m.escaped() - before; n != 0 {
				t.Errorf("%d packets to the stranger left the machine", n)
			}
			m.systemctl(t, "start", unit)
			for _, door := range doors {
				if got := c.dials(t, "other", "host", door, 200); !strings.HasSuffix(got, "last open") {
					t.Errorf("one that nothing selects, to %s: %q", door, got)
				}
			}
		})
	}
}
