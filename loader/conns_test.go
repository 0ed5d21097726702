// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// hoardTCP opens n TCP connections and keeps them, also when the other end has
// ended them, until it is told to end. It says how many it has and why it has no more.
func hoardTCP(addr netip.AddrPort, args []string) result {
	n, _ := strconv.Atoi(args[0])
	room := uint64(n + 64)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: room, Max: room}); err != nil {
		return result{Errno: "setrlimit " + errnoName(err)}
	}
	got, errno := 0, ""
	for range n {
		fd, sa, err := socket(addr, unix.SOCK_STREAM, false)
		if err == nil {
			err = unix.Connect(fd, sa)
		}
		if err != nil {
			errno = errnoName(err)
			continue
		}
		// Until the listener has ended it: nobody but this process holds it then.
		if _, _, err := receive(fd, make([]byte, 64)); err != nil {
			errno = errnoName(err)
		}
		got++
	}
	say(result{Data: strconv.Itoa(got), Errno: errno})
	_, _ = os.Stdin.Read(make([]byte, 1))
	return result{}
}

// TestShareOfPorts: connections that are redirected on loopback share the ephemeral
// ports of one pair of addresses. Who keeps all that it can get, without a bound,
// leaves none to others; with it there is always one for them.
func TestShareOfPorts(t *testing.T) {
	const ports, room = 200, 100
	r := newRig(t)
	events := r.serveEvents()
	greedy, modest := r.workload("greedy", 2), r.workload("modest", 3)
	must(t, r.world.Node.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "20000 %d", 20000+ports-1), 0)
	}))
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		r.allow(addr, 443, policy.TCP, policy.Proxy)
		dst, dns := hostport(addr, 443), hostport(addr, 53)

		must(t, r.dp.SetRoom(0)) // the twin
		hog := r.talk(r.world.Node, greedy, "hoard-tcp", dst, strconv.Itoa(ports+10))
		if got := hog.next(); got.Data != strconv.Itoa(ports) || got.Errno != "EADDRNOTAVAIL" {
			t.Errorf("%s, without a bound: %+v", addr, got)
		}
		if got := r.runIn(r.world.Node, modest, "tcp", dst); got.Errno != "EADDRNOTAVAIL" {
			t.Errorf("%s, without a bound, another workload: %+v", addr, got)
		}
		hog.end()
		testenv.Until(t, "its ports are free again", func() bool { return r.dp.Conns(2).Entries == 0 })

		must(t, r.dp.SetRoom(room))
		hog = r.talk(r.world.Node, greedy, "hoard-tcp", dst, strconv.Itoa(room))
		if got := hog.next(); got.Data != strconv.Itoa(room/2) || got.Errno != "ECONNREFUSED" {
			t.Errorf("%s: %+v, want half of %d and a refusal", addr, got, room)
		}
		if f := r.dp.Conns(2); f.Entries != room/2 || f.Max != room/2 {
			t.Errorf("%s: its account says %+v", addr, f)
		}
		e := next(t, events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonQuota })
		if e.Workload != 2 || e.Verdict != policy.Deny || e.PID == 0 {
			t.Errorf("%s: event %+v", addr, e)
		}
		more := r.talk(r.world.Node, greedy, "hoard-tcp", dns, "2")
		if got := more.next(); got.Data != "0" || got.Errno != "ECONNREFUSED" {
			t.Errorf("%s, one more, DNS: %+v", addr, got)
		}
		more.end()
		for range 3 { // a connection that has ended leaves its place
			for _, dst := range []string{dst, dns} {
				if got := r.runIn(r.world.Node, modest, "tcp", dst); got.Data != dst+" true" {
					t.Errorf("%s, another workload: %+v", dst, got)
				}
			}
		}
		hog.end()
		testenv.Until(t, "all have ended", func() bool {
			return r.dp.Conns(0).Entries == 0 && r.dp.Conns(2).Entries == 0 && r.dp.Conns(3).Entries == 0
		})
		if got := r.runIn(r.world.Node, greedy, "tcp", dst); got.Data != dst+" true" {
			t.Errorf("%s, afterwards: %+v", addr, got)
		}
	}
}

// TestConnsOutliveRestart: the accounts are adopted with the tables. Where these are
// made anew, so are the accounts, and what an older one had is not taken off them.
func TestConnsOutliveRestart(t *testing.T) {
	for _, anew := range []bool{false, true} {
		r := newRig(t)
		r.allow(world.StrangerV4, 443, policy.TCP, policy.Proxy)
		r.allow(world.StrangerV6, 443, policy.TCP, policy.Proxy)
		hoard := func(addr string, n int) *talker {
			c := r.talk(r.world.Node, r.cg, "hoard-tcp", hostport(addr, 443), strconv.Itoa(n))
			if got := c.next(); got.Data != strconv.Itoa(n) {
				t.Errorf("%s: %+v, want %d", addr, got, n)
			}
			return c
		}
		old4, old6 := hoard(world.StrangerV4, 3), hoard(world.StrangerV6, 4)
		must(t, r.dp.Close())
		r.load(func(o loader.Options) (*loader.Datapath, error) {
			o.Renew = anew
			return loader.Open(o)
		})
		r.allow(world.StrangerV4, 443, policy.TCP, policy.Proxy)
		r.allow(world.StrangerV6, 443, policy.TCP, policy.Proxy)
		must(t, r.dp.SetReady(true))
		must(t, r.dp.Attach(r.cg.Path()))
		kept := 7
		if anew {
			kept = 0
		}
		young := hoard(world.StrangerV6, 2)
		for _, id := range []uint32{0, 1} {
			if f := r.dp.Conns(id); f.Entries != kept+2 {
				t.Errorf("anew %v, account %d: %+v, want %d", anew, id, f, kept+2)
			}
		}
		old4.end()
		old6.end()
		testenv.Until(t, "what is older is gone", func() bool { return r.dp.Conns(0).Entries <= 2 })
		if f := r.dp.Conns(1); f.Entries != 2 {
			t.Errorf("anew %v: %+v, want 2", anew, f)
		}
		young.end()
		testenv.Until(t, "all have ended", func() bool { return r.dp.Conns(0).Entries == 0 && r.dp.Conns(1).Entries == 0 })
	}
}

// TestPodsHavePorts: connections of other network namespaces have ports of their own.
func TestPodsHavePorts(t *testing.T) {
	r := newGateRig(t, testGates...)
	pods, err := r.world.AddPods(1, false)
	must(t, err)
	must(t, r.dp.SetRoom(1)) // less than one workload could have
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		r.allow(addr, 443, policy.TCP, policy.Proxy)
		dst := hostport(addr, 443)
		if got := r.runIn(r.world.Node, r.cg, "tcp", dst); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s, on the node: %+v", addr, got)
		}
		if got := r.runIn(pods[0].Netns, r.cg, "tcp", dst); got.Data != dst+" true" {
			t.Errorf("%s, in a pod: %+v", addr, got)
		}
	}
	if f := r.dp.Conns(0); f.Entries != 0 {
		t.Errorf("%+v are counted", f)
	}
}
