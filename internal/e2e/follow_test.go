// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/privilege"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// again makes a cgroup anew, count times for each act, with a process whose
// first act is to send to the stranger, and returns how often each went through.
func (n *node) again(t *testing.T, count int, path string) map[string]int {
	t.Helper()
	e := n.run(t, nil, python(t), script(t, "again.py"), strconv.Itoa(count), path, world.StrangerV4, world.StrangerV6, world.Uplink)
	out := map[string]int{}
	if err := json.Unmarshal([]byte(e.stdout), &out); err != nil {
		t.Fatalf("%v: %+v", err, e)
	}
	return out
}

// neverOut fails the test if one of the processes that again makes sends.
func (n *node) neverOut(t *testing.T, when string, count int, path string) {
	t.Helper()
	n.noWire(t, func() {
		for act, went := range n.again(t, count, path) {
			// A frame is dropped behind the call that sends it.
			if went > 0 && act != "frame" {
				t.Errorf("%s: %s went through %d times of %d", when, act, went, count)
			}
		}
	}, world.StrangerV4, world.StrangerV6)
	if t.Failed() {
		t.FailNow()
	}
}

// free fails the test if a process cannot reach everybody.
func (n *node) free(t *testing.T, when string, cg *world.Cgroup) {
	t.Helper()
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if p := n.probe(t, cg, "dial", hostPort(addr, 443)); p.Error != "" {
			t.Errorf("%s: a process beside the captured one, TCP to %s: %+v", when, addr, p)
		}
	}
	for _, addr := range []string{n.EchoUDP.Addr.String(), n.EchoUDP6.Addr.String()} {
		if p := n.probe(t, cg, "udp", addr, "hello"); p.Error != "" {
			t.Errorf("%s: a process beside the captured one, UDP to %s: %+v", when, addr, p)
		}
	}
	// What the programs drop of captured sockets without asking any rule.
	options := `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([1, 1, 1, 1]))
s.sendto(b"hello", ("` + n.EchoUDP.Addr.Addr().String() + `", 7))
print(s.recv(64))
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + socket.inet_aton("` + world.NodeV4 + `"))`
	if e := n.run(t, cg, python(t), "-c", options); e.code != 0 {
		t.Errorf("%s: a process beside the captured one, odd sockets: %s", when, e.stderr)
	}
	if p := n.probe(t, cg, "lookup", world.API2); len(p.Addrs) == 0 {
		t.Errorf("%s: a process beside the captured one asks for a name: %+v", when, p)
	}
}

