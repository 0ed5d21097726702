// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/egressd/egressd/internal/machine"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// TestSteer: what is proxied, and DNS to any server, comes to the listeners as
// it was dialled; without them it is refused.
func TestSteer(t *testing.T) {
	v := newVM(t)
	for range 2 { // again is as good as once
		must(t, v.rig.world.Node.Do(v.dp.Steer))
	}
	v.guard(policy.Enforce)
	for _, a := range guardFamilies {
		v.allow(a, 443, policy.TCP, policy.Proxy)
		for _, port := range []int{443, 53} {
			dst := hostport(a, port)
			c, how := v.dialSoon(dst)
			if how != "" {
				t.Fatalf("%s: %s", dst, how)
			}
			must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
			if got, err := io.ReadAll(c); string(got) != dst+" true" {
				t.Errorf("%s: the listener says %q, %v", dst, got, err)
			}
			must(t, c.Close())
		}
		before := v.rig.world.Packets(netip.MustParseAddr(a))
		u, err := v.DialUDP(netip.MustParseAddrPort(hostport(a, 53)))
		must(t, err)
		must(t, u.SetDeadline(time.Now().Add(5*time.Second)))
		_, err = u.Write([]byte("?"))
		must(t, err)
		buf := make([]byte, 64)
		n, err := u.Read(buf)
		if string(buf[:max(n, 0)]) != hostport(a, 53)+" true" {
			t.Errorf("DNS to %s: %q, %v", a, buf[:max(n, 0)], err)
		}
		must(t, u.Close())
		if n := v.rig.world.Packets(netip.MustParseAddr(a)) - before; n != 0 {
			t.Errorf("%s: %d packets left", a, n)
		}
	}
	// Nobody listens at these.
	must(t, v.dp.SetListeners(loader.Listeners{Proxy: 9, DNSTCP: 9}))
	for _, a := range guardFamilies {
		if _, how := v.dialSoon(hostport(a, 443)); how != "refused" {
			t.Errorf("%s with no listener: %s", a, how)
		}
	}
	must(t, v.rig.world.Node.Do(v.dp.Unload))
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		must(t, v.rig.world.Node.Do(func() error {
			rules, err := netlink.RuleList(family)
			if len(rules) > 3 {
				t.Errorf("rules are left: %v", rules)
			}
			return err
		}))
	}
}

// TestGuardPod: a pod's sockets are in this kernel. What its hooks have decided
// is not decided again; what only looks like it is.
func TestGuardPod(t *testing.T) {
	r := newRig(t)
	pod, err := r.world.AddNeighbour("pod0", 1)
	must(t, err)
	l := r.linkIndex("pod0")
	v := &vm{rig: r}
	v.addEcho(7)
	must(t, r.world.Node.Do(func() error {
		return r.dp.Guard(loader.Interface{Index: l, Name: "pod0", Workload: loader.WorkloadState{ID: 1, Policy: testPolicy}})
	}))
	self, err := os.Executable()
	must(t, err)
	run := func(captured bool, op, dst string) result {
		cg := r.cg
		if !captured {
			cg = nil
		}
		cmd := pod.Command(t.Context(), cg, self, dst)
		cmd.Env = append(os.Environ(), "EGRESSD_TEST_CLIENT="+op)
		out, err := cmd.Output()
		must(t, err)
		var res result
		must(t, json.Unmarshal(out, &res))
		return res
	}
	for _, a := range guardFamilies {
		dst := hostport(a, 7)
		if got := run(false, "tcp", dst); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s by a socket that is not captured: %+v", a, got)
		}
		r.allow(a, 7, policy.TCP, policy.Direct)
		for _, captured := range []bool{true, false} {
			before, err := r.dp.Counters()
			must(t, err)
			if got := run(captured, "tcp", dst); got.Data != "hello" {
				t.Errorf("%s, captured %t: %+v", a, captured, got)
			}
			after, err := r.dp.Counters()
			must(t, err)
			if bySocket := after["pass/by-socket"] > before["pass/by-socket"]; bySocket != captured {
				t.Errorf("%s, captured %t: decided by its socket: %t", a, captured, bySocket)
			}
		}
		must(t, r.dp.SetAddress(testPolicy, netip.MustParseAddr(a), nil))
	}
}

func (r *rig) linkIndex(name string) (index int) {
	r.t.Helper()
	must(r.t, r.world.Node.Do(func() error {
		l, err := net.InterfaceByName(name)
		if err == nil {
			index = l.Index
		}
		return err
	}))
	return index
}

// TestSweepFlows: what is over is forgotten and told, and frees its share.
func TestSweepFlows(t *testing.T) {
	v := newVM(t)
	v.addEcho(7)
	v.guard(policy.Enforce)
	v.allow(world.StrangerV4, 7, policy.TCP, policy.Direct)
	c, how := v.dialSoon(hostport(world.StrangerV4, 7))
	if how != "" || v.echo(c, []byte("x"), 0) != "echoed" {
		t.Fatal(how)
	}
	must(t, v.dp.SweepFlows(func(e telemetry.KernelEvent) { t.Errorf("an open one ended: %+v", e) }))
	if n := v.dp.Fills()["egd_flows"].Entries; n != 1 {
		t.Errorf("%d flows, want 1", n)
	}
	must(t, c.Close())
	must(t, v.rig.world.Node.Do(func() error { return v.dp.Unguard(v.Index) }))
	var ended []telemetry.KernelEvent
	must(t, v.dp.SweepFlows(func(e telemetry.KernelEvent) { ended = append(ended, e) }))
	if len(ended) != 1 || !ended[0].Closed || ended[0].Sent == 0 || ended[0].Received == 0 || ended[0].Interface != v.Index {
		t.Errorf("ended: %+v", ended)
	}
	if n := v.dp.Fills()["egd_flows"].Entries; n != 0 {
		t.Errorf("%d flows are left", n)
	}
}

