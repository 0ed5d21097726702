// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// sendHello writes the bytes that args describe and reads them back from an
// echo server. args: kind, name, size of a write (0: all in one), record size
// (0: one record).
func sendHello(addr netip.AddrPort, args []string) result {
	chunk, _ := strconv.Atoi(args[2])
	record, _ := strconv.Atoi(args[3])
	data := firstBytes(args[0], args[1])
	if record > 0 {
		data = reframe(data, record)
	}
	if chunk == 0 {
		chunk = len(data)
	}
	fd, sa, err := socket(addr, unix.SOCK_STREAM, false)
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return result{Errno: errnoName(err)}
	}
	if err := unix.Connect(fd, sa); err != nil {
		return result{Errno: "connect " + errnoName(err)}
	}
	for rest := data; len(rest) > 0; {
		n, err := unix.Write(fd, rest[:min(chunk, len(rest))])
		if err != nil {
			return result{Errno: errnoName(err)}
		}
		rest = rest[n:]
	}
	got := make([]byte, 0, len(data))
	buf := make([]byte, 1<<16)
	for len(got) < len(data) {
		n, _, err := receive(fd, buf)
		if err != nil {
			return result{Errno: errnoName(err)}
		}
		if n == 0 {
			return result{Errno: "EOF"}
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, data) {
		return result{Errno: "the echo differs"}
	}
	return result{Data: "echoed"}
}

// hold opens a connection, proves that it works, and tries again when it is
// told to.
func hold(addr netip.AddrPort, typ int, mapped bool) result {
	fd, sa, err := socket(addr, typ, mapped)
	if err == nil {
		err = unix.Connect(fd, sa)
	}
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	defer unix.Close(fd)
	buf := make([]byte, 16)
	for i := range 2 {
		if i == 1 {
			fmt.Println("ready")
			if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
				return result{Errno: err.Error()}
			}
		}
		if _, err := unix.Write(fd, []byte("ping")); err != nil {
			return result{Errno: errnoName(err)}
		}
		if _, _, err := receive(fd, buf); err != nil {
			return result{Errno: errnoName(err)}
		}
	}
	return result{Data: "echoed"}
}

