// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/machine"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// sendFrame sends a frame by the uplink, past the IP stack.
func sendFrame(dst netip.AddrPort, kind string) result {
	s := machine.Segment{Dst: dst, Protocol: unix.IPPROTO_UDP, Src: netip.MustParseAddrPort(world.NodeV4 + ":4444")}
	if dst.Addr().Is6() {
		s.Src = netip.MustParseAddrPort("[" + world.NodeV6 + "]:4444")
	}
	switch kind {
	case "arp":
		s.EtherType = unix.ETH_P_ARP
	case "802.1X":
		s.EtherType = unix.ETH_P_PAE
	case "VLAN":
		s.EtherType = unix.ETH_P_8021Q
	case "DHCP":
		s.Src = netip.MustParseAddrPort("0.0.0.0:68")
	}
	frame := (&machine.Tap{Host: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}).Frame(s)
	if err := sendRaw(frame); err != nil {
		return result{Errno: errnoName(err)}
	}
	return result{Data: "sent"}
}

// sendRaw sends a frame by the uplink of the namespace.
func sendRaw(frame []byte) error {
	l, err := net.InterfaceByName(world.Uplink)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Halen: 6})
}

// TestGuardUplink: frames of captured packet sockets end there, except what a
// link needs; the rest of what leaves is not looked at.
func TestGuardUplink(t *testing.T) {
	r := newRig(t)
	index := r.linkIndex(world.Uplink)
	id, err := r.cg.ID()
	must(t, err)
	guard := func() error {
		return r.dp.Guard(loader.Interface{Index: index, Name: world.Uplink, Kind: loader.Uplink})
	}
	for _, a := range guardFamilies { // the twin
		if got := r.run(true, "frame", hostport(a, 443), "ip"); got.Data != "sent" || r.world.Packets(netip.MustParseAddr(a)) == 0 {
			t.Fatalf("%s unguarded: %+v", a, got)
		}
	}
	must(t, r.world.Node.Do(guard))
	for _, c := range []struct {
		kind, addr string
		port       int
		counter    string
		drops      bool
	}{
		{"ip", world.StrangerV4, 443, "deny/raw-frame", true},
		{"ip", world.StrangerV6, 443, "deny/raw-frame", true},
		{"VLAN", world.StrangerV4, 443, "deny/raw-frame", true},
		{"ip", "255.255.255.255", 67, "deny/raw-frame", true}, // not from the port of clients
		{"DHCP", world.StrangerV4, 67, "deny/raw-frame", true},
		{"DHCP", "255.255.255.255", 67, "pass/link-control", false},
		{"arp", world.StrangerV4, 443, "pass/link-control", false},
		{"802.1X", world.StrangerV4, 443, "pass/link-control", false},
	} {
		before, err := r.dp.Counters()
		must(t, err)
		left := r.world.Packets(netip.MustParseAddr(c.addr))
		got := r.run(true, "frame", hostport(c.addr, c.port), c.kind)
		after, err := r.dp.Counters()
		must(t, err)
		if (got.Errno == "ENOBUFS") != c.drops || after[c.counter] == before[c.counter] {
			t.Errorf("%s to %s: %+v, %s %d -> %d", c.kind, c.addr, got, c.counter, before[c.counter], after[c.counter])
		}
		if n := r.world.Packets(netip.MustParseAddr(c.addr)) - left; c.drops && n != 0 {
			t.Errorf("%s to %s: %d packets left", c.kind, c.addr, n)
		}
	}
	dst := hostport(world.StrangerV4, 443)
	if got := r.run(false, "frame", dst, "ip"); got.Data != "sent" {
		t.Errorf("not captured: %+v", got)
	}
	for _, w := range []loader.WorkloadState{{ID: 1, Mode: policy.Audit}, {ID: 1, Mode: policy.Off}, {ID: 2, Exempt: true}} {
		must(t, r.dp.SetWorkload(id, w))
		if got := r.run(true, "frame", dst, "ip"); got.Data != "sent" {
			t.Errorf("%+v: %+v", w, got)
		}
	}
	if got := r.run(false, "sendto", dst); got.Data == "" {
		t.Errorf("an ordinary datagram: %+v", got)
	}
}
