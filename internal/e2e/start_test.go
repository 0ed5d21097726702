// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// way is how a workload may try to get out.
type way struct{ name, addr, run string }

func ways() []way {
	return []way{
		{"TCP", world.StrangerV4, probe + " dial " + hostPort(world.StrangerV4, 443)},
		{"TCP over IPv6", world.StrangerV6, probe + " dial " + hostPort(world.StrangerV6, 443)},
		{"UDP", world.StrangerV4, "timeout 1 " + probe + " udp " + hostPort(world.StrangerV4, 9) + " x"},
		{"UDP over IPv6", world.StrangerV6, "timeout 1 " + probe + " udp " + hostPort(world.StrangerV6, 9) + " x"},
		{"a raw socket", world.StrangerV4, raw("AF_INET", "8, 0, 0xf7ff, 0, 0", world.StrangerV4)},
		{"a raw socket, IPv6", world.StrangerV6, raw("AF_INET6", "128, 0, 0, 0, 0", world.StrangerV6)},
	}
}

// raw sends an echo request by a raw socket; the kernel fills in ICMPv6's checksum.
func raw(family, head, addr string) string {
	return `python3 -c 'import socket,struct
s=socket.socket(socket.` + family + `, socket.SOCK_RAW, 1 if "` + family + `"=="AF_INET" else 58)
s.sendto(struct.pack("!BBHHH", ` + head + `), ("` + addr + `", 0))'`
}

// getsOut lists the ways by which packets of a workload leave the node.
func (n *node) getsOut(t *testing.T) (out []string) {
	t.Helper()
	for _, w := range ways() {
		addr := netip.MustParseAddr(w.addr)
		before := n.Packets(addr)
		n.run(t, n.in, "sh", "-c", w.run)
		if n.Packets(addr) > before {
			out = append(out, w.name)
		}
	}
	return out
}

// wholly fails the test unless all ways are open, or all shut.
func (n *node) wholly(t *testing.T, when string, open bool) {
	t.Helper()
	want := 0
	if open {
		want = len(ways())
	}
	if out := n.getsOut(t); len(out) != want {
		t.Errorf("%s: what gets out is %v, want all open: %t", when, out, open)
	}
}

// startFails starts the daemon, which must end with the exit code and say the
// texts in its log.
func (n *node) startFails(t *testing.T, code string, says ...string) {
	t.Helper()
	from := len(n.d.Log())
	err := n.d.Start(t.Context())
	if err == nil {
		t.Fatal("egressd starts")
	}
	if !strings.Contains(err.Error(), "exit status "+code+"\n") {
		t.Errorf("%v, want exit status %s", err, code)
	}
	log := n.d.Log()[from:]
	for _, s := range says {
		if !strings.Contains(log, s) {
			t.Errorf("the log does not say %q:\n%s", s, log)
		}
	}
}