// TestGuardShare: an interface that has its share gets no more flows, and
// strangers can use up half of it.
func TestGuardShare(t *testing.T) {
	v := newVM(t)
	v.addEcho(7)
	for _, a := range guardFamilies {
		v.allow(a, 7, policy.TCP, policy.Direct)
	}
	v.guardAs(loader.Interface{Index: v.Index, Name: v.Name, Share: 4, Workload: loader.WorkloadState{ID: 1, Policy: testPolicy}})
	for range 4 { // the machine refuses them all
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		if _, err := v.rig.world.Net.Dial(ctx, "tcp", netip.MustParseAddrPort(hostport(v.V4, 9))); err == nil {
			t.Error("somebody listens on port 9")
		}
		cancel()
	}
	counters, err := v.dp.Counters()
	must(t, err)
	if counters["pass/inbound"] != 2 || counters["deny/quota"] == 0 {
		t.Errorf("inbound: %d, denied: %d", counters["pass/inbound"], counters["deny/quota"])
	}
	for i, a := range []string{world.StrangerV4, world.StrangerV6, world.StrangerV4} {
		c, how := v.dialSoon(hostport(a, 7))
		if want := map[bool]string{true: "refused"}[i == 2]; how != want {
			t.Errorf("connection %d: %q, want %q", i, how, want)
		}
		if c != nil {
			must(t, c.Close())
		}
	}
	next(t, v.events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonQuota })
}

// TestAddInbound: a connection that somebody opened before goes on when it is
// known, and is judged by its address when it is not.
func TestAddInbound(t *testing.T) {
	v := newVM(t)
	for i, known := range []bool{true, false} {
		at := netip.MustParseAddrPort(hostport(v.V4, 8080+i))
		ln, err := v.Listen(at)
		must(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if c, err := ln.Accept(); err == nil {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}
		}()
		must(t, v.rig.world.Node.Do(func() error { return v.dp.Unguard(v.Index) }))
		must(t, v.dp.SweepFlows(nil))
		c, err := v.rig.world.Net.Dial(t.Context(), "tcp", at)
		must(t, err)
		if got := v.echo(c, []byte("before"), 0); got != "echoed" {
			t.Fatal(got)
		}
		if known {
			other := c.LocalAddr().(*net.TCPAddr).AddrPort()
			must(t, v.dp.AddInbound(v.Index, policy.TCP, at, netip.AddrPortFrom(other.Addr().Unmap(), other.Port())))
		}
		v.guard(policy.Enforce)
		if got := v.echo(c, []byte("after"), 0); (got == "echoed") != known {
			t.Errorf("known %t: %s", known, got)
		}
		must(t, c.Close())
		must(t, ln.Close())
		<-done
	}
}

// shadowedPort is the source port of shadowed.
const shadowedPort = 5555

// shadowed connects from a port from which a SYN was sent past the IP stack
// before, if there is a router's hardware address to send it to.
func shadowed(dst netip.AddrPort, args []string) result {
	src := netip.AddrPortFrom(netip.MustParseAddr(args[0]), shadowedPort)
	if len(args) > 1 {
		mac, err := net.ParseMAC(args[1])
		if err != nil {
			return result{Errno: err.Error()}
		}
		frame := (&machine.Tap{Host: mac}).Frame(machine.Segment{Src: src, Dst: dst, Seq: 1, Flags: machine.SYN})
		if err := sendRaw(frame); err != nil {
			return result{Errno: errnoName(err)}
		}
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(src), Timeout: soon}
	c, err := d.Dial("tcp", dst.String())
	if err != nil {
		return result{Errno: ending(err)}
	}
	defer c.Close()
	return result{Data: "connected"}
}

// TestGuardShadow: whoever sends frames with the addresses of a connection of
// his own that is inspected loses the connection.
func TestGuardShadow(t *testing.T) {
	v := &vm{rig: newRig(t)}
	pod, err := v.rig.world.AddNeighbour("pod0", 1)
	must(t, err)
	v.addEcho(inspectPort)
	self, err := os.Executable()
	must(t, err)
	v.guardAs(loader.Interface{Index: v.linkIndex("pod0"), Name: "pod0", Workload: loader.WorkloadState{ID: 1, Policy: testPolicy}})
	for i, src := range []string{pod.V4, pod.V6} {
		must(t, v.dp.SetAddress(testPolicy, netip.MustParseAddr(guardFamilies[i]), []policy.Opening{
			{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Inspect, Name: goodName},
		}))
		for _, args := range [][]string{{src}, {src, pod.MAC.String()}} {
			cmd := pod.Command(t.Context(), v.cg, self, append([]string{hostport(guardFamilies[i], inspectPort)}, args...)...)
			cmd.Env = append(os.Environ(), "EGRESSD_TEST_CLIENT=shadowed")
			out, err := cmd.Output()
			must(t, err)
			var got result
			must(t, json.Unmarshal(out, &got))
			if (got.Data == "connected") != (len(args) == 1) {
				t.Errorf("%s with a shadow %t: %+v", src, len(args) > 1, got)
			}
			counters, err := v.dp.Counters()
			must(t, err)
			if n := counters["deny/out-of-sequence"]; (n > uint64(i)) != (len(args) > 1) {
				t.Errorf("%s with a shadow %t: out of sequence %d", src, len(args) > 1, n)
			}
		}
	}
}
