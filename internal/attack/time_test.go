// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// sysctl sets a value in the calling thread's namespaces.
func sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
}

// client is an attacker that holds something and goes on when it is told.
type client struct {
	in  io.WriteCloser
	out *bufio.Reader
	end func()
}

// start runs an attacker until it says its first line.
func (a *arena) start(cg *world.Cgroup, args ...string) *client {
	a.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.t.Context()))
	c := a.command(ctx, cg, args...)
	in, err := c.StdinPipe()
	a.must(err)
	out, err := c.StdoutPipe()
	a.must(err)
	c.Stderr = os.Stderr
	a.must(c.Start())
	h := &client{in: in, out: bufio.NewReader(out)}
	h.end = func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, h.out)
		_ = c.Wait() // how it ends says nothing
		cancel()
	}
	a.t.Cleanup(h.end)
	if got := h.line(); got != "open" && got != "ready" {
		a.t.Fatalf("%v: %q", args, got)
	}
	return h
}

func (c *client) line() string {
	got, err := c.out.ReadString('\n')
	if err != nil {
		return "ended"
	}
	return strings.TrimSpace(got)
}

// again lets the attacker try once more.
func (c *client) again() string {
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		return "ended"
	}
	return c.line()
}

// held is something that is open when the world changes.
type held struct {
	row
	args           []string
	captured, twin *client
	// in is who holds it; nil: the attacker.
	in func(*arena) *world.Cgroup
}

// hold opens connections, captured and not, and sees that they work.
func (a *arena) hold(all []held) {
	a.t.Helper()
	for i := range all {
		h := &all[i]
		in := a.in
		if h.in != nil {
			in = h.in(a)
		}
		h.captured = a.start(in, append([]string{"ways", "hold"}, h.args...)...)
		h.twin = a.start(nil, append([]string{"ways", "hold"}, h.args...)...)
		for _, c := range []*client{h.captured, h.twin} {
			if got := c.again(); got != "answered" {
				a.t.Fatalf("%v: %q before anything happened", h.args, got)
			}
		}
	}
}

// used runs the rows of what was held: one more try.
func (a *arena) used(t *testing.T, all []held) {
	for _, h := range all {
		r := h.row
		r.seen = is("answered")
		r.do = func(_ *arena, cg *world.Cgroup) string {
			if cg == nil {
				return h.twin.again()
			}
			return h.captured.again()
		}
		t.Run(r.attack+"/"+r.how, func(t *testing.T) { a.run(t, r) })
	}
}

const ended = "ECONNABORTED|ECONNRESET|EPIPE|closed|ended"

// earlierRows are open before egressd starts.
var earlierRows = []held{
	{row: row{attack: "open before egressd", how: "a TCP connection to the stranger", want: ended, by: "the start: SOCK_DESTROY"}, args: []string{"tcp", "{A4}", "80", "stranger.example"}},
	{row: row{attack: "open before egressd", how: "the same, IPv6", want: ended, by: "the start: SOCK_DESTROY"}, args: []string{"tcp", "{A6}", "80", "stranger.example"}},
	{row: row{attack: "open before egressd", how: "a UDP socket connected to the stranger", want: "EDESTADDRREQ", by: "the start: SOCK_DESTROY"}, args: []string{"udp", "{A4}", "443"}},
	{row: row{attack: "open before egressd", how: "a UDP socket that is not connected", want: "EPERM", by: bySendmsg}, args: []string{"unconnected", "{A4}", "443"}},
	{row: row{attack: "open before egressd", how: "a raw socket", want: "EPERM", by: "the start: the socket is silenced"}, args: []string{"raw", "{A4}", "0"}},
	{row: row{attack: "open before egressd", how: "a ping socket", want: "EPERM", by: "the start: the socket is silenced"}, args: []string{"ping", "{A4}", "0"}},
}

// earlier opens connections, starts the daemon and tries them again.
func (a *arena) earlier(t *testing.T, start func() error) error {
	a.hold(earlierRows)
	if err := start(); err != nil {
		return err
	}
	a.used(t, earlierRows)
	a.t = t
	return nil
}

// modes is the configuration of two workloads with a mode of their own.
func modes(audited, freed string) []byte {
	var out strings.Builder
	for _, w := range [][2]string{{"audited", audited}, {"freed", freed}} {
		fmt.Fprintf(&out, "apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: %s, namespace: %s}\nspec: {cgroups: [\"egd-*-captured-*/%s\"], mode: %s}\n---\n",
			w[0], w[0], w[0], w[1])
	}
	return []byte(out.String())
}

