// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent"
	selfprobe "github.com/egressd/egressd/internal/probe"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader/bpffs"
)

const readyPage = "http://127.0.0.1:15021/healthz/ready"

// often are the arguments of a daemon that probes itself often.
var often = []string{"--probe-interval", "200ms"}

// probeStatus is what the daemon's probe of itself sees.
func (n *node) probeStatus(t *testing.T) agent.ProbeStatus {
	t.Helper()
	var s agent.Status
	e := n.egressd(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(e.stdout), &s); err != nil || s.Probe == nil {
		t.Fatalf("egressd status: exit %d, %v: %q %s", e.code, err, e.stdout, e.stderr)
	}
	return *s.Probe
}

// rounds waits for two more rounds of the probe, and returns what they say.
func (n *node) rounds(t *testing.T) agent.ProbeStatus {
	t.Helper()
	before := n.probeStatus(t)
	var now agent.ProbeStatus
	eventually(t, 4*soon, "the daemon probes itself", func() bool {
		now = n.probeStatus(t)
		return now.Rounds >= before.Rounds+2
	})
	return now
}

// isWell fails the test unless every path is answered, by a captured process.
func isWell(t *testing.T, when string, s agent.ProbeStatus) {
	t.Helper()
	if !s.Captured || len(s.Paths) != 6 {
		t.Errorf("%s: %+v", when, s)
	}
	for _, p := range s.Paths {
		if !p.OK || p.LastSuccess.IsZero() || p.Cause != "" {
			t.Errorf("%s: %+v", when, p)
		}
	}
}

// fails waits until the daemon is not ready for some paths, for a cause, and says that.
func (n *node) fails(t *testing.T, when string, cause selfprobe.Cause, text string, which ...string) {
	t.Helper()
	is := regexp.MustCompile(`^(` + strings.Join(which, "|") + `)$`)
	eventually(t, 6*soon, when+": not ready", func() bool {
		a := n.curl(t, nil, readyPage)
		return a.status == 503 && strings.Contains(a.body, text)
	})
	for _, p := range n.probeStatus(t).Paths {
		if name := fmt.Sprintf("%s %s", p.Path, p.Family); is.MatchString(name) == p.OK || !p.OK && p.Cause != cause {
			t.Errorf("%s: %+v, want %s for %v", when, p, cause, which)
		}
	}
	e := n.egressd(t, "status")
	if !strings.Contains(e.stdout, "NO ANSWER") || !strings.Contains(e.stdout, text) {
		t.Errorf("%s: status does not say %q:\n%s", when, text, e.stdout)
	}
	n.logs(t, 0, text)
}

func (n *node) recovers(t *testing.T, when string) {
	t.Helper()
	eventually(t, 4*soon, when+": ready again", func() bool { return n.curl(t, nil, readyPage).status == 200 })
	isWell(t, when, n.rounds(t))
	n.logs(t, 0, "probe of itself succeeds again")
}

// TestProbe: the daemon uses itself as a workload does; nobody sees that in what is
// told of workloads, nothing leaves the node, and it leaves nothing behind.
func TestProbe(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, often...)
	outside := []string{"192.0.2.1", "2001:db8::1"}
	n.noWire(t, func() {
		isWell(t, "started", n.rounds(t))
		before := n.status(t)
		isWell(t, "later", n.rounds(t))
		now := n.status(t)
		if !maps.Equal(before.DNS, now.DNS) || len(now.Denials) > 0 {
			t.Errorf("the probe is counted as a workload's: %v, %v; denials %v", before.DNS, now.DNS, now.Denials)
		}
		if before.Kernel["redirect/dns"] == now.Kernel["redirect/dns"] {
			t.Errorf("the kernel programs see nothing of the probe: %v", now.Kernel)
		}
	}, outside...)
	if flows := n.flows(t); len(flows) > 0 {
		t.Errorf("the probe has flows: %v", flows)
	}
	// Local ports are everybody's: 15001 and 15053 are 3A99 and 3ACD, TIME-WAIT is 06 (proc(5)).
	waits := regexp.MustCompile(`(?m)^.*:(3A99|3ACD) (\S+ )?06 .*$`)
	e := finish(t, n.Node.Command(t.Context(), nil, "cat", "/proc/net/tcp", "/proc/net/tcp6"))
	if left := waits.FindAllString(e.stdout, -1); e.code != 0 || !strings.Contains(e.stdout, ":3A99 ") || len(left) > 0 {
		t.Errorf("exit %d; the probe leaves ports in TIME-WAIT: %v", e.code, left)
	}
	for _, w := range n.status(t).Workloads {
		if w.Name != "node" {
			t.Errorf("the probe is a workload: %+v", w)
		}
	}
	a := n.curl(t, nil, "http://127.0.0.1:15020/metrics")
	for _, path := range []string{"dns-udp", "dns-tcp", "proxy"} {
		for _, family := range []string{"ipv4", "ipv6"} {
			if !strings.Contains(a.body, fmt.Sprintf(`egressd_probe_success{family=%q,path=%q} 1`, family, path)) {
				t.Errorf("no metric for %s over %s", path, family)
			}
		}
	}
	// A policy change, and a restart, keep it.
	n.write(t, "tcp.yaml", tcp("tcp", world.API, "7"))
	eventually(t, soon, "the policy is applied", func() bool { return strings.Count(n.d.Log(), "policy applied") > 1 })
	isWell(t, "another policy", n.rounds(t))
	if err := n.d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	isWell(t, "restarted", n.rounds(t))
	if err := n.d.Terminate(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(n.d.Root.Path(), "egressd-probe")); err == nil {
		t.Error("the probe's cgroup is left")
	}
	if strings.Contains(n.d.Log(), "probe of itself") {
		t.Error("the log speaks of the probe, which is well")
	}
}

