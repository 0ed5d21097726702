// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// impatient is how long commands wait for a daemon that does not answer.
var impatient = []string{"--timeout", "300ms"}

// unloaded runs unload.
func (n *node) unloaded(t *testing.T, args ...string) ended {
	t.Helper()
	return n.egressd(t, append([]string{"unload", "--pin-dir", n.d.PinDir()}, args...)...)
}

// TestStopped: a daemon that is stopped (SIGSTOP) holds no command for long, each
// says whom to look at and what traffic does; unload opens at once. When it goes
// on by itself nothing is told of it.
func TestStopped(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil, often...)
	m := newManager(t)
	n.d.Prefix = m.prefix(2 * time.Second)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	isWell(t, "started", n.rounds(t))
	pid := n.pid(t)
	stop := func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	stop(syscall.SIGSTOP)
	for _, verb := range [][]string{{"status"}, {"flows"}, {"flows", "-f"}, {"suggest"}, {"explain", "a.example:80"}} {
		took := stopwatch()
		e := n.egressd(t, append(verb, impatient...)...)
		if e.code != 1 || took() > 3*time.Second {
			t.Errorf("%v: exit %d after %s", verb, e.code, took())
		}
		for _, want := range []string{fmt.Sprintf("(pid %d) does not answer", pid), "within 300ms", "DNS and proxied connections may get no answer", fmt.Sprintf("kill -9 %d", pid), "egressd unload"} {
			if !strings.Contains(e.stderr, want) {
				t.Errorf("%v does not say %q: %s", verb, want, e.stderr)
			}
		}
	}
	n.isOpen(t, "stopped", n.in, false)
	// Longer than a round may take.
	time.Sleep(6 * time.Second)
	before, _ := m.pings()
	stop(syscall.SIGCONT)
	isWell(t, "goes on", n.rounds(t))
	eventually(t, soon, "the watchdog is told again", func() bool {
		now, _ := m.pings()
		return now > before
	})
	if a := n.curl(t, nil, readyPage); a.status != 200 || strings.Contains(n.d.Log(), "probe of itself fails") {
		t.Errorf("after it was stopped: %+v", a)
	}

	stop(syscall.SIGSTOP)
	e := n.unloaded(t, impatient...)
	if want := fmt.Sprintf("the daemon (pid %d) still runs", pid); e.code != 1 || !strings.Contains(e.stderr, want) || strings.Contains(e.stdout, "nothing of egressd") {
		t.Errorf("unload: %+v, want %q", e, want)
	}
	n.isOpen(t, "unloaded", n.in, true)
	if p := n.probe(t, n.in, "dns", "udp", hostPort(world.OtherResolverV4, 53), world.Stranger, "A"); p.Rcode != "NOERROR" {
		t.Errorf("unloaded: DNS: %+v", p)
	}
	if p := n.probe(t, n.in, "dns", "tcp", hostPort(world.OtherResolverV6, 53), world.Stranger, "A"); p.Rcode != "NOERROR" {
		t.Errorf("unloaded: DNS: %+v", p)
	}
	testenv.NoPins(t, n.d.PinDir())
	stop(syscall.SIGCONT)
	eventually(t, 4*soon, "it hears that it was unloaded, and ends", func() bool { return syscall.Kill(pid, 0) != nil })
	n.isOpen(t, "it goes on", n.in, true)
}

// TestUnloadWhileBusy: traffic is open when unload says so, although the daemon
// lets what is under way end.
func TestUnloadWhileBusy(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, "--drain-time", "20s")
	n.learn(t, world.GoogleAPIs)
	c := n.client(t, n.in, python(t), "-uc", `
import socket, sys
s = socket.create_connection((sys.argv[1], 80))
s.sendall(b"GET / HTTP/1.1\r\nHost: "+sys.argv[1].encode()+b"\r\nContent-Length: 10\r\n\r\n123")
print("sent")
sys.stdin.read()
`, world.GoogleAPIs)
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
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "sent\n" {
		t.Fatalf("%q, %v", line, err)
	}
	eventually(t, soon, "the connection is open", func() bool { return n.status(t).Connections.Open == 1 })
	u := n.d.Command(t.Context(), "unload", "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir())
	told, err := u.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	if line, err := bufio.NewReader(told).ReadString('\n'); err != nil || !strings.Contains(line, "all traffic is open") {
		t.Errorf("unload says %q, %v", line, err)
	}
	go func() { ended <- u.Wait() }()
	n.isOpen(t, "it drains", n.in, true)
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("it drains: %+v", a)
	}
	if p := n.probe(t, n.in, "dns", "tcp", hostPort(world.ResolverV6, 53), world.Stranger, "A"); p.Rcode != "NOERROR" {
		t.Errorf("it drains: DNS: %+v", p)
	}
	select {
	case err := <-ended:
		t.Errorf("unload did not wait for the daemon: %v", err)
	default:
	}
	_ = in.Close()
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("unload: %v", err)
	}
}

