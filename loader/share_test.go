// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/arrival"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// workload makes a workload of its own in the captured cgroup.
func (r *rig) workload(name string, id uint32) *world.Cgroup {
	r.t.Helper()
	cg, err := r.cg.Child(name)
	must(r.t, err)
	r.t.Cleanup(func() { must(r.t, cg.Close()) })
	cgroup, err := cg.ID()
	must(r.t, err)
	must(r.t, r.dp.SetWorkload(cgroup, loader.WorkloadState{ID: id, Policy: testPolicy}))
	return cg
}

// TestShare: a workload that fills its share of the original destinations is
// refused, and nobody else is; what it has goes on working.
func TestShare(t *testing.T) {
	r := newRig(t)
	events := r.serveEvents()
	greedy, modest := r.workload("greedy", 2), r.workload("modest", 3)
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		r.allow(addr, 443, policy.TCP, policy.Proxy)
	}
	most := r.dp.Origins(2).Max
	dns := []string{hostport(world.StrangerV4, 53), hostport(world.StrangerV6, 53)}
	four := r.talk(r.world.Node, greedy, "hoard", dns[0], strconv.Itoa(most/2))
	six := r.talk(r.world.Node, greedy, "hoard", dns[1], strconv.Itoa(most/2+10))
	refused := 0
	for _, c := range []*talker{four, six} {
		got := c.next()
		n, err := strconv.Atoi(got.Data)
		must(t, err)
		refused += n
		if n > 0 && got.Errno != "ECONNREFUSED" && got.Errno != "EPERM" {
			t.Errorf("beyond its share: %+v", got)
		}
	}
	if f := r.dp.Origins(2); f.Entries != most || refused != 10 {
		t.Errorf("it has %+v and %d were refused, want the whole share and 10", f, refused)
	}
	e := next(t, events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonQuota })
	if e.Workload != 2 || e.Verdict != policy.Deny || e.PID == 0 {
		t.Errorf("event: %+v", e)
	}
	for i, c := range []*talker{four, six} {
		if got := c.again(); got.Data != dns[i]+" true" {
			t.Errorf("a socket that it has: %+v", got)
		}
	}
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		dst := hostport(addr, 443)
		if got := r.runIn(r.world.Node, greedy, "tcp", dst); got.Errno != "ECONNREFUSED" {
			t.Errorf("one more, proxied: %+v, want ECONNREFUSED", got)
		}
		if got := r.runIn(r.world.Node, modest, "tcp", dst); got.Data != dst+" true" {
			t.Errorf("another workload, proxied: %+v", got)
		}
		if got := r.runIn(r.world.Node, modest, "sendto", hostport(addr, 53)); got.Data != hostport(addr, 53)+" true" {
			t.Errorf("another workload, DNS: %+v", got)
		}
	}
	four.end()
	six.end()
	testenv.Until(t, "its share is free again", func() bool { return r.dp.Origins(2).Entries == 0 })
	// The twin: it is served again.
	if got := r.runIn(r.world.Node, greedy, "tcp", hostport(world.StrangerV4, 443)); got.Errno != "" {
		t.Errorf("afterwards: %+v", got)
	}
	// A connection that nobody accepts takes its entry along.
	ports := r.ports
	ports.Proxy = 1
	must(t, r.dp.SetListeners(ports))
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if got := r.runIn(r.world.Node, modest, "tcp", hostport(addr, 443)); got.Errno != "ECONNREFUSED" {
			t.Errorf("nobody listens: %+v", got)
		}
	}
	for _, id := range []uint32{1, 2, 3} {
		if f := r.dp.Origins(id); f.Entries != 0 {
			t.Errorf("workload %d is left with %+v", id, f)
		}
	}
}

// TestShareOutlivesRestart: the accounts are adopted with the entries.
func TestShareOutlivesRestart(t *testing.T) {
	r := newRig(t)
	var clients []*talker
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		c := r.talk(r.world.Node, r.cg, "from-udp", hostport(addr, 53), "-")
		c.next()
		if got := c.again(); got.Data == "" {
			t.Fatalf("%+v", got)
		}
		clients = append(clients, c)
	}
	must(t, r.dp.Close())
	r.open()
	if f := r.dp.Origins(1); f.Entries != 2 {
		t.Errorf("after the restart: %+v, want 2", f)
	}
	if n, err := r.dp.SweepOrigins(0); n != 2 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	for _, c := range clients {
		c.end() // its socket has nothing to take out any more
	}
	if f := r.dp.Origins(1); f.Entries != 0 {
		t.Errorf("after the sweep: %+v, want none", f)
	}
}

// gates of the tests with pods.
var testGates = []netip.Addr{netip.MustParseAddr("169.254.255.151"), netip.MustParseAddr("fd65:6772:6573:73::151")}

