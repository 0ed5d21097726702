// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

const (
	// clientTimeout bounds one client process.
	clientTimeout = 40 * time.Second
	// soon bounds what the daemon does after something happened; every is how
	// often a test looks.
	soon  = 5 * time.Second
	every = 10 * time.Millisecond
)

// node is a little internet with egressd running on its node.
type node struct {
	*world.World
	d *world.Daemon
	// in is captured. Clients with a nil cgroup are not: the twin of every
	// denial.
	in *world.Cgroup
}

// start builds a world and runs egressd with the policy in it. change, which
// may be nil, alters the world before the start.
func start(t *testing.T, config map[string]string, change func(*world.World), args ...string) *node {
	t.Helper()
	n := prepare(t, config, change, args...)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// prepare is start without starting. "{dir}" in the policy and in args is the
// world's directory.
func prepare(t *testing.T, config map[string]string, change func(*world.World), args ...string) *node {
	t.Helper()
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	n := &node{World: testenv.World(t)}
	if change != nil {
		change(n.World)
	}
	files := map[string][]byte{}
	for name, text := range config {
		files[name] = []byte(strings.ReplaceAll(text, "{dir}", n.Dir()))
	}
	args = slices.Clone(args)
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "{dir}", n.Dir())
	}
	var err error
	if n.d, err = n.NewDaemon(egressd, files, args...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", n.d.Log())
		}
		if err := n.d.Stop(); err != nil {
			t.Errorf("stopping egressd: %v", err)
		}
	})
	if n.in, err = n.d.Root.Child("workload"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.in.Close(); err != nil {
			t.Errorf("removing the workload: %v", err)
		}
	})
	return n
}

// seed reads files of the seed policy.
func seed(t *testing.T, names ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join("../../examples/seed", name))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(b)
	}
	return out
}

// ended is how a client process ended.
type ended struct {
	code           int
	stdout, stderr string
}

// client prepares a client process; cg nil: not captured.
func (n *node) client(t *testing.T, cg *world.Cgroup, name string, args ...string) *world.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	t.Cleanup(cancel)
	c := n.Client(ctx, cg, name, args...)
	c.Env = append(os.Environ(), "SSL_CERT_FILE="+n.CAFile(), "NODE_EXTRA_CA_CERTS="+n.CAFile(),
		"http_proxy=", "https_proxy=", "HTTP_PROXY=", "HTTPS_PROXY=", "no_proxy=*",
		"SUDO_USER=") // the tests may run by sudo, and exec asks
	return c
}