// TestFollowName: a captured cgroup that goes and comes back is captured from its
// first instruction on, whether there is a daemon or not, and before it was there
// for the first time. What is beside it is free.
func TestFollowName(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil)
	n.d.Prefix = confined(privilege.Needed(false)) // it finds cgroups by their ids
	shop := filepath.Join(n.d.Root.Path(), "shop.service")
	beside := childOf(t, n.d.Root, "other.service")
	alike := childOf(t, n.d.Root, "shop.service2")
	n.d.Capture = []string{"--cgroup", shop}
	for act, went := range n.again(t, 10, shop) {
		if went != 10 {
			t.Fatalf("without egressd %s went through %d times of 10", act, went)
		}
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := n.status(t)
	if present, ok := s.Capture.Cgroups[shop]; !s.Capture.Held || !s.Capture.ByName || !ok || present {
		t.Errorf("status: %+v", s.Capture)
	}
	if text := n.egressd(t, "status").stdout; !strings.Contains(text, "not there now") {
		t.Errorf("status does not say that the cgroup is not there:\n%s", text)
	}
	n.free(t, "before the first one", beside)
	n.free(t, "before the first one", alike)
	n.neverOut(t, "with the daemon", 200, shop)
	table := filepath.Join(n.d.PinDir(), agent.NodePins, "egd_workloads")
	// What stays is the cgroup above, the name, and the daemon's probe of itself.
	eventually(t, soon, "what programs entered and is gone is removed", func() bool { return testenv.PinnedEntries(t, table) == 3 })
	if err := n.d.Terminate(); err != nil {
		t.Fatal(err)
	}
	n.neverOut(t, "after SIGTERM", 30, shop)
	n.free(t, "after SIGTERM", beside)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.d.Kill(); err != nil {
		t.Fatal(err)
	}
	n.neverOut(t, "after kill -9", 30, shop)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.free(t, "at the end", beside)
	for range 3 {
		cg := childOf(t, n.d.Root, "shop.service")
		if a := n.probe(t, cg, "lookup", world.API); len(a.Addrs) == 0 {
			t.Errorf("a name that is allowed: %+v", a)
		}
		for _, addr := range []string{n.Echo.Addr.String(), n.Echo6.Addr.String()} {
			if p := n.probe(t, cg, "dial", addr); p.Error != "" {
				t.Errorf("what is allowed, %s: %+v", addr, p)
			}
		}
		if p := n.probe(t, childOf(t, cg, "inner"), "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("a cgroup in the captured one: %+v", p)
		}
		if err := cg.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if s := n.status(t); s.Kernel["pass/outside"] == 0 {
		t.Error("what passed beside the captured cgroup is not counted")
	}
}

// TestFollowDeepName: the cgroups on the way to the captured one may go and come
// back as well, and several may be captured.
func TestFollowDeepName(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil)
	root := n.d.Root.Path()
	// Names are hashed in pieces of 31 bytes: some that end with a piece, and not.
	long, payload := strings.Repeat("n", 62)+"-"+strings.Repeat("m", 130), strings.Repeat("p", 31)
	deep := filepath.Join(root, "shop.slice", long)
	n.d.Capture = []string{"--cgroup", deep, "--cgroup", filepath.Join(root, "b.slice", payload)}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.neverOut(t, "deep", 50, deep+"//")
	n.neverOut(t, "the other one", 10, filepath.Join(root, "b.slice", payload)+"//")
	for _, free := range []string{"shop.slice/" + payload, "b.slice/" + long, "shop.slice/" + long[:len(long)-1] + "x", "b.slice/" + payload + "p", payload + "/" + payload} {
		for act, went := range n.again(t, 1, filepath.Join(root, free)+"//") {
			if went != 1 {
				t.Errorf("%s is not captured, and %s does not go through", free, act)
			}
		}
	}
	// One on the way that comes back as somebody's own holds nothing.
	slice := childOf(t, n.d.Root, "shop.slice")
	ready := func(want bool) {
		t.Helper()
		eventually(t, soon, "the capture is held: "+strconv.FormatBool(want), func() bool {
			s := n.status(t)
			return s.Ready == want && s.Capture.Held == want
		})
	}
	delegate(t, slice.Path())
	ready(false)
	if err := slice.Close(); err != nil {
		t.Fatal(err)
	}
	ready(true)
}

// TestFollowOutermost: a cgroup directly below the root that goes cannot be held by
// its name, and neither can what lies in it. That is said at once, and repaired
// when it comes back.
func TestFollowOutermost(t *testing.T) {
	t.Parallel()
	for _, inner := range []string{"", "shop.service"} {
		t.Run(inner, func(t *testing.T) {
			t.Parallel()
			followOutermost(t, inner)
		})
	}
}