// modeRows are open when their workload's mode becomes enforce.
func modeRows(mode string) []held {
	in, all := func(a *arena) *world.Cgroup { return a.audited }, row{attack: "audit, then enforce"}
	if mode == "off" {
		in, all = func(a *arena) *world.Cgroup { return a.freed }, row{attack: "off, then enforce"}
	}
	attack := all.attack
	return []held{
		{row: row{attack: attack, how: "a TCP connection to the stranger", want: ended, by: byPackets}, args: []string{"tcp", "{A4}", "80", "stranger.example"}, in: in},
		{row: row{attack: attack, how: "the same, IPv6", want: ended, by: byPackets}, args: []string{"tcp", "{A6}", "80", "stranger.example"}, in: in},
		{row: row{attack: attack, how: "a UDP socket connected to the stranger", want: "EPERM", by: byPackets}, args: []string{"udp", "{A4}", "443"}, in: in},
		{row: row{attack: attack, how: "a UDP socket that is not connected", want: "EPERM", by: bySendmsg}, args: []string{"unconnected", "{A4}", "443"}, in: in},
		{row: row{attack: attack, how: "a raw socket", want: "EPERM", by: byPackets}, args: []string{"raw", "{A4}", "0"}, in: in},
		{row: row{attack: attack, how: "a ping socket", want: "EPERM", by: byPackets}, args: []string{"ping", "{A4}", "0"}, in: in},
	}
}

// enforceModes ends the time in which two workloads are not judged.
func (a *arena) enforceModes(t *testing.T) {
	all := append(modeRows("audit"), modeRows("off")...)
	a.hold(all)
	name := filepath.Join(a.d.ConfigDir(), "modes.yaml")
	a.must(os.WriteFile(name+".new", modes("enforce", "enforce"), 0o644))
	a.must(os.Rename(name+".new", name))
	for _, cg := range []*world.Cgroup{a.audited, a.freed} {
		if !eventually(soon, func() bool { return a.python(cg, "ways", "connect", "{A4}", "7") == "ECONNREFUSED" }) {
			t.Fatal("the mode did not change")
		}
	}
	a.used(t, all)
	a.t = t
}

// tightRows are open when the policy is tightened.
var tightRows = []held{
	{row: row{attack: "policy tightened", how: "an open direct connection", want: ended, by: byPackets}, args: []string{"tcp", "{API2}", "7"}},
	{row: row{attack: "policy tightened", how: "an open inspected connection", want: ended, by: byPackets}, args: []string{"tls", "{API2}", "443", world.API2}},
	{row: row{attack: "policy tightened", how: "an open proxied connection", want: ended, by: byCore}, args: []string{"tcp", "{API2}", "80", world.API2}},
	{row: row{attack: "policy tightened", how: "an open UDP flow", want: "EPERM", by: byPackets}, args: []string{"udp", "{API2}", "7"}},
	{row: row{attack: "policy tightened", how: "the same, with a datagram to loopback before each", want: "EPERM", by: byPackets}, args: []string{"udp-loopback", "{API2}", "7"}},
	{row: row{attack: "policy tightened", how: "the same, with a question to port 53 before each", want: "EPERM", by: byPackets}, args: []string{"udp-dns", "{API2}", "7"}},
	{row: row{attack: "policy tightened", how: "UDP of a socket that is not connected", want: "EPERM", by: bySendmsg}, args: []string{"unconnected", "{API2}", "7"}},
}

// tighten takes a host away whose connections are open.
func (a *arena) tighten(t *testing.T) {
	if got := a.python(a.in, "names", "learn", "{R4}", world.API2); got != "learned" {
		t.Fatal(got)
	}
	a.hold(tightRows)
	name := filepath.Join(a.d.ConfigDir(), "tight.yaml")
	a.must(os.WriteFile(name+".new", nil, 0o644))
	a.must(os.Rename(name+".new", name))
	gone := func() bool { return a.python(a.in, "ways", "connect", a.API2.V4.String(), "7") == "ECONNREFUSED" }
	if !eventually(soon, gone) {
		t.Fatal("the policy did not change")
	}
	a.used(t, tightRows)
	a.t = t
}

// unloadRow is the last of this daemon: nothing is captured after it.
var unloadRow = row{
	attack: "egressd unload", how: "run by root in the workload", want: "connected", open: true,
	by: "root may do all that egressd's own commands do; take CAP_BPF and CAP_SYS_ADMIN away", noTwin: "without egressd there is nothing to unload",
	do: func(a *arena, cg *world.Cgroup) string {
		ctx, cancel := context.WithTimeout(a.t.Context(), clientTimeout)
		defer cancel()
		c := a.Node.Command(ctx, cg, egressd, "unload", "--state-dir", a.d.StateDir(), "--pin-dir", a.d.PinDir())
		if out, err := c.CombinedOutput(); err != nil {
			return string(out)
		}
		return ways("connect", "{A4}", "443")(a, cg)
	},
}

