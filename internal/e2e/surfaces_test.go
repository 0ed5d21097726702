// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// TestSurfacesOnLoopback: without a flag the daemon's interfaces are on
// loopback only, and answer only to its names.
func TestSurfacesOnLoopback(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	for _, addr := range []string{"127.0.0.1", "::1"} {
		if p := n.probe(t, nil, "dial", hostPort(addr, 15000)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("the admin interface, which nobody asked for, at %s: %+v", addr, p)
		}
	}
	for _, port := range []uint16{15000, 15020, 15021} {
		for _, addr := range []string{world.NodeV4, world.NodeV6} {
			if p := n.probe(t, nil, "dial", hostPort(addr, port)); p.Errno != syscall.ECONNREFUSED {
				t.Errorf("%s port %d: %+v", addr, port, p)
			}
		}
	}
	n.onLoopback(t, "127.0.0.1:15020/metrics", "[::1]:15020/metrics", "127.0.0.1:15021/healthz/ready", "[::1]:15021/healthz/ready", "127.0.0.1:15021/healthz/live")
}

// onLoopback checks that interfaces answer, and only to the names of loopback.
func (n *node) onLoopback(t *testing.T, urls ...string) {
	t.Helper()
	for _, at := range urls {
		if a := n.curl(t, nil, "http://"+at); a.status != 200 {
			t.Errorf("%s: %+v", at, a)
		}
		if a := n.curl(t, nil, "-H", "Host: rebind.attacker.test:15000", "http://"+at); a.status != 421 || strings.Contains(a.body, "egressd_") {
			t.Errorf("%s for another host: %+v", at, a)
		}
	}
}

// TestAdminByTCP: where it is asked for, the admin interface is read by
// processes that are not captured, changed by none, and the captured ones do
// not get there.
func TestAdminByTCP(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, "--admin-address", "localhost:15000")
	n.onLoopback(t, "127.0.0.1:15000/flows", "[::1]:15000/status", "localhost:15000/config_dump", "localhost:15000/ui/", "[::1]:15000/ui/flows")
	for _, addr := range []string{"127.0.0.1", "[::1]"} {
		if a := n.curl(t, nil, "-X", "POST", "http://"+addr+":15000/unload"); a.status < 400 {
			t.Errorf("unload at %s: %+v", addr, a)
		}
		if p := n.probe(t, n.in, "dial", addr+":15000"); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("a captured process at %s: %+v", addr, p)
		}
		n.event(t, "a captured process is denied", func(e flow.Event) bool {
			return e.Dst.String() == addr+":15000" && e.Reason == policy.ReasonOwnPort && !e.Allowed
		})
	}
	if !n.status(t).Ready {
		t.Error("egressd is gone")
	}
	// Another user of the node, captured or not, reads nothing; root reads what Envoy
	// has there as well.
	n.onLoopback(t, "127.0.0.1:15000/clusters", "[::1]:15000/listeners", "127.0.0.1:15000/stats?format=json", "127.0.0.1:15000/server_info", "127.0.0.1:15000/certs", "127.0.0.1:15000/logging")
	testenv.RequireTool(t, "setpriv")
	for _, path := range []string{"config_dump", "flows", "status", "clusters", "logging", "ui/", "ui/flows"} {
		e := n.run(t, nil, "setpriv", "--reuid", "65534", "--clear-groups", "curl", "-q", "-sS", "--noproxy", "*", "http://127.0.0.1:15000/"+path)
		if !strings.Contains(e.stdout, "only root") || strings.Contains(e.stdout, world.GoogleAPIs) {
			t.Errorf("another user gets %s: %+v", path, e)
		}
	}
	for _, path := range []string{"flows", "explain?target=a.example:443", "ui/flows", "ui/app.js"} {
		if a := n.curl(t, nil, "-H", "Sec-Fetch-Site: cross-site", "http://127.0.0.1:15000/"+path); a.status != 403 {
			t.Errorf("a page of another site gets %s: %+v", path, a)
		}
	}
	if a := n.curl(t, nil, "-X", "POST", "http://127.0.0.1:15000/ui/flows"); a.status != 405 {
		t.Errorf("the web page takes changes: %+v", a)
	}
	if a := n.curl(t, nil, "-X", "POST", "http://127.0.0.1:15000/logging?level=debug"); a.status != 405 {
		t.Errorf("levels changed by TCP: %+v", a)
	}
	if e := n.egressd(t, "log-level", "warn", "dns=debug"); e.code != 0 || !strings.Contains(e.stdout, "dns      debug\n") || !strings.Contains(e.stdout, "proxy    warn\n") {
		t.Errorf("egressd log-level: %+v", e)
	}
}

// TestSurfacesElsewhere is the twin of TestSurfacesOnLoopback.
func TestSurfacesElsewhere(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, "--status-address", "["+world.NodeV6+"]:9020", "--health-address", ":15021")
	for _, at := range []string{"[" + world.NodeV6 + "]:9020/metrics", world.NodeV4 + ":15021/healthz/ready", "[" + world.NodeV6 + "]:15021/healthz/ready"} {
		if a := n.curl(t, nil, "-H", "Host: node.example", "http://"+at); a.status != 200 {
			t.Errorf("%s: %+v", at, a)
		}
	}
	if p := n.probe(t, nil, "dial", "127.0.0.1:15020"); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("%+v", p)
	}
}