func followOutermost(t *testing.T, inner string) {
	n := prepare(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil)
	top := filepath.Join(filepath.Dir(n.d.Root.Path()), "egd-"+strconv.Itoa(os.Getpid())+"-outermost"+inner)
	n.d.Capture = []string{"--cgroup", filepath.Join(top, inner)}
	// begin makes the cgroups anew; end removes them.
	begin := func() (cg *world.Cgroup, end func()) {
		t.Helper()
		outer, err := world.MakeCgroup(top)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = outer.Close() }) // the test closes it when all is well
		cg = outer
		if inner != "" {
			cg = childOf(t, outer, inner)
		}
		return cg, func() {
			if err := errors.Join(cg.Close(), outer.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	lost := func() {
		t.Helper()
		eventually(t, clientTimeout, "the capture is said to be lost", func() bool {
			e := n.egressd(t, "status")
			return strings.Contains(e.stdout, "NOT HELD") && strings.Contains(e.stdout, "ready: false")
		})
		if a := n.curl(t, nil, "http://127.0.0.1:15021/healthz/ready"); a.status != 503 || !strings.Contains(a.body, top) {
			t.Errorf("readiness: %+v", a)
		}
		if a := n.curl(t, nil, "http://127.0.0.1:15020/metrics"); !strings.Contains(a.body, "egressd_capture_held 0") {
			t.Error("the metric says that the capture is held")
		}
	}
	held := func(when string, cg *world.Cgroup) {
		t.Helper()
		if err := n.d.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			if p := n.probe(t, cg, "dial", hostPort(addr, 443)); p.Errno != syscall.ECONNREFUSED {
				t.Errorf("%s: %s: %+v", when, addr, p)
			}
		}
	}
	if err := n.d.Launch(t.Context()); err != nil {
		t.Fatal(err)
	}
	lost()
	cg, end := begin()
	held("when it came", cg)
	end()
	lost()
	if !strings.Contains(n.d.Log(), "the captured cgroup is not held") {
		t.Error("the log says nothing")
	}
	// Connections that are opened before egressd has looked, and while there is none.
	pid := n.status(t).PID
	for _, gap := range []struct {
		name       string
		begin, end func() error
	}{
		{"stopped", func() error { return stopped(t, pid) }, func() error { return syscall.Kill(pid, syscall.SIGCONT) }},
		{"killed", n.d.Kill, func() error { return n.d.Start(t.Context()) }},
	} {
		if err := gap.begin(); err != nil {
			t.Fatal(err)
		}
		cg, end := begin()
		open4, open6 := n.openIn(t, cg, n.Echo.Addr.String()), n.openIn(t, cg, n.Echo6.Addr.String())
		if !open4.echo("before") || !open6.echo("before") {
			t.Fatalf("%s: the connections do not work", gap.name)
		}
		if err := gap.end(); err != nil {
			t.Fatal(err)
		}
		held(gap.name, cg)
		n.event(t, "the connection of the gap", func(e flow.Event) bool {
			return !e.Allowed && e.Dst == n.Echo6.Addr && strings.Contains(e.Detail, "before")
		})
		if open4.echo("after") || open6.echo("after") {
			t.Errorf("%s: a connection that was opened in the gap goes on", gap.name)
		}
		end()
		lost()
	}
	// Started without it, over what an earlier run left.
	if err := errors.Join(n.d.Terminate(), n.d.Launch(t.Context())); err != nil {
		t.Fatal(err)
	}
	lost()
	cg, end = begin()
	held("when it came again", cg)
	end()
}

// stopped stops a process, all of its threads: each stops when it comes to it.
func stopped(t *testing.T, pid int) error {
	t.Helper()
	err := syscall.Kill(pid, syscall.SIGSTOP)
	eventually(t, soon, "the stop of every thread", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return len(threads) > 0 && !slices.ContainsFunc(threads, func(path string) bool {
			stat, _ := os.ReadFile(path)
			return !strings.HasPrefix(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " T ")
		})
	})
	return err
}

// besides is a world with a policy that allows two echo servers by their addresses.
func besides(t *testing.T) (n *node, echo4, echo6 string) {
	t.Helper()
	n = prepare(t, map[string]string{"static.yaml": `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: static}
spec:
  hosts: [static.example]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: ` + world.DBV4 + `}, {address: "` + world.DBV6 + `"}]
`}, func(w *world.World) {
		for _, addr := range []string{world.DBV4, world.DBV6} {
			if _, err := w.AddTCP(netip.MustParseAddrPort(hostPort(addr, 7)), ""); err != nil {
				t.Fatal(err)
			}
		}
	})
	return n, hostPort(world.DBV4, 7), hostPort(world.DBV6, 7)
}

// TestOtherCgroup: a start that captures another cgroup than the one before
// judges the connections of that, and says that the first is free.
func TestOtherCgroup(t *testing.T) {
	t.Parallel()
	n, allowed4, allowed6 := besides(t)
	a, b, outer := childOf(t, n.d.Root, "a.service"), childOf(t, n.d.Root, "b.service"), testenv.Cgroup(t)
	n.d.Capture = []string{"--cgroup", a.Path()}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := a
	for _, next := range []*world.Cgroup{b, outer} {
		denied := []*line{n.openIn(t, next, n.Echo.Addr.String()), n.openIn(t, next, n.Echo6.Addr.String())}
		allowed := []*line{n.openIn(t, next, allowed4), n.openIn(t, next, allowed6)}
		if err := n.d.Terminate(); err != nil {
			t.Fatal(err)
		}
		n.d.Capture = []string{"--cgroup", next.Path()}
		if err := n.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range denied {
			if denied[i].echo("after") {
				t.Errorf("%s: a connection that is denied outlived the start", next.Path())
			}
			if !allowed[i].echo("after") {
				t.Errorf("%s: a connection that is allowed did not", next.Path())
			}
		}
		if p := n.probe(t, next, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("%s: %+v", next.Path(), p)
		}
		n.free(t, "captured before", first)
		if log := n.d.Log(); !strings.Contains(log, "its traffic is NOT filtered") || !strings.Contains(log, "cgroup="+first.Path()) {
			t.Errorf("nothing was said about %s", first.Path())
		}
		first = next
	}
}

