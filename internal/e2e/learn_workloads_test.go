// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

const (
	edgeDomain, edgeV4, edgeV6 = "cdn.example.net", "93.184.216.90", "2606:2800:21f::90"
	clockName, clockV4         = "clock.example.net", "93.184.216.91"
)

// edges gives the internet a server with many names, and one that answers datagrams.
func edges(t *testing.T) func(*world.World) {
	return func(w *world.World) {
		v4, v6 := netip.MustParseAddr(edgeV4), netip.MustParseAddr(edgeV6)
		for i := range 8 {
			if err := w.AddName(edge(i), v4, v6); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.AddName(clockName, netip.MustParseAddr(clockV4), netip.Addr{}); err != nil {
			t.Fatal(err)
		}
		for _, a := range []netip.Addr{v4, v6} {
			if _, err := w.AddTCP(netip.AddrPortFrom(a, 9000), "edge\n"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.AddUDP(netip.MustParseAddrPort(clockV4 + ":1230")); err != nil {
			t.Fatal(err)
		}
	}
}

func edge(i int) string { return fmt.Sprintf("e%d7f3a9b2c.%s", i, edgeDomain) }

// learner is a node with two workloads of one namespace.
type learner struct {
	*node
	web, db   *world.Cgroup
	workloads string
}

func newLearner(t *testing.T, policy string, args ...string) learner {
	t.Helper()
	l := learner{node: prepare(t, map[string]string{}, edges(t), args...)}
	for _, c := range []struct {
		name string
		cg   **world.Cgroup
	}{{"web", &l.web}, {"db", &l.db}} {
		cg, err := l.d.Root.Child(c.name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cg.Close() }) // also when the daemon's root goes first
		*c.cg = cg
		l.workloads += strings.Replace(l.workload(t, c.name, "prod", c.name, ""), "namespace: prod}", "namespace: prod, labels: {app: "+c.name+"}}", 1)
	}
	l.write(t, "workloads.yaml", l.workloads)
	l.write(t, "learned.yaml", policy)
	if err := l.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// python runs a script that has some functions, and says how it ended.
func (l learner) python(t *testing.T, cg *world.Cgroup, script string) ended {
	t.Helper()
	const functions = `
import socket
def tcp(host, port, family=0):
    last = None
    for f, k, p, _, a in socket.getaddrinfo(host, port, family, socket.SOCK_STREAM):
        s = socket.socket(f, k, p); s.settimeout(10); s.connect(a); return s
def udp(host, port):
    f, k, p, _, a = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_DGRAM)[0]
    s = socket.socket(f, k, p); s.settimeout(10); s.sendto(b"x", a); assert s.recv(64)
`
	return l.run(t, cg, "python3", "-c", functions+script)
}

// work is what the two workloads do.
func (l learner) work(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"http://" + world.GoogleAPIs + "/"}, {"https://" + world.GoogleAPIs + "/"}, {"-6", "https://" + world.API + "/"},
	} {
		if a := l.curl(t, l.web, args...); a.status != 200 {
			t.Errorf("%v: %+v", args, a)
		}
	}
	names := ""
	for i := range 8 {
		names += fmt.Sprintf("%q, ", edge(i))
	}
	for who, e := range map[string]ended{
		"web": l.python(t, l.web, fmt.Sprintf("assert tcp(%q, 3306, socket.AF_INET).recv(9)\ntcp(%q, 443)\ntcp(%q, 80)\nfor n in [%s]: assert tcp(n, 9000, socket.AF_INET).recv(9)\nassert tcp(%q, 9000, socket.AF_INET6).recv(9)",
			world.ExternalDB, world.StrangerV4, world.StrangerV6, names, edge(0))),
		"db": l.python(t, l.db, fmt.Sprintf("udp(%q, 1230)\ntcp(%q, 443)", clockName, world.StrangerV4)),
	} {
		if e.code != 0 {
			t.Errorf("%s: %+v", who, e)
		}
	}
	if a := l.curl(t, l.db, "https://"+world.API2+"/"); a.status != 200 {
		t.Errorf("db: %+v", a)
	}
}

// TestLearnWorkloads: what real processes of two workloads did in audit mode is a policy
// without findings; under that they do the same again and nothing is denied, and what
// was not learned is.
func TestLearnWorkloads(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "python3")
	first := newLearner(t, "", "--mode", "audit", "--allow-empty-policy")
	first.work(t)
	var policy string
	wanted := []string{
		world.GoogleAPIs, world.API, world.API2, world.ExternalDB, `"*.` + edgeDomain + `"`, clockName, "protocol: UDP", "number: 3306",
		"- " + world.StrangerV4, "- " + world.StrangerV6, "kind: Sidecar", "name: learned-web", "name: learned-db",
	}
	eventually(t, soon, "what was done is learned", func() bool {
		e := first.egressd(t, "suggest")
		policy = e.stdout
		for _, w := range wanted {
			if !strings.Contains(strings.ReplaceAll(policy, "'", `"`), w) {
				return false
			}
		}
		return e.code == 0
	})
	if strings.Contains(policy, edge(0)+"\n") || strings.Contains(policy, "not complete") {
		t.Errorf("learned\n%s", policy)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"learned.yaml": policy, "workloads.yaml": first.workloads, "flows.jsonl": first.egressd(t, "flows", "-o", "json").stdout} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if e := first.run(t, nil, egressd, "check", filepath.Join(dir, "learned.yaml"), filepath.Join(dir, "workloads.yaml")); e.code != 0 || e.stdout != "" {
		t.Errorf("check: %+v\n%s", e, policy)
	}
	lines := first.egressd(t, "suggest", "--from", filepath.Join(dir, "flows.jsonl"), "--workloads", filepath.Join(dir, "workloads.yaml")).stdout
	if withoutComments(lines) != withoutComments(policy) {
		t.Errorf("from lines:\n%s\nfrom the daemon:\n%s", lines, policy)
	}
	missing := filepath.Join(dir, "policy")
	if err := os.Mkdir(missing, 0o755); err != nil {
		t.Fatal(err)
	}
	if e := first.egressd(t, "suggest", "--merge", missing); e.code != 1 || !strings.Contains(e.stdout, "+    - "+world.API2) {
		t.Errorf("what is missing in nothing: %+v", e)
	}
	if e := first.egressd(t, "suggest", "--merge", missing, "--write"); e.code != 0 {
		t.Errorf("written: %+v", e)
	}
	if e := first.egressd(t, "suggest", "--merge", missing); e.code != 0 || e.stdout != "" {
		t.Errorf("what was written is missing: %+v", e)
	}

	again := newLearner(t, policy)
	again.work(t)
	// In the order of events, what was denied would stand before this.
	if p := again.probe(t, again.in, "dial", hostPort(world.StrangerV4, 80)); p.Error == "" {
		t.Errorf("a process of no workload: %+v", p)
	}
	eventually(t, soon, "the denial of another process", func() bool {
		return strings.Contains(again.egressd(t, "flows", "--verdict", "deny").stdout, hostPort(world.StrangerV4, 80))
	})
	for line := range strings.Lines(again.egressd(t, "flows", "--verdict", "deny").stdout) {
		if strings.Contains(line, "prod/") {
			t.Errorf("denied after learning: %s\n%s", line, policy)
		}
	}
	for what, e := range map[string]ended{
		"the other's host":    again.python(t, again.web, fmt.Sprintf("udp(%q, 1230)", clockName)),
		"the other's names":   again.python(t, again.db, fmt.Sprintf("tcp(%q, 9000)", edge(1))),
		"the other's address": again.python(t, again.db, fmt.Sprintf("tcp(%q, 80)", world.StrangerV6)),
		"another port":        again.python(t, again.web, fmt.Sprintf("tcp(%q, 80)", world.StrangerV4)),
		"another name":        again.python(t, again.web, fmt.Sprintf("tcp(%q, 443)", world.Stranger)),
	} {
		if e.code == 0 {
			t.Errorf("%s is open:\n%s", what, policy)
		}
	}
}

