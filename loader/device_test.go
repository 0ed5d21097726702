// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// nodeAddrs are of the uplink.
var nodeAddrs = []netip.Addr{netip.MustParseAddr(world.NodeV4), netip.MustParseAddr(world.NodeV6)}

// newDeviceRig has listeners at the uplink's own addresses as well.
func newDeviceRig(t *testing.T) *rig {
	t.Helper()
	r := newBareRig(t)
	r.devices = nodeAddrs
	r.open()
	r.setDevice(loader.BoundDevice{Addr4: nodeAddrs[0], Addr6: nodeAddrs[1]})
	must(t, r.dp.SetOwn(prefixes(nodeAddrs...)))
	return r
}

// setDevice tells of the listeners at the uplink.
func (r *rig) setDevice(d loader.BoundDevice) {
	r.t.Helper()
	must(r.t, r.world.Node.Do(func() error {
		i, err := net.InterfaceByName(world.Uplink)
		if err == nil {
			d.Index = i.Index
			err = r.dp.SetDevices([]loader.BoundDevice{d})
		}
		return err
	}))
}

func prefixes(addrs ...netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		out[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return out
}

// deviceChoices are the ways in which programs choose a device; the last one is
// systemd-resolved's.
var deviceChoices = [][]string{{"name"}, {"index"}, {"unicast"}, {"unicast", "index"}}

// TestBoundToDevice: a socket that is bound to a device is redirected to an
// address of the device, for loopback is out of its reach.
func TestBoundToDevice(t *testing.T) {
	r := newDeviceRig(t)
	for _, d := range dsts {
		r.allow(d.addr, 443, policy.TCP, policy.Proxy)
		for _, how := range deviceChoices {
			for _, c := range []struct {
				kind string
				port int
			}{{"tcp", 443}, {"tcp", 53}, {"udp", 53}, {"sendto", 53}} {
				dst := hostport(d.addr, c.port)
				got := r.run(true, "device", append([]string{dst, c.kind + d.mapped, world.Uplink}, how...)...)
				want := result{Data: dst + " true", Peer: dst, From: dst}
				if c.kind == "tcp" {
					want.From = "" // recvfrom(2) says nothing of a connection
				}
				if c.kind == "sendto" {
					want.Peer = ""
				}
				if got != want {
					t.Errorf("%s, %s port %d, bound by %v: %+v, want %+v", d.name, c.kind, c.port, how, got, want)
				}
			}
		}
	}
	r.nothingLeft()
	// The positive twin: without egressd a bound socket reaches a server.
	if got := r.run(false, "device", hostport(world.StrangerV4, 443), "sendto", world.Uplink, "name"); got.Data == "" {
		t.Errorf("not captured: %+v, want an answer", got)
	}
}

// TestDeviceWithoutListener: where egressd does not stand at the device, a bound
// socket is refused at once, under a reason of its own and with the destination
// that was dialled.
func TestDeviceWithoutListener(t *testing.T) {
	r := newDeviceRig(t)
	r.setDevice(loader.BoundDevice{})
	events := r.serveEvents()
	for _, d := range dsts {
		r.allow(d.addr, 443, policy.TCP, policy.Proxy)
		for _, how := range deviceChoices {
			for kind, want := range map[string]string{"tcp": "ECONNREFUSED", "udp": "ECONNREFUSED", "sendto": "EPERM"} {
				port := 53
				if kind == "tcp" {
					port = 443
					if len(how) == 1 && how[0] == "unicast" {
						continue // is not for TCP
					}
				}
				dst := hostport(d.addr, port)
				got := r.run(true, "device", append([]string{dst, kind + d.mapped, world.Uplink}, how...)...)
				if got.Errno != want {
					t.Errorf("%s, %s, bound by %v: %+v, want %s", d.name, kind, how, got, want)
				}
				if e := <-events; e.Reason != policy.ReasonDevice || e.Dst.String() != dst {
					t.Errorf("%s, %s, bound by %v: the event says %s of %s, want %s of %s", d.name, kind, how, e.Reason, e.Dst, policy.ReasonDevice, dst)
				}
			}
		}
	}
	// What a control message chooses only the packet tells.
	for _, d := range dsts {
		dst := hostport(d.addr, 53)
		got := r.run(true, "device", dst, "sendto"+d.mapped, world.Uplink, "pktinfo")
		if got.Errno != "EPERM" && got.Errno != "ENETUNREACH" {
			t.Errorf("%s, control message: %+v, want a refusal", d.name, got)
		}
		if got.Errno != "EPERM" {
			continue // the kernel has no route to ::1 by a device
		}
		if e := <-events; e.Reason != policy.ReasonDevice || e.Dst.String() != dst {
			t.Errorf("%s, control message: the event says %s of %s", d.name, e.Reason, e.Dst)
		}
	}
	r.nothingLeft()
}

// TestDeviceListenerIsDeaf: the listeners at the device's addresses hear nothing
// from the wire.
func TestDeviceListenerIsDeaf(t *testing.T) {
	r := newDeviceRig(t)
	for _, a := range nodeAddrs {
		got := r.runIn(r.world.Net, nil, "device", hostport(a.String(), int(r.ports.Proxy)), "tcp", "lo", "impatient")
		if got.Errno != "EINPROGRESS" {
			t.Errorf("a connection from the wire to %s: %+v, want silence", a, got)
		}
		if got := r.runIn(r.world.Net, nil, "sendto", hostport(a.String(), int(r.ports.DNSUDP[0]))); got.Errno != "EAGAIN" {
			t.Errorf("a datagram from the wire to %s: %+v, want silence", a, got)
		}
	}
}

// TestOwnAddress: an address of the node is the node, for sockets of the node's
// network namespace, and nothing that goes there leaves it.
func TestOwnAddress(t *testing.T) {
	r := newRig(t)
	// A second address, so that source and destination can differ.
	second := []netip.Addr{netip.MustParseAddr("198.51.100.20"), netip.MustParseAddr("2001:db8:5::20")}
	must(t, r.world.GiveNode(second...))
	const port = 8000
	for _, a := range append(nodeAddrs[:2:2], second...) {
		serveOwn(t, r, netip.AddrPortFrom(a, port))
	}
	try := func(stage string, captured bool, want string) {
		t.Helper()
		for i, a := range nodeAddrs {
			dst := hostport(a.String(), port)
			kinds := []string{"tcp", "udp", "sendto"}
			if i == 0 {
				kinds = append(kinds, "tcp-mapped", "udp-mapped", "sendto-mapped")
			}
			for _, kind := range kinds {
				got := r.run(captured, kind, dst)
				refused := got.Errno == "ECONNREFUSED" || got.Errno == "EPERM"
				if (want == "" && !refused) || (want != "" && got.Data != want) {
					t.Errorf("%s: %s to %s: %+v, want %q", stage, kind, dst, got, want)
				}
			}
			for _, kind := range []string{"tcp", "udp", "sendto"} {
				got := r.run(captured, "device", dst, kind, world.Uplink, "from="+second[i].String())
				refused := got.Errno == "ECONNREFUSED" || got.Errno == "EPERM"
				if (want == "" && !refused) || (want != "" && got.Data != want) {
					t.Errorf("%s: %s from %s to %s: %+v, want %q", stage, kind, second[i], dst, got, want)
				}
			}
		}
	}
	try("not captured", false, "own")
	try("not known to be own", true, "")
	must(t, r.dp.SetOwn(prefixes(append(nodeAddrs[:2:2], second...)...)))
	try("own", true, "own")
	for _, a := range nodeAddrs {
		if got := r.run(true, "tcp", hostport(a.String(), int(r.ports.Proxy))); got.Errno != "ECONNREFUSED" {
			t.Errorf("a port of egressd at %s: %+v", a, got)
		}
	}
	r.nothingLeft()
	must(t, r.dp.SetOwn(nil))
	try("not own any more", true, "")
}

// TestOwnAddressIsTheNodes: the node's address is another's in another network
// namespace.
func TestOwnAddressIsTheNodes(t *testing.T) {
	r := newRig(t)
	must(t, r.dp.SetOwn(prefixes(nodeAddrs...)))
	pods, err := r.world.AddPods(1, false)
	must(t, err)
	pod := pods[0]
	for _, a := range nodeAddrs {
		serveOwn(t, r, netip.AddrPortFrom(a, 8000))
		dst := hostport(a.String(), 8000)
		if got := r.runIn(pod.Netns, nil, "tcp", dst); got.Data != "own" {
			t.Fatalf("a pod that is not captured: %+v", got)
		}
		for _, kind := range []string{"tcp", "udp", "sendto"} {
			got := r.runIn(pod.Netns, r.cg, kind, dst)
			if got.Errno != "ECONNREFUSED" && got.Errno != "EPERM" {
				t.Errorf("%s from a captured pod to %s: %+v, want a refusal", kind, dst, got)
			}
		}
	}
}

// TestOwnAddressLeadsAway: what was let pass as the node's own and leaves it all
// the same, because the address is gone or NAT stands there, is refused.
func TestOwnAddressLeadsAway(t *testing.T) {
	r := newRig(t)
	away := []netip.Addr{netip.MustParseAddr(world.StrangerV4), netip.MustParseAddr(world.StrangerV6)}
	must(t, r.dp.SetOwn(prefixes(away...)))
	events := r.serveEvents()
	for _, a := range away {
		for _, kind := range []string{"syn", "udp", "sendto"} {
			dst := hostport(a.String(), 443)
			got := r.run(true, kind, dst)
			if got.Data != "" {
				t.Errorf("%s to %s: %+v", kind, dst, got)
			}
			e := <-events
			if e.Reason != policy.ReasonMartian && e.Reason != policy.ReasonNoRule || e.Dst.String() != dst {
				t.Errorf("%s to %s: the event says %s of %s", kind, dst, e.Reason, e.Dst)
			}
		}
		if n := r.world.Packets(a); n != 0 {
			t.Errorf("%d packets reached %s", n, a)
		}
	}
	if got := r.run(false, "sendto", hostport(world.StrangerV4, 443)); got.Data == "" {
		t.Errorf("not captured: %+v, want an answer", got)
	}
}

// serveOwn answers at an address of the node, outside of the captured cgroup.
func serveOwn(t *testing.T, r *rig, at netip.AddrPort) {
	t.Helper()
	ln, err := r.world.Node.Listen(at)
	must(t, err)
	pc, err := r.world.Node.ListenPacket(at)
	must(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("own"))
			c.Close()
		}
	})
	serving.Go(func() {
		buf := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte("own"), from)
		}
	})
	t.Cleanup(func() { ln.Close(); pc.Close(); serving.Wait() })
}

// nothingLeft fails when something left the node for where clients were sent in
// these tests, or for loopback.
func (r *rig) nothingLeft() {
	r.t.Helper()
	for p, n := range r.world.Wire() {
		if p.Dst.IsLoopback() || slices.Contains(nodeAddrs, p.Dst) || p.Dst.String() == world.StrangerV4 || p.Dst.String() == world.StrangerV6 {
			r.t.Errorf("%d packets to %s left by the uplink", n, p.Dst)
		}
	}
}
