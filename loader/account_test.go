// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/machine"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// accounts checks what workloads have of egd_origins against what is in there.
func (r *rig) accounts(when string, workloads ...uint32) {
	r.t.Helper()
	in := map[uint32]int{}
	for _, o := range r.published() {
		in[o.Workload]++
	}
	for _, w := range workloads {
		if n := r.dp.Origins(w).Entries; n != in[w] {
			r.t.Errorf("%s: workload %d has %d entries, its account says %d", when, w, in[w], n)
		}
	}
}

// asks sends DNS questions from a machine's address and many ports.
func (f *forger) asks(family string, from, n int) {
	f.t.Helper()
	own := netip.MustParseAddr(machine.V4)
	dst := netip.MustParseAddrPort(hostport(family, 53))
	if dst.Addr().Is6() {
		own = netip.MustParseAddr(machine.V6)
	}
	for i := range n {
		port := uint16(20000 + (from+i)%30000)
		data := binary.BigEndian.AppendUint32(nil, uint32(from+i))
		must(f.t, f.Send(f.Frame(machine.Segment{Protocol: 17, Src: netip.AddrPortFrom(own, port), Dst: dst, Data: data})))
	}
}

// TestInterfaceAccount: what an interface publishes counts against its workload's
// share, so it keeps nobody else from being served, and is taken off once.
func TestInterfaceAccount(t *testing.T) {
	f := newForger(t)
	f.guard(policy.Enforce)
	must(t, f.rig.world.Node.Do(f.dp.Steer))
	modest := f.workload("modest", 2)
	// Questions wait at a socket that nobody reads.
	deaf, err := f.rig.world.Node.ListenPacket(netip.MustParseAddrPort("127.0.0.1:0"))
	must(t, err)
	defer deaf.Close()
	transparent(t, deaf.(*net.UDPConn))
	ports := f.ports
	ports.Sockets = append(append([]loader.ListenerSocket(nil), f.ports.Sockets...), loader.ListenerSocket{
		Kind: loader.DNSUDPSocket, Addr: netip.MustParseAddr("127.0.0.1"), Conn: deaf.(*net.UDPConn),
	})
	must(t, f.dp.SetListeners(ports))
	const more = 9000
	f.asks(world.StrangerV4, 0, more)
	testenv.Until(t, "the share is used up", func() bool { return f.dp.Origins(1).Entries == f.dp.Origins(1).Max })
	if n := f.rig.counter("deny/quota"); n != more-uint64(f.dp.Origins(1).Max) {
		t.Errorf("%d questions were refused, want %d", n, more-f.dp.Origins(1).Max)
	}
	must(t, f.dp.SetListeners(f.ports))
	for _, a := range guardFamilies {
		if got := f.runIn(f.rig.world.Node, modest, "sendto", hostport(a, 53)); got.Data != hostport(a, 53)+" true" {
			t.Errorf("another workload: %+v", got)
		}
	}
	if _, err := f.dp.SweepOrigins(0); err != nil {
		t.Error(err)
	}
	if n := f.dp.Origins(1).Entries; n != 0 {
		t.Errorf("after the sweep the account says %d", n)
	}
	// The twin: the machine is served again.
	f.asks(world.StrangerV4, more, 1)
	testenv.Until(t, "the question is taken", func() bool { return f.dp.Origins(1).Entries == 0 })
	f.accounts("afterwards", 1, 2)
}

// TestAccounts: random load of sockets, pods' sockets and machines, sweeps in
// between; no account is ever off, or below zero.
func TestAccounts(t *testing.T) {
	f := newForger(t)
	f.guard(policy.Enforce)
	must(t, f.rig.world.Node.Do(f.dp.Steer))
	other := f.workload("other", 2)
	for _, d := range dsts {
		f.allow(d.addr, 443, policy.TCP, policy.Proxy)
	}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 2))
	sent := 0
	for range 150 {
		d := dsts[rnd.IntN(len(dsts))]
		switch rnd.IntN(6) {
		case 0, 1:
			n := 1 + rnd.IntN(50)
			f.asks(d.addr, sent, n)
			sent += n
		case 2:
			f.runIn(f.rig.world.Node, other, "sendto"+d.mapped, hostport(d.addr, 53))
		case 3:
			f.runIn(f.rig.world.Node, other, "tcp"+d.mapped, hostport(d.addr, 443))
		case 4:
			f.run(true, "udp"+d.mapped, hostport(d.addr, 53))
		case 5:
			if _, err := f.dp.SweepOrigins(time.Duration(rnd.IntN(2)) * time.Millisecond); err != nil {
				t.Error(err)
			}
		}
		for _, w := range []uint32{1, 2} {
			if n := f.dp.Origins(w).Entries; n < 0 {
				t.Fatalf("the account of %d says %d", w, n)
			}
		}
	}
	testenv.Until(t, "all is taken", func() bool {
		_, err := f.dp.SweepOrigins(0)
		return err == nil && len(f.rig.published()) == 0
	})
	f.accounts("at the end", 1, 2)
}
