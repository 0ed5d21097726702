// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
)

// flood sends many refused datagrams: to one destination, or to a new one each
// time.
const flood = `
import socket, sys
s, t = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for i in range(int(sys.argv[1])):
    n = i if sys.argv[2] == "many" else 0
    for sock, addr in ((s, "10.9.%d.%d" % (n // 256 % 256, n % 256)), (t, "2001:db8:9::%x:%x" % (n // 65536, n % 65536))):
        try:
            sock.sendto(b"x", (addr, 9))
        except OSError:
            pass
`

// TestExecSummaryInFlood: what was denied first is told whatever came after
// it, and what could not be read is said.
func TestExecSummaryInFlood(t *testing.T) {
	t.Parallel()
	b := newBench(t, hosts("google", world.GoogleAPIs))
	script := filepath.Join(b.Dir(), "flood.py")
	if err := os.WriteFile(script, []byte(flood), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"one", "many"} {
		e := b.exec(t, shell(probe+" dial "+hostPort(world.StrangerV4, 80)+"; "+probe+" dial "+hostPort(world.StrangerV6, 80)+"; "+python(t)+" "+script+" 100000 "+how)...)
		for _, want := range []string{hostPort(world.StrangerV4, 80) + "/tcp: no-rule, once, by probe", hostPort(world.StrangerV6, 80) + "/tcp: no-rule, once, by probe", "10.9.0.0:9/udp: no-rule", "[2001:db8:9::]:9/udp: no-rule"} {
			if !strings.Contains(e.stderr, want) {
				t.Errorf("%s: the summary lacks %q:\n%.3000s", how, want, e.stderr)
			}
		}
		sum := 0
		for _, m := range regexp.MustCompile(`(\d+) (times|denials|events were lost)`).FindAllStringSubmatch(e.stderr, -1) {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		// Two are "once", and each line of "many" as well.
		if lines := strings.Count(e.stderr, ", once, "); sum+lines < 199_000 {
			t.Errorf("%s: %d of 200,002 denials are accounted for:\n%.3000s", how, sum+lines, e.stderr)
		}
		if n := strings.Count(e.stderr, "\n"); n > 1500 {
			t.Errorf("%s: the summary has %d lines", how, n)
		}
	}
}

// TestFloodHidesNobody: a workload that makes denials without end fills
// neither the log nor the history, and pushes out nobody else's.
func TestFloodHidesNobody(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	n.write(t, "workloads.yaml", n.workload(t, "loud", "test", "loud", "")+n.workload(t, "quiet", "test", "quiet", ""))
	loud, quiet := childOf(t, n.d.Root, "loud"), childOf(t, n.d.Root, "quiet")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(n.Dir(), "flood.py")
	if err := os.WriteFile(script, []byte(flood), 0o644); err != nil {
		t.Fatal(err)
	}
	before := len(n.d.Log())
	for i := range 5 {
		n.probe(t, quiet, "dial", hostPort(world.StrangerV4, uint16(1000+i)))
		n.probe(t, quiet, "dial", hostPort(world.StrangerV6, uint16(1000+i)))
	}
	n.event(t, "the last of them", to(hostPort(world.StrangerV6, 1004)))
	for _, how := range []string{"one", "many"} {
		n.run(t, loud, python(t), script, "50000", how)
	}
	seen := map[string]bool{}
	floods := 0
	for _, e := range n.flows(t) {
		switch e.Workload {
		case "test/quiet":
			seen[e.Dst.String()] = true
		case "test/loud":
			floods++
		}
	}
	if len(seen) != 10 || floods == 0 {
		t.Errorf("%d of 10 denials are left, beside %d of the flood", len(seen), floods)
	}
	if size := len(n.d.Log()) - before; size > 500<<10 {
		t.Errorf("the log grew by %d bytes", size)
	}
	// The table knows how many there were: of a flood the kernel tells a part,
	// and counts the rest as lost.
	n.event(t, "the number of the flood", func(e flow.Event) bool { return e.Count > 1000 && e.Workload == "test/loud" && !e.First.IsZero() })
	if e := n.egressd(t, "flows", "--verdict", "deny"); !strings.Contains(e.stdout, " times since ") || !strings.Contains(e.stdout, flow.TooMany) {
		t.Errorf("flows: %.2000s", e.stdout)
	}
	// The log has the first, and later a number.
	eventually(t, flow.FoldAfter+10*time.Second, "the number in the log", func() bool {
		return strings.Contains(n.d.Log()[before:], "denied again")
	})
	if s := n.status(t); s.Denials["kernel/no-rule"] < 1000 {
		t.Errorf("counted %v", s.Denials)
	}
}

// knock dials without end, one destination or, with "many", many ports and
// process names.
const knock = `
import ctypes, socket, sys
prctl = ctypes.CDLL(None).prctl
i = 0
while True:
    i += 1
    many = i if sys.argv[1] == "many" else 0
    if many:
        prctl(15, b"knock%d" % (i % 5000), 0, 0, 0)
    s = socket.socket(socket.AF_INET)
    s.connect_ex(("10.9.9.9", 1 + many % 60000))
    s.close()
`

// TestKnockerHidesNobody: beside workloads that dial in a tight loop, the denial of
// another one is in the log and in the flows, and the log stays small.
func TestKnockerHidesNobody(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	n.write(t, "workloads.yaml", n.workload(t, "one", "test", "one", "")+n.workload(t, "many", "test", "many", "")+n.workload(t, "quiet", "test", "quiet", ""))
	one, many, quiet := childOf(t, n.d.Root, "one"), childOf(t, n.d.Root, "many"), childOf(t, n.d.Root, "quiet")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := len(n.d.Log())
	for how, cg := range map[string]*world.Cgroup{"one": one, "many": many} {
		c := n.client(t, cg, python(t), "-c", knock, how)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = c.Process.Kill(), c.Wait() })
	}
	// When they have made all kinds that they can.
	n.event(t, "folded denials", func(e flow.Event) bool { return e.Workload == "test/many" && e.Detail == flow.TooMany })
	eventually(t, flow.FoldAfter+10*time.Second, "the number of suppressed lines", func() bool {
		return regexp.MustCompile(`workload=test/many suppressed=[1-9]`).MatchString(n.d.Log()[before:])
	})
	for port := uint16(1000); port < 1005; port++ {
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			n.probe(t, quiet, "dial", hostPort(addr, port))
			dst := hostPort(addr, port)
			n.event(t, dst, func(e flow.Event) bool { return e.Workload == "test/quiet" && e.Dst.String() == dst && !e.Allowed })
			eventually(t, soon, "a line about "+dst, func() bool {
				return regexp.MustCompile(`(?m)workload=test/quiet .*dst="?` + regexp.QuoteMeta(dst)).MatchString(n.d.Log()[before:])
			})
		}
	}
	// 100 lines of each at once and 5 a second after that.
	if log := n.d.Log()[before:]; len(log) > 200<<10 || strings.Count(log, "\n") > 600 {
		t.Errorf("the log grew by %d bytes, %d lines", len(log), strings.Count(log, "\n"))
	}
}

