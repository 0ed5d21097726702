// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"errors"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// bound sends datagrams to loopback by another device.
func bound(addr netip.AddrPort, device string) result {
	fd, sa, err := socket(addr, unix.SOCK_DGRAM, false)
	if err == nil {
		err = unix.BindToDevice(fd, device)
	}
	for range 3 {
		if err == nil || errors.Is(err, unix.EPERM) {
			err = unix.Sendto(fd, []byte("hello"), 0, sa)
		}
	}
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	return result{Data: "sent"}
}

// refusedMany makes connects that are refused.
func refusedMany(addr netip.AddrPort, n string) result {
	count, _ := strconv.Atoi(n)
	for range count {
		fd, sa, err := socket(addr, unix.SOCK_STREAM, false)
		if err != nil {
			return result{Errno: errnoName(err)}
		}
		err = unix.Connect(fd, sa)
		unix.Close(fd)
		if !errors.Is(err, unix.ECONNREFUSED) {
			return result{Errno: "connect: " + errnoName(err)}
		}
	}
	return result{Data: "refused"}
}

func counter(t *testing.T, dp *loader.Datapath, name string) uint64 {
	t.Helper()
	all, err := dp.Counters()
	must(t, err)
	return all[name]
}

// TestMartian: a packet for loopback that leaves by another device is dropped,
// counted each time and told once.
func TestMartian(t *testing.T) {
	r := newRig(t)
	events := r.serveEvents()
	for i, lo := range loopbacks {
		dst := hostport(lo, 9)
		if got := r.run(true, "bound", dst, world.Uplink); got.Errno != "EPERM" {
			t.Errorf("%s: %+v, want EPERM", lo, got)
		}
		e := next(t, events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonMartian })
		if e.Dst.String() != dst || e.Workload != 1 || e.Policy != testPolicy || e.Transport != policy.UDP || e.Verdict != policy.Deny || e.Cgroup == 0 {
			t.Errorf("event: %+v", e)
		}
		if n := counter(t, r.dp, "deny/martian"); n != uint64(3*(i+1)) {
			t.Errorf("%d packets counted, want %d", n, 3*(i+1))
		}
		// The next event is of something else: it is told once.
		r.run(true, "tcp", hostport(world.StrangerV4, 443))
		if e := next(t, events, func(telemetry.KernelEvent) bool { return true }); e.Reason != policy.ReasonNoRule {
			t.Errorf("another event: %+v", e)
		}
		if got := r.run(false, "bound", dst, world.Uplink); got.Data != "sent" {
			t.Errorf("uncaptured, %s: %+v", lo, got)
		}
	}
}

// TestOptionsAreTold: so is a packet with a source route.
func TestOptionsAreTold(t *testing.T) {
	r := newRig(t)
	events := r.serveEvents()
	for _, c := range []struct{ to, via string }{
		{world.DBV4, world.StrangerV4}, {world.DBV6, world.StrangerV6},
	} {
		r.allow(c.to, 443, policy.UDP, policy.Direct)
		if got := r.run(true, "sendto-routed", hostport(c.to, 443), c.via); got.Errno != "EPERM" {
			t.Errorf("%+v, want EPERM", got)
		}
		e := next(t, events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonOptions })
		if e.Workload != 1 || e.Transport != policy.UDP || !e.Dst.Addr().IsValid() {
			t.Errorf("event: %+v", e)
		}
	}
}

// TestToldWhenTheRingWasFull: a connection that is cut while nobody reads the
// ring is ended as soon as somebody does.
func TestToldWhenTheRingWasFull(t *testing.T) {
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		t.Run(addr, func(t *testing.T) {
			r := newRig(t)
			dst := netip.MustParseAddrPort(hostport(addr, inspectPort))
			if _, err := r.world.AddTCP(dst, ""); err != nil {
				t.Fatal(err)
			}
			must(t, r.dp.SetAddress(testPolicy, dst.Addr(), []policy.Opening{
				{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Inspect, Name: goodName},
			}))
			// Of each at most 256 are told: the ring has room for ten.
			for range 40 {
				if got := r.run(true, "refused-many", hostport(world.DBV4, 99), "500"); got.Data != "refused" {
					t.Fatalf("filling the ring: %+v", got)
				}
			}
			lost := counter(t, r.dp, "lost/event")
			c := r.talk(r.world.Node, r.cg, "hello", dst.String(), "hello", "evil.example", "0", "0")
			testenv.Until(t, "it is cut, and the event is lost", func() bool {
				return counter(t, r.dp, "deny/name-not-allowed") > 0 && counter(t, r.dp, "lost/event") > lost
			})
			events := r.serveEvents()
			if got := c.next(); got.Errno != "ECONNABORTED" && got.Errno != "ECONNRESET" {
				t.Errorf("%+v, want a reset", got)
			}
			e := next(t, events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonName })
			if e.Name != "evil.example" || e.Peer != dst {
				t.Errorf("event: %+v", e)
			}
			if got := r.run(false, "hello", dst.String(), "hello", "evil.example", "0", "0"); got.Data != "echoed" {
				t.Errorf("uncaptured: %+v", got)
			}
		})
	}
}
