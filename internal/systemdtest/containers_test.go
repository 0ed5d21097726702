// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

// With Debian's Docker and podman, whose containers have scopes of systemd's, or cgroups that
// the runtime makes, and with containerd by itself, where people choose what these are called.

const (
	dockerUnit = "docker.service"
	podmanUnit = "podman.service"
	// containerdUnit is another one than that of which egressd knows that nodes need it.
	containerdUnit = "ctr.service"
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
  cgroups: ["system.slice", "docker", "machine.slice", "libpod_parent", "default"]
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
	// load is what it is told with the machine's directory behind it, to have the image.
	load func(dir string) []string
	// named are what its run is told of a container's name and network.
	named func(name, network string) (before, after []string)
}

// asDocker are load and named of what is called as Docker is.
func asDocker(dir string) []string {
	return []string{"import", filepath.Join(dir, "dialer.tar"), dialerImage}
}

func namedAsDocker(name, network string) (before, after []string) {
	return []string{"--name", name, "--network", network}, nil
}

// docker is one with a cgroup driver. Of IPv6 it has a network that is translated.
func docker(m *Machine, t *testing.T, driver string) *containers {
	t.Helper()
	testenv.RequireTool(t, "dockerd")
	must(t, m.Unit(dockerUnit, strings.NewReplacer("DIR", m.Dir, "TYPE", "notify", "COMMAND", "/usr/sbin/dockerd --exec-opt native.cgroupdriver="+driver+
		" --storage-driver vfs --host unix:///run/docker.sock --experimental --ipv6 --fixed-cidr-v6 fd00:d0c::/64 --ip6tables --userland-proxy=false").Replace(service)))
	must(t, m.Boot())
	m.systemctl(t, "start", dockerUnit)
	return &containers{m, []string{"/usr/bin/docker", "--host", "unix:///run/docker.sock"}, nil, []string{"host", "bridge"}, asDocker, namedAsDocker}
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
	return &containers{m, client, []string{"--pids-limit", "0", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, []string{"host"}, asDocker, namedAsDocker}
}

// containerd is one without Docker and Kubernetes. Shares of the processor are nothing that
// each machine has.
func containerd(m *Machine, t *testing.T, _ string) *containers {
	t.Helper()
	testenv.RequireTool(t, "containerd")
	testenv.RequireTool(t, "runc")
	must(t, m.Unit(containerdUnit, strings.NewReplacer("DIR", m.Dir, "TYPE", "notify", "COMMAND", "/usr/bin/containerd").Replace(service)))
	must(t, m.Boot())
	m.systemctl(t, "start", containerdUnit)
	return &containers{m, []string{"/usr/bin/ctr"}, []string{"--snapshotter", "native", "--cpu-shares", "0", "--net-host"}, []string{"host"},
		func(dir string) []string {
			return []string{"images", "import", "--snapshotter", "native", filepath.Join(dir, "image.tar")}
		},
		func(name, _ string) (before, after []string) { return nil, []string{name} }}
}

// dialerImage dials, and nothing else.
const dialerImage = "localhost/dialer:1"

// writeImage writes an image of one layer as "docker save" does.
func writeImage(path, layer string) error {
	files, err := os.ReadFile(layer)
	if err != nil {
		return err
	}
	settings := fmt.Sprintf(`{"architecture":%q,"os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, runtime.GOARCH, sha256.Sum256(files))
	manifest := fmt.Sprintf(`[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, dialerImage)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name string
		has  []byte
	}{{"manifest.json", []byte(manifest)}, {"config.json", []byte(settings)}, {"layer.tar", files}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.has))}); err != nil {
			return err
		}
		if _, err := w.Write(f.has); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

// call calls the runtime; the test fails when that does.
func (c *containers) call(t *testing.T, args ...string) string {
	t.Helper()
	return c.Machine.run(t, append(slices.Clone(c.client), args...)...)
}

// dials is what a new container says that dials an address as the first thing that it does.
func (c *containers) dials(t *testing.T, name, network, addr string, tries int) string {
	t.Helper()
	before, after := c.named(name, network)
	args := slices.Concat([]string{"run", "--rm", "--label", "app=web"}, before, c.run, []string{dialerImage}, after)
	return c.call(t, append(args, "/dialer", addr, fmt.Sprint(tries))...)
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
	must(t, m.Install(unit, `Environment="EGRESSD_OPTS=--container-runtimes docker=/run/docker.sock,podman=/run/podman.sock,containerd"`))
	tool := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(m.Dir, "dialer"), "github.com/egressd/egressd/internal/e2e/testdata/dialer")
	tool.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := tool.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", m.Dir, "-cf", filepath.Join(m.Dir, "dialer.tar"), "dialer").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, writeImage(filepath.Join(m.Dir, "image.tar"), filepath.Join(m.Dir, "dialer.tar")))
	return m
}

// forget removes the cgroup that containerd leaves behind, so that the next container of its
// namespace is the first one.
func (c *containers) forget(t *testing.T) {
	t.Helper()
	if err := os.Remove(c.Cgroup("default")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// TestRuntimes: no container gets out before it is known what it is, with the drivers that
// runtimes have for cgroups, in the node's network and in the container's own, with and
// without a daemon.
func TestRuntimes(t *testing.T) {
	for _, name := range []string{"docker/systemd", "docker/cgroupfs", "podman/systemd", "podman/cgroupfs", "containerd/cgroupfs"} {
		t.Run(name, func(t *testing.T) {
			m := containerMachine(t)
			kind, driver, _ := strings.Cut(name, "/")
			start := map[string]func(*Machine, *testing.T, string) *containers{"docker": docker, "podman": podman, "containerd": containerd}[kind]
			c := start(m, t, driver)
			c.call(t, c.load(m.Dir)...)
			for _, network := range c.networks {
				for _, door := range doors {
					if got := c.dials(t, "web-0", network, door, 1); got != "first open last open" {
						t.Fatalf("without egressd, %s to %s: %q", network, door, got)
					}
				}
			}
			c.forget(t)
			m.systemctl(t, "start", unit)
			before := m.escaped()
			c.burst(t, "with egressd")
			for _, addr := range []netip.Addr{m.World.API.V4, m.World.API.V6} {
				if got := c.dials(t, "web-1", "host", netip.AddrPortFrom(addr, 80).String(), 200); !strings.HasSuffix(got, "last open") {
					t.Errorf("what is allowed: %q", got)
				}
			}
			m.systemctl(t, "stop", unit)
			c.forget(t)
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