// left lists what starts make and this node has.
func (n *node) left(t *testing.T) (out []string) {
	t.Helper()
	for _, dir := range []string{n.d.StateDir(), n.d.PinDir(), filepath.Join(n.d.Root.Path(), "egressd")} {
		if found, err := os.ReadDir(dir); err == nil {
			for _, e := range found {
				out = append(out, filepath.Join(dir, e.Name()))
			}
		}
	}
	e := finish(t, n.Node.Command(t.Context(), nil, "ip", "addr", "show", "dev", "lo"))
	for line := range strings.Lines(e.stdout) {
		if strings.Contains(line, "169.254.255.15") || strings.Contains(line, "fd65:6772:6573:73:") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// What the log of a failed start says of traffic.
const (
	saysOpen   = `traffic="all traffic is open"`
	saysLocked = `traffic="everything is denied since a start failed`
	saysHeld   = `traffic="the policy of the last run stays in force`
)

// TestFailedFirstStart: a first start that fails half-way leaves all traffic open, as
// it was, and nothing else.
func TestFailedFirstStart(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{"policy.yaml": tcp("tcp", world.API, "7")}, nil)
	n.wholly(t, "before", true)
	before := n.left(t)
	check := func(when string) {
		t.Helper()
		n.wholly(t, when, true)
		if left := n.left(t); !slices.Equal(left, before) {
			t.Errorf("%s: left: %v", when, left)
		}
	}
	for _, hook := range []string{"sock_ops", "skb_egress", "bind6", "sock_create", "sendmsg4", "connect4", "connect6"} {
		_, detach := testenv.Alone(t, n.d.Root.Path(), hook)
		n.startFails(t, "3", saysOpen, "--on-failure lock", "alone", "detach it")
		detach()
		check("a foreign program at " + hook)
	}
	pins := filepath.Join(n.d.PinDir(), "node")
	for _, name := range []string{"egd_events", "link_egd_peername6"} {
		taken := filepath.Join(pins, name)
		if err := os.MkdirAll(taken, 0o700); err != nil {
			t.Fatal(err)
		}
		n.startFails(t, "3", saysOpen, name)
		for _, dir := range []string{taken, pins, n.d.PinDir()} {
			if err := os.Remove(dir); err != nil {
				t.Errorf("%v; there are %v", err, n.left(t))
			}
		}
		check("a taken name: " + name)
	}
	n.write(t, "policy.yaml", "kind: ServiceEntry\n")
	n.startFails(t, "3", saysOpen, "the policy has errors")
	check("a broken policy")
	n.write(t, "policy.yaml", tcp("tcp", world.API, "7"))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wholly(t, "the start that succeeds", false)

	// From here on a start that fails is a restart.
	_ = n.d.Kill() // the error says that it was killed
	if err := os.Mkdir(filepath.Join(pins, "new_egd_addrs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(pins, "new_egd_addrs", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.startFails(t, "4", saysHeld)
	n.wholly(t, "a restart that fails", false)
	for _, dir := range []string{"new_egd_addrs/x", "new_egd_addrs"} {
		if err := os.Remove(filepath.Join(pins, dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wholly(t, "the restart that succeeds", false)
}

// TestFailedStartInside: a first start that fails inside of what it captures leaves
// no cgroup of its own.
func TestFailedStartInside(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{"policy.yaml": tcp("tcp", world.API, "7")}, nil)
	_, detach := testenv.Alone(t, n.d.Root.Path(), "connect6")
	e := n.run(t, n.d.Root, egressd, "run", "--config", n.d.ConfigDir(), "--cgroup", n.d.Root.Path(), "--state-dir", n.d.StateDir(),
		"--pin-dir", n.d.PinDir(), "--dns-server", world.ResolverV4, "--status-address", "localhost:0", "--health-address", "localhost:0")
	detach()
	if e.code != 3 || !strings.Contains(e.stderr, saysOpen) || !strings.Contains(e.stderr, "detach it") {
		t.Errorf("%+v", e)
	}
	for _, dir := range []string{n.d.Root.Path(), n.in.Path()} {
		if _, err := os.Stat(filepath.Join(dir, "egressd")); !os.IsNotExist(err) {
			t.Errorf("egressd's own cgroup is left in %s: %v", dir, err)
		}
	}
	if left := n.left(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	n.wholly(t, "after it", true)
}

// TestLockOnFailure: with --on-failure lock nothing gets out after a first start that
// failed, until one succeeds, or unload.
func TestLockOnFailure(t *testing.T) {
	t.Parallel()
	good := tcp("tcp", world.API, "7")
	n := prepare(t, map[string]string{"policy.yaml": "kind: ServiceEntry\n"}, nil, "--on-failure", "lock")
	n.wholly(t, "before", true)
	n.startFails(t, "4", saysLocked, "the policy has errors", "egressd unload")
	n.wholly(t, "locked", false)
	if p := n.probe(t, n.in, "dial", n.Echo.Addr.String()); p.Error == "" {
		t.Error("locked: what the policy would allow is open")
	}
	if p := n.probe(t, nil, "dial", hostPort(world.StrangerV4, 443)); p.Error != "" {
		t.Errorf("beside the captured cgroup: %+v", p)
	}
	n.loopback(t)
	n.startFails(t, "4", saysLocked)
	n.wholly(t, "locked twice", false)
	n.write(t, "policy.yaml", good)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.API)
	if p := n.probe(t, n.in, "dial", n.Echo.Addr.String()); p.Error != "" {
		t.Errorf("the start that succeeds: %+v", p)
	}
	n.wholly(t, "the start that succeeds", false)
	_ = n.d.Kill() // the error says that it was killed
	if err := os.Remove(filepath.Join(n.d.StateDir(), "last-good.json")); err != nil {
		t.Fatal(err)
	}
	n.write(t, "policy.yaml", "kind: ServiceEntry\n")
	n.startFails(t, "4", saysHeld)
	if p := n.probe(t, n.in, "dial", n.Echo.Addr.String()); p.Error != "" {
		t.Errorf("a restart that fails locks what the last run allowed: %+v", p)
	}
	if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
		t.Fatalf("%+v", e)
	}
	n.wholly(t, "unloaded", true)
	n.startFails(t, "4", saysLocked)
	n.wholly(t, "locked after unload", false)
	if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
		t.Fatalf("%+v", e)
	}
	n.wholly(t, "unloaded again", true)
	if left := n.left(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestNoDNSServer: a first start without a DNS server says what that means, and locks
// where that is wanted.
func TestNoDNSServer(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "unshare")
	n := prepare(t, map[string]string{"policy.yaml": tcp("tcp", world.API, "7")}, nil)
	// The last two words name the server that this world has.
	const bare = `mount --bind /dev/null /etc/resolv.conf || exit 99
n=$(($# - 2)); for a; do [ $n -gt 0 ] && set -- "$@" "$a"; n=$((n - 1)); shift; done; exec "$@" `
	for flags, code := range map[string]string{"--on-failure open": "3", "--on-failure lock": "4"} {
		n.d.Prefix = []string{"unshare", "--mount", "sh", "-c", bare + flags, "sh"}
		says := map[string]string{"3": saysOpen, "4": saysLocked}[code]
		n.startFails(t, code, says, "no DNS server", "--dns-server")
		n.wholly(t, flags, code == "3")
		if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
			t.Errorf("%+v", e)
		}
	}
	n.d.Prefix = nil
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wholly(t, "with a DNS server", false)
}

// loopback checks that a captured process reaches a server of its own.
func (n *node) loopback(t *testing.T) {
	t.Helper()
	for _, addr := range []string{"127.0.0.1", "::1"} {
		e := n.run(t, n.in, "sh", "-c", "python3 -c 'import socket,sys\n"+
			"f=socket.AF_INET6 if \":\" in sys.argv[1] else socket.AF_INET\n"+
			"s=socket.socket(f); s.bind((sys.argv[1],0)); s.listen()\n"+
			"c=socket.socket(f); c.connect(s.getsockname())' "+addr)
		if e.code != 0 {
			t.Errorf("loopback %s: %+v", addr, e)
		}
	}
}

// TestSlowPolicyFile: a policy file that is written in two halves is not in force in
// halves; one that becomes empty does not take the policy away.
func TestSlowPolicyFile(t *testing.T) {
	t.Parallel()
	first, second := tcp("first", world.API, "7"), tcp("second", world.GoogleAPIs, "443")
	n := start(t, map[string]string{"policy.yaml": first + second}, nil)
	file := filepath.Join(n.d.ConfigDir(), "policy.yaml")
	was := n.status(t).Policy
	for _, keep := range []bool{true, false} { // the file open during the pause
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		write := func(text string) {
			t.Helper()
			if _, err := f.WriteString(text); err != nil {
				t.Fatal(err)
			}
		}
		write(first)
		if !keep {
			f.Close()
		}
		for end := time.Now().Add(600 * time.Millisecond); time.Now().Before(end); time.Sleep(every) {
			if p := n.status(t).Policy; p.Services != was.Services {
				t.Fatalf("half of the file is in force: %+v", p)
			}
		}
		if !keep {
			if f, err = os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0); err != nil {
				t.Fatal(err)
			}
		}
		write(second + tcp("third", world.API2, "443"))
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, soon, "the whole file is in force", func() bool { return n.status(t).Policy.Services == 3 })
		n.write(t, "policy.yaml", first+second)
		eventually(t, soon, "it is as before", func() bool { return n.status(t).Policy.Services == 2 })
	}
	was = n.status(t).Policy
	for _, text := range []string{"", "# nothing\n", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n"} {
		n.write(t, "policy.yaml", text)
		eventually(t, soon, "the status says that the files are empty", func() bool {
			return strings.Contains(n.status(t).Policy.Error, "no policy objects")
		})
		if p := n.status(t).Policy; p.Hash != was.Hash || p.Services != 2 {
			t.Errorf("%q: %+v, was %+v", text, p, was)
		}
		n.write(t, "policy.yaml", first+second)
		eventually(t, soon, "it is good again", func() bool { return n.status(t).Policy.Error == "" })
	}
}