// nft runs nft(8) on the node.
func (n *node) nft(t *testing.T, rule ...string) {
	t.Helper()
	testenv.RequireTool(t, "nft")
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	defer cancel()
	if e := finish(t, n.Node.Command(ctx, nil, "nft", strings.Join(rule, " "))); e.code != 0 {
		t.Fatalf("nft %v: %s", rule, e.stderr)
	}
}

// TestProbeFirewall: a firewall in front of egressd's listeners makes it not
// ready, with what to do; the watchdog is told that it is alive all the same, for
// to start it anew would not help.
func TestProbeFirewall(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil, often...)
	m := newManager(t)
	n.d.Prefix = m.prefix(time.Second)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	isWell(t, "started", n.rounds(t))
	n.nft(t, "add table inet wall")
	n.nft(t, "add chain inet wall in { type filter hook input priority 0; }")
	const dropped = "something between workloads and egressd drops it, such as a firewall rule"
	for _, tt := range []struct {
		rule  string
		cause selfprobe.Cause
		text  string
		which []string
	}{
		{"meta nfproto ipv4 udp dport 15053 drop", selfprobe.CauseDropped, dropped, []string{"dns-udp ipv4"}},
		{"meta nfproto ipv6 tcp dport { 15001, 15053 } drop", selfprobe.CauseDropped, dropped, []string{"dns-tcp ipv6", "proxy ipv6"}},
		{"meta l4proto { tcp, udp } th dport { 15001, 15053 } drop", selfprobe.CauseDropped, dropped, []string{".*"}},
		{"tcp dport 15001 reject with tcp reset", selfprobe.CauseRefused, "a firewall rule rejects", []string{"proxy .*"}},
	} {
		n.nft(t, "add rule inet wall in", tt.rule)
		n.fails(t, tt.rule, tt.cause, tt.text, tt.which...)
		told, _ := m.pings()
		n.rounds(t)
		eventually(t, soon, tt.rule+": the watchdog is told that the daemon is alive", func() bool {
			now, _ := m.pings()
			return now > told+1
		})
		n.nft(t, "flush chain inet wall in")
		n.recovers(t, tt.rule)
	}
	// Three rounds in a row and two of them are one line each way for each rule.
	if got := strings.Count(n.d.Log(), "probe of itself fails"); got != 4 {
		t.Errorf("%d lines of failures", got)
	}
}

// TestProbeDetached: when somebody detached the programs and keeps them from being
// put back, workloads are free, and the probe sees it; what it tries then does not
// leave the node.
func TestProbeDetached(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, often...)
	isWell(t, "started", n.rounds(t))
	n.isOpen(t, "attached", n.in, false)
	n.noWire(t, func() {
		pid := n.pid(t) // which asks the daemon
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if _, err := bpffs.Unload(n.d.PinDir() + "/node"); err != nil {
			t.Fatal(err)
		}
		_, detach := testenv.Alone(t, n.d.Root.Path(), "connect4")
		defer detach()
		_, detach = testenv.Alone(t, n.d.Root.Path(), "connect6")
		defer detach()
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		n.isOpen(t, "detached", n.in, true)
		n.fails(t, "detached", selfprobe.CauseHook, "programs of egressd were detached", ".*")
	}, "192.0.2.1", "2001:db8::1")
}

// starve leaves the daemon few descriptors more than it has. At its start it would
// have divided them.
func (n *node) starve(t *testing.T) {
	t.Helper()
	pid := n.pid(t)
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(open)) + 40, Max: was.Max}, nil); err != nil {
		t.Fatal(err)
	}
}

// TestProbeDescriptors: a daemon without descriptors says that it lacks them, to who
// asks at the admin socket, which has one in reserve.
func TestProbeDescriptors(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, often...)
	isWell(t, "started", n.rounds(t))
	n.learn(t, world.GoogleAPIs)
	n.starve(t)
	// Each is waited for 10 s; then there are others.
	crowd := n.client(t, n.in, python(t), "-c", `
import select, socket, sys
while not select.select([sys.stdin], [], [], 0.5)[0]:
    a = [socket.socket() for i in range(200)]
    for s in a:
        s.setblocking(False)
        s.connect_ex((sys.argv[1], 80))
    b = a
`, n.GoogleAPIs.V4.String())
	in, err := crowd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := crowd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 6*soon, "not ready for want of descriptors", func() bool {
		e := n.egressd(t, "status")
		return strings.Contains(n.d.Log(), "probe of itself fails") && strings.Contains(e.stdout, "ready: false") && strings.Contains(e.stdout, "no file descriptors are left")
	})
	_ = in.Close()
	_ = crowd.Wait() // it ends as it was told
	n.recovers(t, "the crowd is gone")
}

