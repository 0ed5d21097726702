// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/machine"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// vm is a machine on a tap of the node, whose interface can be guarded.
type vm struct {
	*rig
	*machine.Machine
	events <-chan telemetry.KernelEvent
}

func newVM(t *testing.T) *vm {
	t.Helper()
	testenv.RequireTun(t)
	r := newRig(t)
	m, err := machine.New(r.world, "tap0", 0)
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return &vm{r, m, r.serveEvents()}
}

func (v *vm) guard(mode policy.Mode) {
	v.t.Helper()
	v.guardAs(loader.Interface{
		Index: v.Index, Name: v.Name, Workload: loader.WorkloadState{ID: 1, Policy: testPolicy, Mode: mode},
	})
}

func (v *vm) guardAs(i loader.Interface) {
	v.t.Helper()
	must(v.t, v.rig.world.Node.Do(func() error { return v.dp.Guard(i) }))
}

// soon is enough for a reset on an emulated machine; silent is how long the
// absence of an answer is waited for.
const (
	soon   = 3 * time.Second
	silent = 500 * time.Millisecond
)

// dialSoon connects from the machine and says how that ended.
func (v *vm) dialSoon(to string) (net.Conn, string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), soon)
	defer cancel()
	c, err := v.Dial(ctx, netip.MustParseAddrPort(to))
	return c, ending(err)
}

// ending names an error of the machine's stack.
func ending(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case strings.Contains(err.Error(), "refused"):
		return "refused"
	case strings.Contains(err.Error(), "reset"), strings.Contains(err.Error(), "aborted"):
		return "reset"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "silence"
	case errors.Is(err, io.EOF):
		return "end"
	}
	return err.Error()
}

// echo sends data in pieces and waits for all of it to come back.
func (v *vm) echo(c net.Conn, data []byte, piece int) string {
	v.t.Helper()
	must(v.t, c.SetDeadline(time.Now().Add(5*time.Second)))
	if piece == 0 {
		piece = len(data)
	}
	for rest := data; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
		if _, err := c.Write(rest[:min(piece, len(rest))]); err != nil {
			return ending(err)
		}
	}
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil {
		return ending(err)
	}
	if string(got) != string(data) {
		return "the echo differs"
	}
	return "echoed"
}

var guardFamilies = []string{world.StrangerV4, world.StrangerV6}

// addEcho puts TCP and UDP echo servers on a port of the stranger.
func (v *vm) addEcho(port uint16) {
	v.t.Helper()
	for _, a := range guardFamilies {
		at := netip.AddrPortFrom(netip.MustParseAddr(a), port)
		_, err := v.rig.world.AddTCP(at, "")
		must(v.t, err)
		_, err = v.rig.world.AddUDP(at)
		must(v.t, err)
	}
}

func TestGuardTCP(t *testing.T) {
	v := newVM(t)
	v.addEcho(7)
	for _, a := range guardFamilies {
		c, how := v.dialSoon(hostport(a, 7))
		if how != "" {
			t.Fatalf("%s unguarded: %s", a, how)
		}
		must(t, c.Close())
	}
	v.guard(policy.Enforce)
	for _, a := range guardFamilies {
		before := v.rig.world.Packets(netip.MustParseAddr(a))
		if _, how := v.dialSoon(hostport(a, 7)); how != "refused" {
			t.Errorf("%s: %s, want it refused at once", a, how)
		}
		if n := v.rig.world.Packets(netip.MustParseAddr(a)) - before; n != 0 {
			t.Errorf("%s: %d packets left", a, n)
		}
		e := next(t, v.events, func(e telemetry.KernelEvent) bool { return !e.Closed })
		if e.Reason != policy.ReasonNoRule || e.Interface != v.Index || e.Dst.String() != hostport(a, 7) || e.PID != 0 || e.Workload != 1 {
			t.Errorf("event %+v", e)
		}
		v.allow(a, 7, policy.TCP, policy.Direct)
		c, how := v.dialSoon(hostport(a, 7))
		if how != "" {
			t.Fatalf("%s allowed: %s", a, how)
		}
		if got := v.echo(c, []byte(strings.Repeat("x", 1<<20)), 0); got != "echoed" {
			t.Errorf("%s: %s", a, got)
		}
		must(t, v.dp.RaiseEpoch())
		if got := v.echo(c, []byte("still allowed"), 0); got != "echoed" {
			t.Errorf("%s after a change: %s", a, got)
		}
		must(t, v.dp.SetAddress(testPolicy, netip.MustParseAddr(a), nil))
		must(t, v.dp.RaiseEpoch())
		if got := v.echo(c, []byte("denied now"), 0); got != "reset" {
			t.Errorf("%s after it was denied: %s", a, got)
		}
		next(t, v.events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonPolicyChanged })
		must(t, c.Close())
	}
}