// serveEvents ends cut connections, as the daemon does, and keeps the events.
func (r *rig) serveEvents() <-chan telemetry.KernelEvent {
	r.t.Helper()
	events := make(chan telemetry.KernelEvent, 4096)
	done := make(chan error, 1)
	dp := r.dp
	go func() {
		done <- dp.Events(func(e telemetry.KernelEvent) {
			if e.Cut() && e.Interface == 0 {
				rest := func() ([]int, error) { return cgroup.AllProcs(r.cg.Path()) }
				if err := r.world.Node.Do(func() error { return dp.Destroy(e.Socket(), e.PID, rest) }); err != nil {
					r.t.Error(err)
				}
			}
			events <- e
		})
	}()
	r.t.Cleanup(func() {
		if err := dp.DrainEvents(); err != nil {
			r.t.Error(err)
		}
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	return events
}

const (
	inspectPort = 9443
	goodName    = "allowed.example"
)

// newInspectRig has an echo server on both families, inspected for goodName.
func newInspectRig(t *testing.T) (*rig, <-chan telemetry.KernelEvent) {
	t.Helper()
	r := newRig(t)
	for _, a := range []string{world.StrangerV4, world.StrangerV6} {
		addr := netip.MustParseAddr(a)
		if _, err := r.world.AddTCP(netip.AddrPortFrom(addr, inspectPort), ""); err != nil {
			t.Fatal(err)
		}
		must(t, r.dp.SetAddress(testPolicy, addr, []policy.Opening{
			{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Inspect, Name: goodName},
			{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Inspect, Name: "second.example"},
			{Port: inspectPort + 1, Transport: policy.TCP, Verdict: policy.Inspect, Name: "elsewhere.example"},
		}))
	}
	return r, r.serveEvents()
}

// TestInspect: the kernel gives a hello the verdict that the whole hello
// gets, however it is cut.
func TestInspect(t *testing.T) {
	r, _ := newInspectRig(t)
	type attempt struct {
		kind, name    string
		pass          bool
		chunk, record int
		addr          string
	}
	var tries []attempt
	for _, c := range []struct {
		kind, name string
		pass       bool
	}{
		{"hello", goodName, true},
		{"hello", "second.example", true},
		{"hello", "ALLOWED.Example", true},
		{"classic", goodName, true},
		{"long", goodName, true},
		{"early", goodName, true},
		{"resumed", goodName, true},
		{"client-key", goodName, true},
		{"alert", goodName, true},
		{"rooted", goodName, true},
		{"rooted", "evil.example", false},
		{"rooted-twice", goodName, false},
		{"rooted-retry", goodName, true},
		{"retry-rooted", goodName, true},
		{"retry-rooted-twice", goodName, false},
		{"retry", goodName, true},
		{"retry-early", goodName, true},
		{"retry-other", "evil.example", false},
		{"retry-other-plain", "evil.example", false},
		{"retry-other-pieces", "evil.example", false},
		{"retry-other-alert", "evil.example", false},
		{"retry-other-early", "evil.example", false},
		{"retry-nosni", goodName, false},
		{"retry-longer", goodName, false},
		{"hello", "evil.example", false},
		{"hello", "elsewhere.example", false},
		{"hello", "allowed.exampl", false},
		{"hello", "xallowed.example", false},
		{"hello", "allowed.example.evil", false},
		{"classic", "evil.example", false},
		{"long", "evil.example", false},
		{"nosni", "", false},
		{"twice", goodName, false},
		{"nul", goodName, false},
		{"http", goodName, false},
		{"junk", "", false},
		{"halfjunk", goodName, false},
	} {
		for _, cut := range []struct{ chunk, record int }{{0, 0}, {1, 0}, {7, 0}, {100, 0}, {0, 1}, {0, 50}, {13, 200}} {
			if c.kind == "long" && (cut.chunk == 1 || cut.record == 1) {
				continue // 16,000 segments say nothing that the others don't
			}
			if cut.record > 0 && (c.kind == "http" || c.kind == "junk" || c.kind == "early" || strings.HasPrefix(c.kind, "r") || c.kind == "client-key" || c.kind == "alert") {
				continue
			}
			for _, a := range []string{world.StrangerV4, world.StrangerV6} {
				tries = append(tries, attempt{c.kind, c.name, c.pass, cut.chunk, cut.record, a})
			}
		}
	}
	var lines []string
	for _, a := range tries {
		lines = append(lines, fmt.Sprintf("%s %s %q %d %d", hostport(a.addr, inspectPort), a.kind, a.name, a.chunk, a.record))
	}
	again := 0
	for i, got := range r.hellos(lines) {
		a := tries[i]
		switch {
		case !a.pass || got.Data == "echoed":
		case a.kind == "long" && got.Errno == "ECONNABORTED":
			again++
		default:
			t.Errorf("%s: %+v, want it to pass", lines[i], got)
		}
		// Writes that follow the reset say EPIPE.
		if !a.pass && got.Errno != "ECONNABORTED" && got.Errno != "ECONNRESET" && got.Errno != "EPIPE" {
			t.Errorf("%s: %+v, want a reset", lines[i], got)
		}
	}
	// What TCP must send again, on a machine that is too slow for its timers, is compared
	// with what was read; behind EGD_MAX_KEPT bytes nothing is known of that, and the
	// connection ends. Only the longest hello has so many.
	if n := r.counter("deny/out-of-sequence"); uint64(again) > n {
		t.Errorf("%d of the long hellos were reset, %d of them because a part was sent again", again, n)
	}
	// The positive twin: outside the cgroup anything goes.
	if got := r.run(false, "hello", hostport(world.StrangerV4, inspectPort), "hello", "evil.example", "0", "0"); got.Data != "echoed" {
		t.Errorf("uncaptured: %+v", got)
	}
	fills := r.dp.Fills()
	if fills["egd_names"].Entries != 6 {
		t.Errorf("egd_names: %+v, want 6 entries", fills["egd_names"])
	}
}

// hellos lets one captured process make all the attempts, a line each: address,
// kind, quoted name, size of a write, size of a record.
func (r *rig) hellos(lines []string) []result {
	r.t.Helper()
	self, err := os.Executable()
	must(r.t, err)
	cmd := r.world.Node.Command(r.t.Context(), r.cg, self)
	cmd.Env = append(os.Environ(), "EGRESSD_TEST_CLIENT=hellos")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n"))
	out, err := cmd.Output()
	must(r.t, err)
	var all []result
	must(r.t, json.Unmarshal(out, &all))
	if len(all) != len(lines) {
		r.t.Fatalf("%d results of %d attempts", len(all), len(lines))
	}
	return all
}

// sendHellos is the client of hellos.
func sendHellos(in io.Reader) []result {
	var all []result
	for scan := bufio.NewScanner(in); scan.Scan(); {
		var addr, kind, name string
		var chunk, record int
		if _, err := fmt.Sscanf(scan.Text(), "%s %s %q %d %d", &addr, &kind, &name, &chunk, &record); err != nil {
			return nil
		}
		all = append(all, sendHello(netip.MustParseAddrPort(addr),
			[]string{kind, name, strconv.Itoa(chunk), strconv.Itoa(record)}))
	}
	return all
}

// next returns the next event that f likes.
func next(t *testing.T, events <-chan telemetry.KernelEvent, f func(telemetry.KernelEvent) bool) telemetry.KernelEvent {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case e := <-events:
			if f(e) {
				return e
			}
		case <-deadline:
			t.Fatal("the event did not come")
		}
	}
}