const kills = 5

// killRow runs while the daemon is killed and started again.
var killRow = row{
	attack: "kill -9", how: "five times, beside a loop that dials and sends", want: "none of many",
	by: "programs and maps are pinned", seen: is("some of many"),
}

// bindRows take egressd's ports while nobody is there.
var bindRows = []row{
	{attack: "egressd's ports", how: "bind() of 127.0.0.1:15001 while it is down", want: "EPERM", by: "bind hook", do: ways("bind", "tcp", "127.0.0.1", "15001"), seen: is("bound")},
	{attack: "egressd's ports", how: "bind() of [::]:15001 while it is down", want: "EPERM", by: "bind hook", do: ways("bind", "tcp", "::", "15001"), seen: is("bound")},
	{attack: "egressd's ports", how: "bind() of UDP 127.0.0.1:15053 while it is down", want: "EPERM", by: "bind hook", do: ways("bind", "udp", "127.0.0.1", "15053"), seen: is("bound")},
	{attack: "egressd's ports", how: "listen() on ::, not bound, where ip_local_port_range has the port", want: "bound", open: true, by: "no hook sees the kernel choose; keep 15000-15060 out of ip_local_port_range", do: ways("unbound", "tcp", "15053"), seen: is("bound")},
	{attack: "egressd's ports", how: "sendto() without bind(), where ip_local_port_range has the port", want: "bound", open: true, by: "no hook sees the kernel choose; keep 15000-15060 out of ip_local_port_range", do: ways("unbound", "udp", "15053"), seen: is("bound")},
	{attack: "egressd is down", how: "DNS to the node's resolver", want: "silence|EPERM|ECONNREFUSED", by: "port 53 goes to nobody", do: ask("udp", "{R4}", "53", "{google}"), seen: has("NOERROR")},
	{attack: "egressd is down", how: "who is not captured takes its port: DNS", want: "silence|EPERM|ECONNREFUSED", by: "egressd's own socket must be open", do: squatted(ask("udp", "{R4}", "53", "{google}")), seen: has("NOERROR")},
	{attack: "egressd is down", how: "who is not captured takes its port: what is proxied", want: "ECONNREFUSED", by: "egressd's own socket must be open", do: squatted(ways("connect", "{G4}", "80")), seen: is("connected")},
	{attack: "egressd is down", how: "what is proxied", want: "ECONNREFUSED", by: "it goes to nobody", do: ways("connect", "{G4}", "80"), proof: func(a *arena) int { return a.GoogleAPIs.Conns() }},
}

// squatted is an attempt while somebody who is not captured has egressd's ports.
func squatted(do func(*arena, *world.Cgroup) string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		if cg != nil {
			c := a.start(a.outside, "ways", "squat", "15001", "15053")
			defer c.end()
		}
		return do(a, cg)
	}
}

// killed kills the daemon under load, and looks at what is left of it.
func (a *arena) killed(t *testing.T) {
	r := killRow
	r.do = func(a *arena, cg *world.Cgroup) string {
		c := a.start(cg, "ways", "everything", "{A4}", "{A6}")
		for range kills {
			if cg == nil {
				continue
			}
			_ = a.d.Kill() // says that it was killed
			a.must(a.d.Start(a.t.Context()))
		}
		if cg == nil { // long enough to tell
			a.python(nil, "ways", "everything_for", "0.3")
		}
		_ = c.in.Close()
		return c.line()
	}
	leaked := 0
	attempt := r.do
	r.do = func(a *arena, cg *world.Cgroup) string {
		before := strangers443(a)
		got := attempt(a, cg)
		if cg != nil {
			leaked = strangers443(a) - before
		}
		return got
	}
	t.Run(r.attack, func(t *testing.T) {
		a.run(t, r)
		if leaked > 0 {
			t.Errorf("%d packets to the stranger", leaked)
		}
	})
	a.t = t
	_ = a.d.Kill() // says that it was killed
	// Not the default, and not rare.
	a.must(a.Node.Do(func() error { return sysctl("net/ipv4/ip_local_port_range", "1024 65535") }))
	for _, r := range append(slices.Clone(bindRows), unloadRow) {
		t.Run(r.attack+"/"+r.how, func(t *testing.T) { a.run(t, r) })
	}
	a.t = t
}