// finish runs a process that must at least start.
func finish(t *testing.T, c *world.Cmd) ended {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", c.Args, err)
	}
	return ended{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (n *node) run(t *testing.T, cg *world.Cgroup, name string, args ...string) ended {
	t.Helper()
	return finish(t, n.client(t, cg, name, args...))
}

// answer is what curl got.
type answer struct {
	exit     int // curl's exit code
	status   int
	body     string
	location string
	took     time.Duration
	stderr   string
}

// curlReport is what curl writes behind the body.
const curlReport = "\n%{http_code}\n%{redirect_url}\n%{time_total}"

// curl's exit codes that tests look at (curl(1)).
const (
	curlResolve = 6
	curlConnect = 7
	curlTLS     = 35
	curlEmpty   = 52
	curlRecv    = 56
)

func (n *node) curl(t *testing.T, cg *world.Cgroup, args ...string) answer {
	t.Helper()
	testenv.RequireTool(t, "curl")
	args = append([]string{"-q", "-sS", "--noproxy", "*", "--cacert", n.CAFile(), "--max-time", "30", "-w", curlReport}, args...)
	e := n.run(t, cg, "curl", args...)
	lines := strings.Split(e.stdout, "\n")
	if len(lines) < 4 {
		t.Fatalf("curl %v reported %q %s", args, e.stdout, e.stderr)
	}
	a := answer{exit: e.code, stderr: strings.TrimSpace(e.stderr), location: lines[len(lines)-2]}
	a.body = strings.Join(lines[:len(lines)-3], "\n")
	if err := json.Unmarshal([]byte(strings.TrimLeft(lines[len(lines)-3], "0")+" "), &a.status); err != nil {
		a.status = 0 // "000"
	}
	seconds, err := time.ParseDuration(lines[len(lines)-1] + "s")
	if err != nil {
		t.Fatalf("curl's report %q: %v", e.stdout, err)
	}
	a.took = seconds
	return a
}

// probed is what the static client says.
type probed struct {
	Error  string        `json:"error"`
	Errno  syscall.Errno `json:"errno"`
	Status int           `json:"status"`
	Text   string        `json:"text"`
	Peer   string        `json:"peer"`
	Rcode  string        `json:"rcode"`
	EDE    int           `json:"ede"`
	Addrs  []string      `json:"addrs"`
}

func (n *node) probe(t *testing.T, cg *world.Cgroup, args ...string) probed {
	t.Helper()
	return n.probeWith(t, cg, nil, args...)
}

func (n *node) probeWith(t *testing.T, cg *world.Cgroup, stdin io.Reader, args ...string) probed {
	t.Helper()
	c := n.client(t, cg, probe, args...)
	c.Stdin = stdin
	e := finish(t, c)
	var p probed
	if err := json.Unmarshal([]byte(e.stdout), &p); err != nil {
		t.Fatalf("probe %v: %v: %q %s", args, err, e.stdout, e.stderr)
	}
	return p
}

// learn makes the workload resolve a name, as every client does before it
// connects.
func (n *node) learn(t *testing.T, names ...string) {
	t.Helper()
	n.learnIn(t, n.in, names...)
}

func (n *node) learnIn(t *testing.T, cg *world.Cgroup, names ...string) {
	t.Helper()
	for _, name := range names {
		if p := n.probe(t, cg, "lookup", name); len(p.Addrs) == 0 {
			t.Fatalf("%s: %s", name, p.Error)
		}
	}
}

// egressd runs another command of the binary, outside the captured cgroup.
func (n *node) egressd(t *testing.T, args ...string) ended {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	t.Cleanup(cancel)
	return finish(t, n.d.Command(ctx, append(args, "--state-dir", n.d.StateDir())...))
}

// state is the part of `egressd status -o json` that tests look at.
type state struct {
	Version string
	PID     int
	Capture struct {
		Held, ByName      bool
		Cgroups           map[string]bool
		UnknownPods       []string
		UnknownContainers map[string]string
	}
	Kernel   map[string]uint64
	Programs map[string]uint32
	Ready    bool
	Policy   struct {
		Hash, Error string
		Services    int
	}
	Denials,
	DNS map[string]uint64
	Workloads   []struct{ Name, Mode string }
	Connections struct{ Open int }
	Gateway     []string
	Memory      struct{ Tables, Limit, Used uint64 }
}

func (n *node) status(t *testing.T) state {
	t.Helper()
	e := n.egressd(t, "status", "-o", "json")
	var s state
	if err := json.Unmarshal([]byte(e.stdout), &s); err != nil || e.code != 0 {
		t.Fatalf("egressd status: exit %d, %v: %q %s", e.code, err, e.stdout, e.stderr)
	}
	return s
}

func (n *node) flows(t *testing.T, args ...string) []flow.Event {
	t.Helper()
	e := n.egressd(t, append([]string{"flows", "-o", "json"}, args...)...)
	if e.code != 0 {
		t.Fatalf("egressd flows: exit %d: %s", e.code, e.stderr)
	}
	var all []flow.Event
	for dec := json.NewDecoder(strings.NewReader(e.stdout)); ; {
		var ev flow.Event
		if err := dec.Decode(&ev); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("egressd flows: %v in %s", err, e.stdout)
		}
		all = append(all, ev)
	}
}

// event waits for an event.
func (n *node) event(t *testing.T, what string, match func(flow.Event) bool) flow.Event {
	t.Helper()
	var found flow.Event
	eventually(t, soon, "an event: "+what, func() bool {
		for _, e := range n.flows(t) {
			if match(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// eventually polls until done or the time is over, and says how long it took.
func eventually(t *testing.T, limit time.Duration, what string, done func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !done() {
		if time.Since(begin) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
	return time.Since(begin)
}

// write puts a file into the policy at once, as editors and kubelets do.
func (n *node) write(t *testing.T, name, text string) {
	t.Helper()
	tmp := filepath.Join(n.Dir(), name+".new")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(n.d.ConfigDir(), name)); err != nil {
		t.Fatal(err)
	}
}

// noWire fails the test if packets to an address left the node while f ran.
func (n *node) noWire(t *testing.T, f func(), addrs ...string) {
	t.Helper()
	before := n.packets(addrs)
	f()
	if leaked := n.packets(addrs) - before; leaked > 0 {
		t.Errorf("%d packets to %v left the node", leaked, addrs)
	}
}

// packets is how many went to addresses.
func (n *node) packets(addrs []string) (sum int) {
	for _, a := range addrs {
		sum += n.Packets(netip.MustParseAddr(a))
	}
	return sum
}

// quiet waits until nothing goes to addresses any more: the end of a connection that was
// free is no leak of what comes next.
func (n *node) quiet(t *testing.T, addrs ...string) {
	t.Helper()
	last, same := -1, 0
	eventually(t, soon, "the last packet of connections that have ended", func() bool {
		now := n.packets(addrs)
		if now != last {
			last, same = now, 0
		}
		same++
		return same > 10
	})
}

// python is a Python without the indirections of version managers.
func python(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		return "/usr/bin/python3"
	}
	testenv.RequireTool(t, "python3")
	return "python3"
}

// script is a file of testdata as an absolute path.
func script(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// hostPort joins an address and a port.
func hostPort(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

// stopwatch tells the time since it was made.
func stopwatch() func() time.Duration {
	begin := time.Now()
	return func() time.Duration { return time.Since(begin) }
}