// withoutComments are the lines that say something.
func withoutComments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestExecLearn: one command lets everything pass and writes the policy; under that it
// does the same again. What is learned later is added.
func TestExecLearn(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	b := newBench(t, hosts("unrelated", world.API2))
	file := filepath.Join(b.Dir(), "policy.yaml")
	learn := func(script string) string {
		t.Helper()
		e := finish(t, b.client(t, nil, egressd, "exec", "--learn", file, "--user", "root", "--state-dir", b.state, "--pin-dir", b.pins, "--", "sh", "-c", script))
		if e.code != 0 {
			t.Fatalf("%+v", e)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	one, two := b.fetch("https://"+world.API), b.fetch("http://"+world.API)+"; "+b.fetch("http://"+world.GoogleAPIs)
	under := func(script string) int {
		t.Helper()
		return finish(t, b.client(t, nil, egressd, "exec", "-q", "--config", file, "--user", "root", "--state-dir", b.state, "--pin-dir", b.pins, "--", "sh", "-c", script)).code
	}
	first := learn(one)
	if under(one) != 0 || under(two) == 0 {
		t.Errorf("under\n%s", first)
	}
	if again := learn(one); again != first {
		t.Errorf("a second time:\n%s\nnot\n%s", again, first)
	}
	if more := learn("set -e; " + two); under("set -e; "+one+"; "+two) != 0 || strings.Count(more, "kind: ServiceEntry") != 2 || !strings.Contains(more, "number: 443") {
		t.Errorf("and more:\n%s", more)
	}
}
