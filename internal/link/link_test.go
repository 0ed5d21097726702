// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/machine"
	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func TestParseChoice(t *testing.T) {
	for _, c := range []struct {
		in    string
		link  Link
		picks bool
	}{
		{"auto", Link{Name: "veth1", Outside: true}, true},
		{"auto", Link{Name: "eth0", Outside: true, Uplink: true}, false},
		{"auto", Link{Name: "br0"}, false},
		{"none", Link{Name: "veth1", Outside: true}, false},
		{"tap*,vnet0", Link{Name: "tap7"}, true},
		{"tap*,vnet0", Link{Name: "vnet0"}, true},
		{"tap*,vnet0", Link{Name: "vnet1", Outside: true}, false},
	} {
		choice, err := ParseChoice(c.in)
		if err != nil || choice.Picks(c.link) != c.picks {
			t.Errorf("%s picks %+v: %t, %v", c.in, c.link, choice.Picks(c.link), err)
		}
	}
	for _, bad := range []string{"", "tap[", "tap0,,tap1"} {
		if _, err := ParseChoice(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestList: what kinds of interfaces are there, and Watch says when that changes.
func TestList(t *testing.T) {
	testenv.RequireTun(t)
	w := testenv.World(t)
	if _, err := w.AddNeighbour("pod0", 1); err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.Node.Do(func() error {
			return Watch(ctx, func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		})
	}()
	<-changed // it looks once at the beginning
	m, err := machine.New(w, "tap0", 1)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(again / 2):
		t.Error("nobody said that there is a tap")
	}
	var all []Link
	if err := w.Node.Do(func() (err error) { all, err = List(); return err }); err != nil {
		t.Fatal(err)
	}
	want := map[string]Link{
		"lo": {}, "pod0": {Outside: true, Frames: true}, "tap0": {Outside: true, Frames: true},
		"eth0": {Outside: true, Uplink: true, Frames: true},
	}
	for _, l := range all {
		x, ok := want[l.Name]
		if ok && (l.Outside != x.Outside || l.Uplink != x.Uplink || l.Frames != x.Frames || l.L3) {
			t.Errorf("%+v, want %+v", l, x)
		}
		delete(want, l.Name)
	}
	if len(want) != 0 {
		t.Errorf("not listed: %v", want)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestInbound: what connection tracking knows of connections to a pod.
func TestInbound(t *testing.T) {
	w := testenv.World(t)
	pod, err := w.AddNeighbour("pod0", 1)
	if err != nil {
		t.Fatal(err)
	}
	stranger := net.ParseIP("203.0.113.66").To4()
	err = w.Node.Do(func() error {
		flow := &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET, TimeOut: 600,
			Forward:   netlink.IPTuple{SrcIP: stranger, DstIP: net.ParseIP("198.51.100.10").To4(), Protocol: unix.IPPROTO_TCP, SrcPort: 4000, DstPort: 80},
			Reverse:   netlink.IPTuple{SrcIP: net.ParseIP(pod.V4).To4(), DstIP: stranger, Protocol: unix.IPPROTO_TCP, SrcPort: 8080, DstPort: 4000},
			ProtoInfo: &netlink.ProtoInfoTCP{State: 3}, // TCP_CONNTRACK_ESTABLISHED
		}
		if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, flow); err != nil {
			return err
		}
		l, err := net.InterfaceByName("pod0")
		if err != nil {
			return err
		}
		got, err := Inbound(map[int]bool{l.Index: true})
		if err != nil {
			return err
		}
		want := Connection{l.Index, unix.IPPROTO_TCP, netip.AddrPortFrom(netip.MustParseAddr(pod.V4), 8080), netip.MustParseAddrPort("203.0.113.66:4000")}
		if len(got) != 1 || got[0] != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if got, err = Inbound(map[int]bool{l.Index + 100: true}); len(got) != 0 {
			t.Errorf("behind another interface: %+v", got)
		}
		return err
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		t.Skipf("needs nf_conntrack_netlink: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}
