// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// TestKill: without the daemon the kernel goes on with the last policy, and
// what the daemon served is refused until it is back.
func TestKill(t *testing.T) {
	t.Parallel()
	config := seed(t, "googleapis.yaml")
	config["udp.yaml"] = udp("udp", world.API, "7") + tcp("tcp", world.API, "7")
	n := start(t, config, nil)
	google4, google6 := n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()
	n.learn(t, world.GoogleAPIs, world.API)
	direct := n.open(t, n.Echo.Addr.String())
	if !direct.echo("before") {
		t.Fatal("the connection does not work")
	}
	eventually(t, soon, "what was learned is on disk", func() bool {
		b, err := os.ReadFile(filepath.Join(n.d.StateDir(), "learned.json"))
		return err == nil && strings.Contains(string(b), google6) && strings.Contains(string(b), n.EchoUDP6.Addr.Addr().String())
	})
	_ = n.d.Kill() // the error says that it was killed
	if !direct.echo("after") {
		t.Error("a direct connection did not outlive the daemon")
	}

	n.noWire(t, func() {
		for _, addr := range []string{google4, google6} {
			if p := n.probe(t, n.in, "dial", hostPort(addr, 80)); p.Errno != syscall.ECONNREFUSED {
				t.Errorf("killed: what is proxied, %s port 80: %+v, want ECONNREFUSED", addr, p)
			}
		}
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			if p := n.probe(t, n.in, "dial", hostPort(addr, 443)); p.Errno != syscall.ECONNREFUSED {
				t.Errorf("killed: %s: %+v, want ECONNREFUSED", addr, p)
			}
			if p := n.probe(t, n.in, "udp", hostPort(addr, 443), "x"); p.Error == "" {
				t.Errorf("killed: UDP %s: %+v", addr, p)
			}
		}
		for _, network := range []string{"udp", "tcp"} {
			for _, server := range []string{world.ResolverV4, world.ResolverV6, world.OtherResolverV4} {
				if p := n.probe(t, n.in, "dns", network, hostPort(server, 53), world.GoogleAPIs, "A"); p.Rcode != "" {
					t.Errorf("killed: DNS %s at %s: %+v", network, server, p)
				}
			}
		}
	}, google4, google6, world.StrangerV4, world.StrangerV6, world.ResolverV4, world.ResolverV6, world.OtherResolverV4)
	// Nobody takes the daemon's place. The twin: whoever is not captured may bind.
	for _, l := range [][2]string{
		{"tcp4", "127.0.0.1:15001"}, {"tcp4", "0.0.0.0:15001"}, {"tcp6", "[::1]:15001"}, {"tcp6", "[::]:15001"},
		{"tcp4", "127.0.0.1:15053"}, {"udp4", "127.0.0.1:15053"}, {"udp6", "[::1]:15053"},
	} {
		if p := n.probe(t, n.in, "listen", l[0], l[1]); p.Errno != syscall.EPERM {
			t.Errorf("killed: listen %v: %+v, want EPERM", l, p)
		}
		if p := n.probe(t, nil, "listen", l[0], l[1]); p.Error != "" {
			t.Errorf("uncaptured: listen %v: %+v", l, p)
		}
	}
	if p := n.probe(t, n.in, "listen", "tcp4", "127.0.0.1:8080"); p.Error != "" {
		t.Errorf("a port of the workload's own: %+v", p)
	}
	// What the kernel decides alone goes on.
	for _, addr := range []string{google4, google6} {
		if p := n.probe(t, n.in, "tls", hostPort(addr, 443), world.GoogleAPIs, n.CAFile()); p.Status != 200 {
			t.Errorf("killed: inspected TLS to %s: %+v", addr, p)
		}
	}
	for _, s := range []*world.Server{n.EchoUDP, n.EchoUDP6} {
		if p := n.probe(t, n.in, "udp", s.Addr.String(), "hello"); p.Text != "hello" {
			t.Errorf("killed: allowed UDP: %+v", p)
		}
	}
	killRestart(t, n)
}

func killRestart(t *testing.T, n *node) {
	asked := n.DNS.Asked(world.GoogleAPIs) + n.DNS.Asked(world.API)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		if p := n.probe(t, n.in, "tls", hostPort(addr, 443), world.GoogleAPIs, n.CAFile()); p.Status != 200 {
			t.Errorf("back: a name that was resolved before, at %s: %+v", addr, p)
		}
	}
	if again := n.DNS.Asked(world.GoogleAPIs) + n.DNS.Asked(world.API) - asked; again != 0 {
		t.Errorf("back: %d new questions about a name that was known", again)
	}
	if p := n.probe(t, n.in, "dial", n.Echo6.Addr.String()); p.Error != "" {
		t.Errorf("back: TCP by address: %+v", p)
	}
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("back: %+v", a)
	}
	if p := n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("back: stranger: %+v", p)
	}
}

// TestUnload: one command frees the node and leaves nothing.
func TestUnload(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		killed bool
	}{{"running", false}, {"killed", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := start(t, seed(t, "googleapis.yaml"), nil)
			if p := n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
				t.Fatalf("before: %+v", p)
			}
			if tt.killed {
				_ = n.d.Kill() // says that it was killed
			}
			if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
				t.Errorf("unload: %+v", e)
			}
			testenv.NoPins(t, n.d.PinDir())
			if left := cgroups(t, n); len(left) > 0 {
				t.Errorf("cgroups left: %v", left)
			}
			if left, err := os.ReadDir(n.d.StateDir()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("files left: %v, %v", left, err)
			}
			if p := n.probe(t, n.in, "tls", hostPort(world.StrangerV4, 443), "", n.CAFile()); p.Status != 200 {
				t.Errorf("after: %+v", p)
			}
			if p := n.probe(t, n.in, "dns", "udp", hostPort(world.OtherResolverV4, 53), world.Stranger, "A"); p.Rcode != "NOERROR" {
				t.Errorf("after: %+v", p)
			}
			if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
				t.Errorf("unload of nothing: %+v", e)
			}
		})
	}
}

// cgroups lists what is below the captured cgroup and not the test's.
func cgroups(t *testing.T, n *node) []string {
	t.Helper()
	entries, err := os.ReadDir(n.d.Root.Path())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != filepath.Base(n.in.Path()) {
			names = append(names, e.Name())
		}
	}
	return names
}
