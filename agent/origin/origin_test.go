// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/probe"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/arrival"
	"github.com/egressd/egressd/policy"
)

// kernel has entries by the source of a flow, of which that of a connection is there
// once. It is the probe as well: of workload 4, or of nobody's source with isOwn.
type kernel struct {
	entries map[netip.AddrPort]loader.Origin
	asked   []arrival.Arrival
	isOwn   bool
	greeted []netip.Addr
	clients []probe.Path
}

func (k *kernel) TakeOrigin(a arrival.Arrival) (loader.Origin, bool) {
	o, ok := k.DatagramOrigin(a)
	delete(k.entries, a.Src)
	return o, ok
}

func (k *kernel) DatagramOrigin(a arrival.Arrival) (loader.Origin, bool) {
	k.asked = append(k.asked, a)
	o, ok := k.entries[a.Src]
	return o, ok
}

func (k *kernel) NameOf(number uint32) string { return "w" + strconv.Itoa(int(number)) }

func (k *kernel) Is(o loader.Origin, known bool, _ arrival.Arrival) bool {
	return known && o.Workload == 4 || !known && k.isOwn
}

func (k *kernel) Greet(_ *net.TCPConn, local netip.Addr) { k.greeted = append(k.greeted, local) }

func (k *kernel) Client(p probe.Path, _ netip.Addr) dnsproxy.Client {
	k.clients = append(k.clients, p)
	return dnsproxy.Client{Workload: "probe"}
}

func (k *kernel) lookup() Lookup { return Lookup{Datapath: k, Workloads: k, Probe: k} }

var noted = loader.Origin{
	Dst: netip.MustParseAddrPort("203.0.113.7:443"), Workload: 9, Policy: 3, Mode: policy.Audit, PID: 11, UID: 12, Command: "curl",
}

// accepted is a connection as a listener on loopback accepts it, and its source.
func accepted(t *testing.T, address string) (*net.TCPConn, netip.AddrPort) {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn), client.LocalAddr().(*net.TCPAddr).AddrPort()
}

// TestIdentify: a connection is that of whom the kernel redirected, once; without an
// entry it is refused; the probe's is served and never decided.
func TestIdentify(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		c, src := accepted(t, address)
		k := &kernel{entries: map[netip.AddrPort]loader.Origin{src: noted}}
		got, err := k.lookup().Identify(c)
		want := forward.Conn{
			Dst: noted.Dst, Src: src, Layer: flow.Egress, Workload: "w9", WorkloadID: 9,
			Process: flow.Process{PID: 11, UID: 12, Command: "curl"}, Policy: 3, Mode: policy.Audit,
		}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", address, got, err, want)
		}
		// The entry is taken: whoever dials from the same place again is nobody.
		if got, err = k.lookup().Identify(c); !errors.Is(err, errNoOrigin) || got != (forward.Conn{Src: src, Layer: flow.Egress}) {
			t.Errorf("%s, again: %+v, %v", address, got, err)
		}
		for _, probe := range []*kernel{{isOwn: true}, {entries: map[netip.AddrPort]loader.Origin{src: {Workload: 4}}}} {
			if got, err = probe.lookup().Identify(c); !errors.Is(err, forward.ErrServed) || got != (forward.Conn{}) || !slices.Equal(probe.greeted, []netip.Addr{netip.MustParseAddrPort(c.LocalAddr().String()).Addr()}) {
				t.Errorf("%s, the probe: %+v, %v, greeted %v", address, got, err, probe.greeted)
			}
		}
	}
}

// TestNoTCP: what is no TCP connection is nobody's.
func TestNoTCP(t *testing.T) {
	k := &kernel{isOwn: true}
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	if client, ok := k.lookup().OfConn(one); ok || client != (dnsproxy.Client{}) || len(k.asked) > 0 {
		t.Errorf("no TCP: %+v, %t", client, ok)
	}
}

// TestQuestions: who asks over TCP or UDP is whom the kernel redirected; the token of
// a datagram is its own; one that came by an interface is answered as its server.
func TestQuestions(t *testing.T) {
	client := dnsproxy.Client{
		Workload: "w9", Process: flow.Process{PID: 11, UID: 12, Command: "curl"}, Policy: 3, Mode: policy.Audit, Server: noted.Dst,
	}
	c, src := accepted(t, "127.0.0.1:0")
	k := &kernel{entries: map[netip.AddrPort]loader.Origin{src: noted}}
	if got, ok := k.lookup().OfConn(c); !ok || got != client {
		t.Errorf("TCP: %+v, %t", got, ok)
	}
	if _, ok := k.lookup().OfConn(c); ok {
		t.Error("TCP: the entry was taken, and answers again")
	}
	from, local := netip.MustParseAddrPort("192.0.2.9:5000"), netip.MustParseAddrPort("192.0.2.1:1053")
	byInterface := noted
	byInterface.Interface = 5
	k = &kernel{entries: map[netip.AddrPort]loader.Origin{from: byInterface}}
	client.AsServer = true
	if got, ok := k.lookup().OfDatagram(from, local, 1, []byte{1, 2, 3, 4, 5}); !ok || got != client {
		t.Errorf("UDP: %+v, %t", got, ok)
	}
	if want := (arrival.Arrival{Src: from, Local: local.Addr(), Slot: 1, Token: 0x01020304}); len(k.asked) != 1 || k.asked[0] != want {
		t.Errorf("UDP: asked of %+v, want %+v", k.asked, want)
	}
	if _, ok := k.lookup().OfDatagram(local, local, 1, nil); ok {
		t.Error("UDP: from nobody that was redirected, and answered")
	}
	k.isOwn = true
	if got, ok := k.lookup().OfDatagram(local, local, 1, nil); !ok || got.Workload != "probe" {
		t.Errorf("UDP, the probe: %+v, %t", got, ok)
	}
	c, _ = accepted(t, "[::1]:0")
	if got, ok := k.lookup().OfConn(c); !ok || got.Workload != "probe" {
		t.Errorf("TCP, the probe: %+v, %t", got, ok)
	}
	if want := []probe.Path{probe.DNSUDP, probe.DNSTCP}; !slices.Equal(k.clients, want) {
		t.Errorf("the probe: %v, want %v", k.clients, want)
	}
}