// TestProbeStuck: listeners that accept nothing any more are stuck. The daemon is
// not ready, and the watchdog hears nothing: a start anew mends that. strace(1)
// holds each accept4(2).
func TestProbeStuck(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "strace")
	n := prepare(t, seed(t, "googleapis.yaml"), nil, often...)
	m := newManager(t)
	n.d.Prefix = m.prefix(time.Second)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	isWell(t, "started", n.rounds(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	holder := n.Node.Command(ctx, nil, "strace", "-f", "-qq", "-o", os.DevNull, "-e", "trace=accept4", "-e", "inject=accept4:delay_enter=600000000",
		"-p", fmt.Sprint(n.pid(t)))
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	const text = "egressd has it and does not answer: it is stuck"
	const unheard = "a loop of the daemon does not answer"
	eventually(t, 6*soon, "the log says what is stuck", func() bool {
		return strings.Contains(n.d.Log(), text) && strings.Contains(n.d.Log(), unheard) && strings.Contains(n.d.Log(), "and egressd is not ready")
	})
	told, _ := m.pings()
	before := strings.Count(n.d.Log(), unheard)
	eventually(t, 6*soon, "the daemon looks again", func() bool { return strings.Count(n.d.Log(), unheard) > before+2 })
	if now, _ := m.pings(); now != told {
		t.Errorf("the watchdog was told %d times that a stuck daemon is alive", now-told)
	}
	cancel() // strace lets go, and the calls go on
	_ = holder.Wait()
	n.recovers(t, "accepting again")
	eventually(t, soon, "the watchdog is told", func() bool { now, _ := m.pings(); return now > told })
}

// TestProbeUncaptured: where no cgroup can be made (a container with cgroups
// mounted for reading), the daemon tries its listeners itself, and says so. Nobody
// is told of that as of a workload's, either.
func TestProbeUncaptured(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil, often...)
	root, err := world.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	n.d.Prefix = []string{"unshare", "-m", "sh", "-c", `mount --make-rprivate / && mount -o remount,bind,ro ` + root + ` && exec "$@"`, "sh"}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := n.rounds(t)
	if s.Captured || !strings.Contains(s.Uncaptured, "read-only") {
		t.Errorf("%+v", s)
	}
	before := n.status(t)
	s = n.rounds(t)
	for _, p := range s.Paths {
		if !p.OK {
			t.Errorf("%+v", p)
		}
	}
	if now := n.status(t); !maps.Equal(before.DNS, now.DNS) || len(now.Denials) > 0 || len(n.flows(t)) > 0 {
		t.Errorf("the probe is counted as a workload's: %v, %v; denials %v, flows %v", before.DNS, now.DNS, now.Denials, n.flows(t))
	}
	e := n.egressd(t, "status")
	if want := "of the listeners only: make its cgroup:"; !strings.Contains(e.stdout, want) {
		t.Errorf("status does not say %q:\n%s", want, e.stdout)
	}
	if got := strings.Count(n.d.Log(), "cannot probe itself from a captured process"); got != 1 {
		t.Errorf("the log says %d times that the probe is not captured", got)
	}
	n.nft(t, "add table inet wall")
	n.nft(t, "add chain inet wall in { type filter hook input priority 0; }")
	n.nft(t, "add rule inet wall in meta nfproto ipv6 tcp dport 15001 drop")
	n.fails(t, "a firewall", selfprobe.CauseDropped, "a firewall rule", "proxy ipv6")
}

// TestProbeByName: with a cgroup that is captured by its name, which may not even be
// there, the probe is a process all the same; it is beside what is captured.
func TestProbeByName(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil, often...)
	n.d.Capture = []string{"--cgroup", filepath.Join(n.d.Root.Path(), "shop.service")}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	isWell(t, "not there", n.rounds(t))
	shop, err := n.d.Root.Child("shop.service")
	if err != nil {
		t.Fatal(err)
	}
	n.isOpen(t, "shop", shop, false)
	n.isOpen(t, "beside it", n.in, true)
	isWell(t, "there", n.rounds(t))
	if err := shop.Close(); err != nil {
		t.Error(err)
	}
	isWell(t, "gone", n.rounds(t))
	// A round finds its cgroup removed, and makes another one.
	probes := filepath.Join(n.d.Root.Path(), "egressd-probe")
	eventually(t, soon, "the probe's cgroup is removed", func() bool { return os.Remove(probes) == nil })
	isWell(t, "its cgroup was removed", n.rounds(t))
}