// named dials under a name that terminals act on.
const named = `
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b"\n\x1b[31mFAKE\r\xc2\x9b", 0, 0, 0)
try:
    socket.create_connection((sys.argv[1], 80), 5)
except OSError as e:
    print(e)
`

// TestTerminalEscapes: what a workload calls itself does nothing to the
// terminal of whom it is shown to, and forges no lines.
func TestTerminalEscapes(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if e := n.run(t, n.in, python(t), "-c", named, addr); !strings.Contains(e.stdout, "refused") {
			t.Fatalf("%+v", e)
		}
		n.event(t, "the denial", func(e flow.Event) bool {
			return e.Dst.Addr().String() == addr && strings.Contains(e.Process.Command, "\n\x1b[31mFAKE") // in JSON as it is
		})
	}
	n.curl(t, n.in, "http://"+world.GoogleAPIs+"/\u009b31m\u202e")
	n.event(t, "the request", func(e flow.Event) bool { return e.Kind == flow.Request })
	policy := filepath.Join(n.Dir(), "inner.yaml")
	if err := os.WriteFile(policy, []byte(hosts("both", world.GoogleAPIs)), 0o644); err != nil {
		t.Fatal(err)
	}
	flows := n.egressd(t, "flows")
	summary := n.run(t, nil, egressd, "exec", "--config", policy, "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir(), "--",
		python(t), "-c", named, world.StrangerV4)
	for what, e := range map[string]ended{"flows": flows, "exec": {stdout: summary.stderr}} {
		if !strings.Contains(e.stdout, `\n\x1b[31mFAKE`) || strings.ContainsAny(e.stdout, "\x1b\r\u009b\u202e") || strings.Contains(e.stdout, "\nFAKE") {
			t.Errorf("%s: %q", what, e.stdout)
		}
	}
}