// TestInspectEvents: a denial names the SNI; an allowed connection has a
// decision and an end, with bytes.
func TestInspectEvents(t *testing.T) {
	r, events := newInspectRig(t)
	dst := hostport(world.StrangerV4, inspectPort)
	r.run(true, "hello", dst, "hello", "evil.example", "0", "0")
	e := next(t, events, func(e telemetry.KernelEvent) bool { return !e.Closed })
	if e.Name != "evil.example" || e.Reason != policy.ReasonName || e.Verdict != policy.Deny || e.Dst.String() != dst || e.PID == 0 {
		t.Errorf("denial: %+v", e)
	}
	r.run(true, "hello", dst, "hello", goodName, "0", "0")
	e = next(t, events, func(e telemetry.KernelEvent) bool { return !e.Closed && e.Reason == policy.ReasonAllowed })
	if e.Name != goodName || e.Verdict != policy.Inspect {
		t.Errorf("decision: %+v", e)
	}
	e = next(t, events, func(e telemetry.KernelEvent) bool { return e.Closed && e.Reason == policy.ReasonAllowed })
	if e.Sent < 200 || e.Sent-e.Received > 1 || e.Duration <= 0 || e.Duration > time.Minute {
		t.Errorf("end: %+v", e)
	}
}

// held is a running "hold" client.
type held struct {
	t   *testing.T
	cmd *world.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (r *rig) hold(dst string) *held { return r.holdAs("hold", dst) }

func (r *rig) holdAs(op, dst string) *held {
	r.t.Helper()
	self, err := os.Executable()
	must(r.t, err)
	cmd := r.world.Node.Command(r.t.Context(), r.cg, self, dst)
	cmd.Env = append(os.Environ(), "EGRESSD_TEST_CLIENT="+op)
	in, err := cmd.StdinPipe()
	must(r.t, err)
	out, err := cmd.StdoutPipe()
	must(r.t, err)
	must(r.t, cmd.Start())
	h := &held{r.t, cmd, in, bufio.NewReader(out)}
	if line, err := h.out.ReadString('\n'); err != nil || line != "ready\n" {
		r.t.Fatalf("the client said %q, %v", line, err)
	}
	return h
}

// goOn lets the client use its connection again.
func (h *held) goOn() result {
	h.t.Helper()
	if _, err := io.WriteString(h.in, "go\n"); err != nil {
		h.t.Fatal(err)
	}
	line, err := h.out.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		h.t.Fatal(err)
	}
	must(h.t, h.cmd.Wait())
	var res result
	must(h.t, json.Unmarshal([]byte(line), &res))
	return res
}

// TestEpoch: a policy change leaves alone what stays allowed, and cuts what
// is denied now.
func TestEpoch(t *testing.T) {
	r := newRig(t)
	events := r.serveEvents()
	for _, a := range []string{world.StrangerV4, world.StrangerV6} {
		addr := netip.MustParseAddr(a)
		if _, err := r.world.AddTCP(netip.AddrPortFrom(addr, inspectPort), ""); err != nil {
			t.Fatal(err)
		}
		open := []policy.Opening{{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Direct}}
		must(t, r.dp.SetAddress(testPolicy, addr, open))
		dst := hostport(a, inspectPort)
		stays := r.hold(dst)
		must(t, r.dp.RaiseEpoch())
		if got := stays.goOn(); got.Data != "echoed" {
			t.Errorf("%s: a connection that stays allowed: %+v", a, got)
		}
		proxied := r.hold(dst)
		open[0].Verdict = policy.Proxy
		must(t, r.dp.SetAddress(testPolicy, addr, open))
		must(t, r.dp.RaiseEpoch())
		if got := proxied.goOn(); got.Errno != "ECONNABORTED" && got.Errno != "ECONNRESET" && got.Errno != "EPIPE" {
			t.Errorf("%s: a connection that must be proxied now: %+v, want a reset", a, got)
		}
		next(t, events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonPolicyChanged && !e.Closed })
		open[0].Verdict = policy.Direct
		must(t, r.dp.SetAddress(testPolicy, addr, open))
		goes := r.hold(dst)
		must(t, r.dp.SetAddress(testPolicy, addr, nil))
		must(t, r.dp.RaiseEpoch())
		if got := goes.goOn(); got.Errno != "ECONNABORTED" && got.Errno != "ECONNRESET" && got.Errno != "EPIPE" {
			t.Errorf("%s: a connection that is denied now: %+v, want a reset", a, got)
		}
		e := next(t, events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonPolicyChanged && !e.Closed })
		if e.Dst.String() != dst || e.Verdict != policy.Deny {
			t.Errorf("event: %+v", e)
		}
	}
}

// TestLiveAddresses lists what connections go to.
func TestLiveAddresses(t *testing.T) {
	r := newRig(t)
	for _, lo := range loopbacks {
		ln, err := net.Listen("tcp", net.JoinHostPort(lo, "0"))
		must(t, err)
		c, err := net.Dial("tcp", ln.Addr().String())
		must(t, err)
		live, err := r.dp.LiveAddresses(nil)
		must(t, err)
		if !live[netip.MustParseAddr(lo)] {
			t.Errorf("a connection to %s is not listed: %v", lo, live)
		}
		c.Close()
		ln.Close()
	}
}