func TestGuardUDP(t *testing.T) {
	v := newVM(t)
	v.addEcho(7)
	ask := func(a string, limit time.Duration) string {
		c, err := v.DialUDP(netip.MustParseAddrPort(hostport(a, 7)))
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(limit)))
		_, err = c.Write([]byte("ask"))
		must(t, err)
		buf := make([]byte, 16)
		if _, err := c.Read(buf); err != nil {
			return ending(err)
		}
		return "echoed"
	}
	for _, a := range guardFamilies {
		if got := ask(a, soon); got != "echoed" {
			t.Fatalf("%s unguarded: %s", a, got)
		}
	}
	v.guard(policy.Enforce)
	for _, a := range guardFamilies {
		before := v.rig.world.Packets(netip.MustParseAddr(a))
		if got := ask(a, silent); got != "silence" || v.rig.world.Packets(netip.MustParseAddr(a)) != before {
			t.Errorf("%s: %s", a, got)
		}
		v.allow(a, 7, policy.UDP, policy.Direct)
		if got := ask(a, soon); got != "echoed" {
			t.Errorf("%s allowed: %s", a, got)
		}
	}
}

// TestGuardInbound: who asks a machine is answered, and only he.
func TestGuardInbound(t *testing.T) {
	v := newVM(t)
	v.guard(policy.Enforce)
	for _, a := range []string{machine.V4, machine.V6} {
		at := netip.MustParseAddrPort(hostport(a, 8080))
		ln, err := v.Listen(at)
		must(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := v.rig.world.Net.Dial(ctx, "tcp", at)
		cancel()
		must(t, err)
		if got := v.echo(c, []byte("hello machine"), 0); got != "echoed" {
			t.Errorf("%s: %s", a, got)
		}
		must(t, c.Close())
		<-done
		must(t, ln.Close())
		pc, err := v.ListenUDP(at)
		must(t, err)
		asker, err := v.rig.world.Net.Dial(t.Context(), "udp", at)
		must(t, err)
		_, err = asker.Write([]byte("?"))
		must(t, err)
		buf := make([]byte, 16)
		must(t, pc.SetReadDeadline(time.Now().Add(5*time.Second)))
		_, from, err := pc.ReadFrom(buf)
		must(t, err)
		_, err = pc.WriteTo([]byte("!"), from)
		must(t, err)
		must(t, asker.SetReadDeadline(time.Now().Add(5*time.Second)))
		if _, err := asker.Read(buf); err != nil {
			t.Errorf("%s: no answer by UDP: %v", a, err)
		}
		must(t, errors.Join(asker.Close(), pc.Close()))
	}
}

// TestGuardHello: the ClientHello of a machine gets the verdict of the whole
// hello, however it is cut; a bad one is reset within a round trip.
func TestGuardHello(t *testing.T) {
	v := newVM(t)
	v.addEcho(inspectPort)
	for _, c := range []struct {
		kind, name string
		pass       bool
	}{
		{"hello", goodName, true}, {"hello", "ALLOWED.Example", true}, {"classic", goodName, true}, {"early", goodName, true},
		{"retry", goodName, true}, {"retry-other", "evil.example", false}, {"retry-other-plain", "evil.example", false},
		{"retry-other-alert", "evil.example", false}, {"retry-nosni", goodName, false},
		{"hello", "evil.example", false}, {"hello", "xallowed.example", false}, {"nosni", "", false}, {"twice", goodName, false},
		{"nul", goodName, false}, {"http", goodName, false}, {"junk", "", false}, {"halfjunk", goodName, false},
	} {
		for _, piece := range []int{0, 1, 100} {
			for _, a := range guardFamilies {
				v.guardHello(c.kind, c.name, c.pass, piece, a)
			}
		}
	}
}

func (v *vm) guardHello(kind, name string, pass bool, piece int, a string) {
	v.t.Helper()
	data := firstBytes(kind, name)
	if piece == 1 && len(data) > 600 {
		piece = 13 // a thousand segments say no more
	}
	v.guard(policy.Off)
	twin, how := v.dialSoon(hostport(a, inspectPort))
	if how != "" || v.echo(twin, data, piece) != "echoed" {
		v.t.Fatalf("%s %q unguarded: %s", kind, name, how)
	}
	must(v.t, twin.Close())
	v.guard(policy.Enforce)
	must(v.t, v.dp.SetAddress(testPolicy, netip.MustParseAddr(a), []policy.Opening{
		{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Inspect, Name: goodName},
	}))
	c, how := v.dialSoon(hostport(a, inspectPort))
	if how != "" {
		v.t.Fatalf("%s: the connection itself: %s", a, how)
	}
	defer c.Close()
	want := "reset"
	if pass {
		want = "echoed"
	}
	begin := time.Now()
	if got := v.echo(c, data, piece); got != want {
		v.t.Errorf("%s %q in pieces of %d to %s: %s, want %s", kind, name, piece, a, got, want)
	}
	if took := time.Since(begin); !pass && took > soon {
		v.t.Errorf("%s %q: the reset took %v", kind, name, took)
	}
	if pass && v.echo(c, record(23, []byte("and on it goes")), 0) != "echoed" {
		v.t.Errorf("%s %q: no more after the hello", kind, name)
	}
}

// TestGuardAudit: what would be denied passes, and is said.
func TestGuardAudit(t *testing.T) {
	v := newVM(t)
	v.addEcho(7)
	v.guard(policy.Audit)
	for _, a := range guardFamilies {
		c, how := v.dialSoon(hostport(a, 7))
		if how != "" || v.echo(c, []byte("x"), 0) != "echoed" {
			t.Fatalf("%s: %s", a, how)
		}
		must(t, c.Close())
		e := next(t, v.events, func(telemetry.KernelEvent) bool { return true })
		if !e.Audit || e.Reason != policy.ReasonNoRule {
			t.Errorf("event %+v", e)
		}
	}
}

// TestGuardOutlivesTheDaemon: without the process the programs go on, a new
// one replaces them, and Unload opens.
func TestGuardOutlivesTheDaemon(t *testing.T) {
	testenv.RequireTun(t)
	r := newRig(t)
	m, err := machine.New(r.world, "tap0", 0)
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	v := &vm{r, m, nil}
	v.addEcho(7)
	v.guard(policy.Enforce)
	dst := hostport(world.StrangerV4, 7)
	must(t, r.dp.Close())
	if _, how := v.dialSoon(dst); how != "refused" {
		t.Errorf("with no daemon: %s", how)
	}
	r.open()
	v.guard(policy.Enforce)
	if got := r.dp.Guarded(); len(got) != 1 || got[0].Name != "tap0" {
		t.Errorf("guarded: %+v", got)
	}
	if _, how := v.dialSoon(dst); how != "refused" {
		t.Errorf("with the next daemon: %s", how)
	}
	must(t, r.world.Node.Do(r.dp.Unload))
	must(t, r.dp.Close())
	c, how := v.dialSoon(dst)
	if how != "" || v.echo(c, []byte("free"), 0) != "echoed" {
		t.Errorf("after unload: %s", how)
	}
	if c != nil {
		must(t, c.Close())
	}
}