// hold opens connections to an address of the node, and does nothing with them.
func hold(t *testing.T, n *node, addr string, count int) {
	t.Helper()
	for range count {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := n.Node.Dial(ctx, "tcp", netip.MustParseAddrPort(addr))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

// TestSurfacesInFlood: connections that are held open keep nobody out of an
// interface, and take no descriptors from the workloads.
func TestSurfacesInFlood(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "prlimit")
	n := prepare(t, seed(t, "googleapis.yaml"), nil, "--admin-address", "localhost:15000")
	n.d.Prefix = []string{"prlimit", "--nofile=600:600"}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"127.0.0.1:15000", "127.0.0.1:15020", "[::1]:15020", "127.0.0.1:15021", "[::1]:15021"} {
		hold(t, n, at, 200)
	}
	for _, at := range []string{"127.0.0.1:15000/status", "127.0.0.1:15020/metrics", "[::1]:15020/metrics", "127.0.0.1:15021/healthz/ready", "[::1]:15021/healthz/ready"} {
		if a := n.curl(t, nil, "--max-time", "2", "http://"+at); a.status != 200 {
			t.Errorf("%s: %+v", at, a)
		}
	}
	if a := n.curl(t, n.in, "--max-time", "2", "http://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("the workload: %+v", a)
	}
	if a := n.curl(t, nil, "http://127.0.0.1:15020/metrics"); !strings.Contains(a.body, `egressd_interface_closed_total{interface="status"}`) {
		t.Errorf("not counted: %+v", a)
	}
}

// TestUnloadWithoutDescriptors: a daemon that has no descriptors left can be
// asked for its state, and to unload.
func TestUnloadWithoutDescriptors(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	n.learn(t, world.GoogleAPIs)
	n.starve(t)
	crowd := n.client(t, n.in, python(t), "-c", `
import socket, sys
a = [socket.socket() for i in range(400)]
for s in a:
    s.setblocking(False)
    s.connect_ex((sys.argv[1], 80)) # a head that does not come is waited for
print("full", flush=True)
sys.stdin.read()
`, n.GoogleAPIs.V4.String())
	in, err := crowd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := crowd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := crowd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = crowd.Wait() }()
	if _, err := out.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "no descriptor is left", func() bool { return strings.Contains(n.d.Log(), "too many open files") })
	// Before the first of the crowd is cut, which says nothing for so long.
	took := stopwatch()
	if e := n.egressd(t, "status"); e.code != 0 || !strings.Contains(e.stdout, "ready: true") {
		t.Errorf("status: %+v", e)
	}
	if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
		t.Errorf("unload: %+v", e)
	}
	testenv.NoPins(t, n.d.PinDir())
	if took := took(); took > 7*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestPortsOfOthers: somebody who has the daemon's ports neither gets what is
// redirected nor keeps the daemon from starting, whether the kernel's tables
// are new or those of a daemon that was killed.
func TestPortsOfOthers(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil, "--admin-address", "localhost:15000")
	use := func(when string) {
		t.Helper()
		asked := n.DNS.Asked(world.GoogleAPIs)
		for _, server := range []string{world.ResolverV4, world.ResolverV6} {
			for _, network := range []string{"udp", "tcp"} {
				if p := n.probe(t, n.in, "dns", network, hostPort(server, 53), world.GoogleAPIs, "A"); p.Rcode != "NOERROR" {
					t.Errorf("%s: DNS by %s at %s: %+v", when, network, server, p)
				}
			}
		}
		n.learn(t, world.GoogleAPIs)
		if n.DNS.Asked(world.GoogleAPIs) == asked {
			t.Errorf("%s: nobody asked the server", when)
		}
		for _, addr := range []string{n.GoogleAPIs.V4.String(), "[" + n.GoogleAPIs.V6.String() + "]"} {
			if a := n.curl(t, n.in, "--connect-to", "::"+addr+":", "http://"+world.GoogleAPIs+"/x"); a.status != 200 || !strings.Contains(a.body, `"path":"/x"`) {
				t.Errorf("%s: proxied, %s: %+v", when, addr, a)
			}
		}
		if p := n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 80)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("%s: %+v", when, p)
		}
	}
	squat := func() (release func()) {
		s := &squatter{}
		if err := n.Node.Do(s.take); err != nil {
			t.Fatal(err)
		}
		return func() {
			s.close()
			if got := s.got.Load(); got != 0 {
				t.Errorf("the squatter got %d connections and datagrams", got)
			}
		}
	}
	// Nobody can say that it is ready but the log.
	begin := func() {
		t.Helper()
		from := len(n.d.Log())
		ctx, cancel := context.WithCancel(t.Context())
		started := make(chan error, 1)
		go func() { started <- n.d.Start(ctx) }()
		eventually(t, 3*soon, "the start", func() bool { return strings.Contains(n.d.Log()[from:], "msg=ready") })
		cancel()
		if err := <-started; !errors.Is(err, context.Canceled) {
			t.Errorf("ready, with its readiness port in other hands: %v", err)
		}
	}
	release := squat()
	begin()
	log := n.d.Log()
	for _, want := range []string{"port=15001", "port=15053", "network=udp", "e2e.test", "interface=admin", "interface=health"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	use("fresh")
	_ = n.d.Kill()
	release()
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	use("with its own ports")
	_ = n.d.Kill()
	release = squat()
	begin()
	use("adopted")
	release()
	// The interfaces come when their ports are free.
	eventually(t, 15*time.Second, "the readiness port", func() bool {
		return n.curl(t, nil, "http://127.0.0.1:15021/healthz/ready").status == 200
	})
}
