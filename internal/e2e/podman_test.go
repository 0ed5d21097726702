// SPDX-License-Identifier: Apache-2.0

//go:build node

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// podmanScript runs podman where the cgroup $1 is the root of the only cgroup tree, with its
// storage below $2. What it says of limits is for machines that may not raise them.
const podmanScript = `set -e
root=$1 dir=$2; shift 2
echo 0 >"$root/cgroup.procs"
exec unshare --mount --cgroup sh -c 'set -e
dir=$1; shift
umount -R -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec podman --root "$dir/root" --runroot "$dir/runroot" --tmpdir "$dir/tmp" --storage-driver vfs --cgroup-manager cgroupfs --events-backend file --runtime runc "$@"' sh "$dir" "$@"`

// podman is the node's podman.
type podman struct {
	*node
	t   *testing.T
	dir string
}

func (p *podman) command(args ...string) *world.Cmd {
	return p.client(p.t, nil, "sh", append([]string{"-c", podmanScript, "sh", p.d.Root.Path(), p.dir}, args...)...)
}

// good runs podman, which must do what it is asked for.
func (p *podman) good(args ...string) string {
	p.t.Helper()
	e := finish(p.t, p.command(args...))
	if e.code != 0 {
		p.t.Fatalf("podman %q: exit %d: %s%s", args, e.code, e.stdout, e.stderr)
	}
	return e.stdout
}

// dials runs a container that dials an address, and returns what it says. It is in the
// node's network namespace.
func (p *podman) dials(name, addr, tries string, more ...string) string {
	p.t.Helper()
	args := append([]string{"run", "--rm", "--name", name, "--network", "host", "--pids-limit", "0",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--label", "app=web"}, more...)
	return strings.TrimSpace(p.good(append(args, "localhost/dialer:1", "/dialer", addr, tries)...))
}

// TestPodman: real containers are locked while podman's API does not answer, and are what
// their names, labels and images say when it does.
func TestPodman(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "podman")
	testenv.RequireTool(t, "runc")
	config := own(seed(t, "googleapis.yaml"))
	config["workloads.yaml"] = strings.NewReplacer("image: nginx", "image: localhost/dialer", "runtime: docker", "runtime: podman").Replace(containerWorkload)
	n := prepare(t, config, nil, "--container-runtimes", "podman={dir}/p.sock")
	p := &podman{node: n, t: t, dir: t.TempDir()}
	tool := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(p.dir, "dialer"), "./testdata/dialer")
	tool.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := tool.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", p.dir, "-cf", filepath.Join(p.dir, "dialer.tar"), "dialer").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.good("import", filepath.Join(p.dir, "dialer.tar"), "localhost/dialer:1")
	addr := n.Echo.Addr.String()
	n.write(t, "echo.yaml", fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo, namespace: shop}
spec:
  exportTo: ["."]
  hosts: [echo.internal]
  addresses: [%q]
  ports: [{number: %d, name: tcp, protocol: TCP}]
  resolution: NONE
`, n.Echo.Addr.Addr(), n.Echo.Addr.Port()))
	if got := p.dials("web-1", addr, "1"); got != "first open last open" {
		t.Fatalf("without egressd: %q", got)
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.dials("web-1", addr, "40"); got != "first refused last refused" {
		t.Errorf("without podman's API: %q", got)
	}
	service := p.command("system", "service", "--time", "0", "unix://"+filepath.Join(n.Dir(), "p.sock"))
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Process.Kill(); _ = service.Wait() }) // it would serve for ever
	if got := p.dials("web-1", addr, "200"); !strings.HasSuffix(got, "last open") {
		t.Errorf("selected: %q", got)
	}
	if got := p.dials("other", addr, "40"); got != "first refused last refused" {
		t.Errorf("another name: %q", got)
	}
	if got := p.dials("web-2", addr, "40", "--label", "app=db"); got != "first refused last refused" {
		t.Errorf("another label: %q", got)
	}
}