// TestFollowedSurvivesRestart: a restart does not end what the pinned programs saw
// in a cgroup that came while there was no daemon, nor what others say to it.
func TestFollowedSurvivesRestart(t *testing.T) {
	t.Parallel()
	n, allowed4, allowed6 := besides(t)
	n.d.Capture = []string{"--cgroup", filepath.Join(n.d.Root.Path(), "shop.service")}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.d.Kill(); err != nil {
		t.Fatal(err)
	}
	cg := childOf(t, n.d.Root, "shop.service")
	lines := []*line{n.openIn(t, cg, allowed4), n.openIn(t, cg, allowed6)}
	for range 2 {
		if err := n.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			if !l.echo("after") {
				t.Error("a connection that is allowed was ended")
			}
		}
		if err := n.d.Terminate(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStoredConnections: connections that a service left with its manager, and has
// again in its new cgroup, are under policy as before: that the old cgroup is gone
// frees them not.
func TestStoredConnections(t *testing.T) {
	t.Parallel()
	entry := func(protocol string) string {
		return `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: static-` + strings.ToLower(protocol) + `}
spec:
  hosts: [static-` + strings.ToLower(protocol) + `.example]
  ports: [{number: 7, name: ` + strings.ToLower(protocol) + `, protocol: ` + protocol + `}]
  resolution: STATIC
  endpoints: [{address: ` + world.DBV4 + `}, {address: "` + world.DBV6 + `"}]
---
`
	}
	n := prepare(t, map[string]string{"static.yaml": entry("TCP") + entry("UDP")}, func(w *world.World) {
		for _, addr := range []string{world.DBV4, world.DBV6} {
			at := netip.MustParseAddrPort(hostPort(addr, 7))
			_, err := w.AddTCP(at, "")
			_, uerr := w.AddUDP(at)
			if err := errors.Join(err, uerr); err != nil {
				t.Fatal(err)
			}
		}
	})
	shop := filepath.Join(n.d.Root.Path(), "shop.service")
	n.d.Capture = []string{"--cgroup", shop}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, denied := range []bool{false, true} {
		c := n.client(t, nil, python(t), script(t, "store.py"), shop, world.DBV4, world.DBV6, "7")
		var stderr strings.Builder
		c.Stderr = &stderr
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		if line, err := lines.ReadString('\n'); line != "ready\n" {
			t.Fatalf("%q, %v: %s", line, err, stderr.String())
		}
		if denied {
			n.write(t, "static.yaml", tcp("other", world.API, "7"))
			eventually(t, soon, "the new policy is in force", func() bool { return strings.Count(n.d.Log(), "policy applied") == 2 })
		}
		if _, err := in.Write([]byte("on\n")); err != nil {
			t.Fatal(err)
		}
		var works []bool
		if err := json.NewDecoder(lines).Decode(&works); err != nil || len(works) != 4 {
			t.Fatalf("%v, %v: %s", works, err, stderr.String())
		}
		for i, what := range []string{"TCP, IPv4", "TCP, IPv6", "UDP, IPv4", "UDP, IPv6"} {
			if works[i] == denied {
				t.Errorf("denied: %t, and %s works: %t", denied, what, works[i])
			}
		}
		if err := c.Wait(); err != nil {
			t.Errorf("%v: %s", err, stderr.String())
		}
	}
}

// TestFollowDescribed: what a Workload says about a captured cgroup counts from the
// first instruction on as well.
func TestFollowDescribed(t *testing.T) {
	t.Parallel()
	n := prepare(t, nil, nil)
	n.write(t, "policy.yaml", `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: stranger, namespace: shop}
spec:
  exportTo: ["."]
  hosts: [stranger.example]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: `+world.StrangerV4+`}, {address: "`+world.StrangerV6+`"}]
---
`+n.workload(t, "web", "shop", "*.slice/shop.service", ""))
	root := n.d.Root.Path()
	shop := filepath.Join(root, "a.slice", "shop.service")
	n.d.Capture = []string{"--cgroup", shop, "--cgroup", filepath.Join(root, "b.service")}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for act, went := range n.again(t, 20, shop+"//") {
		if want := map[bool]int{true: 20}[strings.HasPrefix(act, "tcp")]; went != want && act != "frame" {
			t.Errorf("%s went through %d times, want %d", act, went, want)
		}
	}
	n.neverOut(t, "what no Workload describes", 5, filepath.Join(root, "b.service"))
}