// TestUnloadFindsDaemon: a daemon that cannot be asked is found by its lock, named,
// and left alone: it would put back what is removed.
func TestUnloadFindsDaemon(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, n *node) (stateDir string){
		"another state directory": func(t *testing.T, _ *node) string { return filepath.Join(t.TempDir(), "run") },
		"state directory removed": func(t *testing.T, n *node) string {
			if err := os.RemoveAll(n.d.StateDir()); err != nil {
				t.Fatal(err)
			}
			return n.d.StateDir()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t, seed(t, "googleapis.yaml"), nil)
			pid := n.pid(t)
			n.isOpen(t, "before", n.in, false)
			e := finish(t, n.d.Command(t.Context(), "unload", "--pin-dir", n.d.PinDir(), "--state-dir", lose(t, n)))
			if want := fmt.Sprintf("a daemon (pid %d) runs and cannot be told to unload", pid); e.code != 1 || e.stdout != "" || !strings.Contains(e.stderr, want) ||
				!strings.Contains(e.stderr, fmt.Sprintf("kill %d", pid)) {
				t.Errorf("%+v, want %q", e, want)
			}
			n.isOpen(t, "after", n.in, false)
			if err := n.d.Terminate(); err != nil {
				t.Error(err)
			}
			if e := n.unloaded(t); e.code != 0 || !strings.HasPrefix(e.stdout, "unloaded: nothing of egressd ") || strings.Contains(e.stdout, n.d.Root.Path()) {
				t.Errorf("again: %+v", e)
			}
		})
	}
}

// TestUnloadTellsOfExec: the command of an exec that runs stays under its policy, and
// that is said.
func TestUnloadTellsOfExec(t *testing.T) {
	t.Parallel()
	b := newBench(t, hosts("google", world.GoogleAPIs))
	dial := probe + " dial " + hostPort(world.StrangerV4, 443) + "; "
	c := b.command(t, nil, shell(dial+"echo; read line; "+dial+"exit 0")...)
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
	line := func() string {
		t.Helper()
		s, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if before := line(); !strings.Contains(before, "refused") {
		t.Errorf("before: %s", before)
	}
	for line() != "\n" {
	}
	e := b.run(t, nil, egressd, "unload", "--state-dir", b.state, "--pin-dir", b.pins)
	if want := fmt.Sprintf(`an "egressd exec" (pid %d) runs, and the policy of its command stays in force`, c.Process.Pid); e.code != 1 || !strings.Contains(e.stderr, want) {
		t.Errorf("unload: %+v, want %q", e, want)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if after := line(); !strings.Contains(after, "refused") {
		t.Errorf("after: %s", after)
	}
	_ = in.Close()
	_, _ = lines.ReadString(0) // to its end
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// TestUnloadWithoutPins: that the pins are gone does not mean that nothing is in the
// kernel, and unload does not say so.
func TestUnloadWithoutPins(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	n.signal(t, syscall.SIGSTOP) // it would pin again
	for _, dir := range []string{n.d.PinDir(), n.d.StateDir()} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	n.isOpen(t, "without pins", n.in, false)
	e := n.unloaded(t)
	if !strings.Contains(e.stdout, "programs of an egressd are attached to") || !strings.Contains(e.stdout, n.d.Root.Path()) {
		t.Errorf("unload: %+v", e)
	}
	n.isOpen(t, "unloaded", n.in, false)
	_ = n.d.Kill() // says that it was killed
	n.isOpen(t, "ended", n.in, true)
	if e := n.unloaded(t); strings.Contains(e.stdout, n.d.Root.Path()) {
		t.Errorf("nothing is left: %+v", e)
	}
}

// TestUnloadStays: with --stay unload removes everything, and goes on until it is told
// to end.
func TestUnloadStays(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	n.isOpen(t, "captured", n.in, false)
	c := n.Net.Command(t.Context(), nil, egressd, "unload", "--stay", "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir())
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	said, err := bufio.NewReader(out).ReadString('\n')
	go func() { ended <- c.Wait() }()
	if err != nil || !strings.HasPrefix(said, "unloaded: ") {
		t.Errorf("%q, %v", said, err)
	}
	n.isOpen(t, "unloaded", n.in, true)
	select {
	case err := <-ended:
		t.Fatalf("it ended by itself: %v", err)
	default:
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