// TestForgedSource: a pod that sends from another pod's address and port gets
// neither its place nor its name, and does not keep it from being served.
func TestForgedSource(t *testing.T) {
	r := newGateRig(t, testGates...)
	pods, err := r.world.AddPods(2, true)
	must(t, err)
	victim, forger := pods[0], pods[1]
	forgers := r.workload("forgers", 2)
	elsewhere := map[string]string{world.StrangerV4: "203.0.113.99", world.StrangerV6: "2001:db8:bad::99"}
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		t.Run(addr, func(t *testing.T) {
			dst, other := hostport(addr, 53), hostport(elsewhere[addr], 53)
			owner := r.talk(victim.Netns, r.cg, "from-udp", dst, "-")
			mine := owner.next().From
			if got := owner.again(); got.Data != dst+" true" {
				t.Fatalf("the owner: %+v", got)
			}
			forged := r.talk(forger.Netns, forgers, "from-udp", other, mine)
			if got := forged.next(); got.From != mine {
				t.Fatalf("the forger: %+v, want it to have %s", got, mine)
			}
			// What it sends is its own question; the answer goes to whom the
			// address belongs to, as any answer to a forged source does.
			if got := forged.ask("send"); got.Data != "sent" {
				t.Errorf("the forger: %+v", got)
			}
			if got := owner.again(); got.Data != other+" true" {
				t.Errorf("answered by the forger's name: %+v", got)
			}
			if got := owner.again(); got.Data != dst+" true" {
				t.Errorf("the owner afterwards: %+v", got)
			}
			forged.end()
			r.forgeTCP(t, victim, forger, forgers, addr)
		})
	}
}

// forgeTCP is the same while a connection waits to be accepted.
func (r *rig) forgeTCP(t *testing.T, victim, forger *world.Pod, forgers *world.Cgroup, addr string) {
	dst := hostport(addr, 443)
	r.allow(addr, 443, policy.TCP, policy.Proxy)
	gate := testGates[0]
	if strings.Contains(addr, ":") {
		gate = testGates[1]
	}
	ln, err := r.world.Node.Listen(netip.AddrPortFrom(gate, 0))
	must(t, err)
	defer ln.Close()
	saveSYN(t, ln.(*net.TCPListener))
	ports := r.ports
	ports.Proxy = ln.Addr().(*net.TCPAddr).AddrPort().Port()
	ports.Sockets = append(slices.Clone(r.ports.Sockets), loader.ListenerSocket{Kind: loader.ProxySocket, Addr: gate, Conn: ln.(*net.TCPListener)})
	must(t, r.dp.SetListeners(ports))
	defer func() { must(t, r.dp.SetListeners(r.ports)) }()
	owner := r.talk(victim.Netns, r.cg, "from-tcp", dst, "-")
	mine := owner.next().From
	// Its SYN is answered to the victim's pod, so it waits.
	forged := r.talk(forger.Netns, forgers, "from-tcp", dst, mine)
	testenv.Until(t, "the forger's SYN has left", func() bool { return r.dp.Origins(2).Entries == 1 })
	c, err := ln.Accept()
	must(t, err)
	defer c.Close()
	at, err := arrival.Of(c.(*net.TCPConn))
	must(t, err)
	if o, ok := r.dp.TakeOrigin(at); !ok || o.PID != owner.cmd.Process.Pid || o.Dst.String() != dst || o.Workload != 1 {
		t.Errorf("accepted: %+v %v, want the owner's, %d", o, ok, owner.cmd.Process.Pid)
	}
	forged.kill()
	testenv.Until(t, "the forger's entry is gone", func() bool { return r.dp.Origins(2).Entries == 0 })
}

// TestNoGate: without a gate of the family, other namespaces are refused what
// is redirected; with one they are served there.
func TestNoGate(t *testing.T) {
	r := newGateRig(t, testGates...)
	pods, err := r.world.AddPods(1, false)
	must(t, err)
	ns := pods[0].Netns
	try := func(addr string) map[string]result {
		return map[string]result{
			"tcp":    r.runIn(ns, r.cg, "tcp", hostport(addr, 443)),
			"udp":    r.runIn(ns, r.cg, "udp", hostport(addr, 53)),
			"sendto": r.runIn(ns, r.cg, "sendto", hostport(addr, 53)),
		}
	}
	for _, d := range dsts {
		r.allow(d.addr, 443, policy.TCP, policy.Proxy)
		for op, dst := range map[string]string{"tcp": hostport(d.addr, 443), "udp": hostport(d.addr, 53), "sendto": hostport(d.addr, 53)} {
			got := r.runIn(ns, r.cg, op+d.mapped, dst)
			if got.Data != dst+" true" || op != "sendto" && got.Peer != dst || op == "sendto" && got.From != dst {
				t.Errorf("%s, %s: %+v", d.name, op, got)
			}
		}
	}
	for i, addr := range []string{world.StrangerV4, world.StrangerV6} {
		ports := r.ports
		if i == 0 {
			ports.Gate4 = netip.Addr{}
		} else {
			ports.Gate6 = netip.Addr{}
		}
		must(t, r.dp.SetListeners(ports))
		for op, got := range try(addr) {
			if want := map[string]string{"sendto": "EPERM"}[op]; got.Errno != want && got.Errno != "ECONNREFUSED" {
				t.Errorf("no gate, %s to %s: %+v", op, addr, got)
			}
		}
		other := []string{world.StrangerV6, world.StrangerV4}[i]
		for op, got := range try(other) {
			if got.Errno != "" {
				t.Errorf("the other family, %s to %s: %+v", op, other, got)
			}
		}
	}
}
