// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// resolver is a DNS server of the node that forwards.
type resolver struct {
	name string
	// command is how it is started to listen at two addresses and to ask
	// upstream, with its files in dir.
	command func(t *testing.T, dir, v4, v6, upstream string) []string
}

var resolvers = []resolver{
	{"dnsmasq", func(_ *testing.T, _, v4, v6, upstream string) []string {
		return []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
			"--bind-interfaces", "--listen-address=" + v4 + "," + v6, "--server=" + upstream, "--log-queries", "--log-facility=-"}
	}},
	{"unbound", func(t *testing.T, dir, v4, v6, upstream string) []string {
		config := filepath.Join(dir, "unbound.conf")
		text := fmt.Sprintf(`server:
  interface: %s
  interface: %s
  chroot: ""
  username: ""
  pidfile: ""
  directory: %q
  use-syslog: no
  do-daemonize: no
  module-config: "iterator"
forward-zone:
  name: "."
  forward-addr: %s
`, v4, v6, dir, upstream)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return []string{"unbound", "-d", "-c", config}
	}},
}

// runs starts the resolver in a cgroup, nil for one that is not captured, and
// waits until it answers.
func (r resolver) runs(t *testing.T, n *node, cg *world.Cgroup, v4, v6, upstream string) *os.Process {
	t.Helper()
	dir := t.TempDir()
	line := r.command(t, dir, v4, v6, upstream)
	c := n.client(t, cg, line[0], line[1:]...)
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Wait() }()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-ended
		out.Close()
		if t.Failed() {
			b, _ := os.ReadFile(out.Name())
			t.Logf("%s says:\n%s", r.name, b[max(0, len(b)-4000):])
		}
	})
	for deadline := time.Now().Add(soon); ; time.Sleep(every) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/udp", c.Process.Pid)); err == nil && strings.Contains(string(b), ":0035 ") {
			return c.Process
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen", r.name)
		}
	}
}

// TestLocalResolver: a forwarder on the node's loopback serves captured
// programs, whether it is captured itself or not, and it is asked once.
func TestLocalResolver(t *testing.T) {
	t.Parallel()
	for _, r := range resolvers {
		for _, captured := range []bool{false, true} {
			for _, family := range []struct{ listens, upstream string }{
				{"127.0.0.1", world.OtherResolverV4}, {"::1", world.OtherResolverV6},
			} {
				t.Run(fmt.Sprintf("%s/captured=%v/%s", r.name, captured, family.listens), func(t *testing.T) {
					t.Parallel()
					testenv.RequireTool(t, r.name)
					testenv.RequireTool(t, "curl")
					n := start(t, map[string]string{"policy.yaml": hosts("google", world.GoogleAPIs)}, nil,
						"--dns-server", family.listens, "--log-level", "debug")
					var cg *world.Cgroup
					if captured {
						cg = n.in
					}
					r.runs(t, n, cg, "127.0.0.1", "::1", family.upstream)
					localResolver(t, n, family.listens)
				})
			}
		}
	}
}

func localResolver(t *testing.T, n *node, listens string) {
	asks := func(server, name string) probed {
		return n.probe(t, n.in, "dns", "udp", hostPort(server, 53), name, "A")
	}
	for _, server := range []string{listens, world.ResolverV4, world.ResolverV6} {
		p := asks(server, world.GoogleAPIs)
		if p.Rcode != "NOERROR" || !slices.Equal(p.Addrs, []string{n.GoogleAPIs.V4.String()}) {
			t.Errorf("asked at %s: %+v", server, p)
		}
		if p := asks(server, world.Stranger); p.Rcode != "NXDOMAIN" || p.EDE != 15 {
			t.Errorf("the stranger at %s: %+v", server, p)
		}
	}
	if a := n.curl(t, n.in, "https://"+world.GoogleAPIs+"/"); a.status != 200 {
		t.Errorf("https: %+v", a)
	}
	// A, AAAA and what curl asks besides; a loop asks without end.
	if asked := n.DNS.Asked(world.GoogleAPIs); asked < 1 || asked > 12 {
		t.Errorf("the server outside was asked %d times", asked)
	}
	if asked := n.DNS.Asked(world.Stranger); asked != 0 {
		t.Errorf("the server outside was asked for the stranger %d times", asked)
	}
}

// TestNodeResolver: the same for a forwarder at an address of the node that is
// not loopback, as NodeLocal DNS has one.
func TestNodeResolver(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "dnsmasq")
	testenv.RequireTool(t, "curl")
	testenv.RequireTool(t, "ip")
	const v4, v6 = "169.254.20.10", "fd00:20::10"
	for _, family := range []struct{ listens, upstream string }{{v4, world.OtherResolverV4}, {v6, world.OtherResolverV6}} {
		t.Run(family.listens, func(t *testing.T) {
			t.Parallel()
			n := start(t, map[string]string{"policy.yaml": hosts("google", world.GoogleAPIs)}, nil, "--dns-server", family.listens)
			for _, addr := range []string{v4 + "/32", v6 + "/128"} {
				if e := n.run(t, nil, "ip", "address", "add", addr, "dev", "lo", "nodad"); e.code != 0 {
					t.Fatalf("%+v", e)
				}
			}
			resolvers[0].runs(t, n, n.in, v4, v6, family.upstream)
			localResolver(t, n, family.listens)
		})
	}
}
