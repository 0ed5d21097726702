// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/machine"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// forger sends segments as it likes them.
type forger struct {
	*rig
	*machine.Tap
	src, dst netip.AddrPort
	seq, ack uint32 // of the next segment
}

const forgedISN = 0xfffffff0 // the numbers soon begin again at 0

func newForger(t *testing.T) *forger {
	t.Helper()
	testenv.RequireTun(t)
	r := newRig(t)
	tap, err := machine.NewTap(r.world, "tap0", 0)
	must(t, err)
	t.Cleanup(func() { must(t, tap.Close()) })
	for _, a := range guardFamilies {
		_, err := r.world.AddTCP(netip.MustParseAddrPort(hostport(a, inspectPort)), "")
		must(t, err)
	}
	return &forger{rig: r, Tap: tap}
}

func (f *forger) guard(mode policy.Mode) {
	f.t.Helper()
	must(f.t, f.rig.world.Node.Do(func() error {
		return f.dp.Guard(loader.Interface{Index: f.Index, Name: f.Name, Workload: loader.WorkloadState{ID: 1, Policy: testPolicy, Mode: mode}})
	}))
}

// port gives each connection its own.
var forgedPort uint16 = 20000

// to begins a new flow.
func (f *forger) to(dst string) {
	own := machine.V4
	f.dst = netip.MustParseAddrPort(dst)
	if f.dst.Addr().Is6() {
		own = machine.V6
	}
	forgedPort++
	f.src = netip.AddrPortFrom(netip.MustParseAddr(own), forgedPort)
	f.seq, f.ack = forgedISN, 0
}

func (f *forger) send(s machine.Segment) {
	f.t.Helper()
	s.Src, s.Dst = f.src, f.dst
	if s.Flags != machine.SYN {
		s.Flags |= machine.ACK
		s.Ack = f.ack
	}
	must(f.t, f.Send(f.Frame(s)))
}

// hear waits for a segment with one of the flags, or with data.
func (f *forger) hear(flags uint8, ms int) (machine.Segment, bool) {
	f.t.Helper()
	for {
		frame, err := f.Receive(ms)
		if errors.Is(err, unix.EAGAIN) {
			return machine.Segment{}, false
		}
		must(f.t, err)
		if s, ok := machine.ParseTCP(frame, f.dst, f.src); ok && (s.Flags&flags != 0 || len(s.Data) > 0) {
			return s, true
		}
	}
}

// connect does the handshake.
func (f *forger) connect(dst string) {
	f.t.Helper()
	f.to(dst)
	f.send(machine.Segment{Seq: f.seq, Flags: machine.SYN})
	s, ok := f.hear(machine.SYN|machine.RST, 3000)
	if !ok || s.Flags&machine.RST != 0 {
		f.t.Fatalf("%s: no connection: %+v", dst, s)
	}
	f.seq++
	f.ack = s.Seq + 1
	f.send(machine.Segment{Seq: f.seq})
}

// answered says what the server or egressd answers: data, "reset" or "".
func (f *forger) answered() string {
	f.t.Helper()
	for {
		s, ok := f.hear(machine.RST, 300)
		switch {
		case !ok:
			return ""
		case s.Flags&machine.RST != 0:
			return "reset"
		case s.Seq == f.ack: // not one that was sent again
			f.ack += uint32(len(s.Data))
			return string(s.Data)
		}
	}
}

// forgeries are ways to let the server read another hello than egressd did.
// Each sends the good one so that the server never gets it, and then the bad.
var forgeries = map[string]func(f *forger, good, bad []byte){
	"bad checksum": func(f *forger, good, bad []byte) {
		f.send(machine.Segment{Seq: f.seq, Data: good, BadSum: true})
		f.send(machine.Segment{Seq: f.seq, Data: bad})
	},
	"low TTL": func(f *forger, good, bad []byte) {
		f.send(machine.Segment{Seq: f.seq, Data: good, TTL: 1})
		f.send(machine.Segment{Seq: f.seq, Data: bad})
	},
	"bad checksum, the bad one in two": func(f *forger, good, bad []byte) {
		f.send(machine.Segment{Seq: f.seq, Data: good, BadSum: true})
		f.send(machine.Segment{Seq: f.seq, Data: bad[:100]})
		f.send(machine.Segment{Seq: f.seq + 100, Data: bad[100:]})
	},
	"bad half, good whole": func(f *forger, good, bad []byte) {
		f.send(machine.Segment{Seq: f.seq, Data: bad[:len(bad)-10]})
		f.send(machine.Segment{Seq: f.seq, Data: good, BadSum: true})
		f.send(machine.Segment{Seq: f.seq + uint32(len(bad)-10), Data: bad[len(bad)-10:]})
	},
	"another beginning": func(f *forger, good, bad []byte) {
		// A second SYN that does not arrive would move the stream.
		f.send(machine.Segment{Seq: f.seq + 5000, Flags: machine.SYN, TTL: 1})
		f.send(machine.Segment{Seq: f.seq + 5001, Data: good})
		f.send(machine.Segment{Seq: f.seq, Data: bad})
	},
	"last byte first": func(f *forger, good, bad []byte) {
		n := uint32(len(bad)) - 1
		f.send(machine.Segment{Seq: f.seq + n, Data: bad[n:]})
		f.send(machine.Segment{Seq: f.seq, Data: bad[:n]})
		f.send(machine.Segment{Seq: f.seq, Data: good, BadSum: true})
	},
}

// TestForgedHello: the server never reads a hello that egressd has not read.
func TestForgedHello(t *testing.T) {
	f := newForger(t)
	good, bad := firstBytes("classic", goodName), firstBytes("classic", "another.example")
	for _, a := range guardFamilies {
		must(t, f.dp.SetAddress(testPolicy, netip.MustParseAddr(a), []policy.Opening{
			{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Inspect, Name: goodName},
		}))
		dst := hostport(a, inspectPort)
		f.guard(policy.Enforce)
		f.connect(dst)
		f.send(machine.Segment{Seq: f.seq, Data: good})
		if got := f.answered(); got != string(good) {
			t.Errorf("%s: the good hello alone: %q", a, got)
		}
		// What was lost is sent again, in other pieces as well.
		f.connect(dst)
		f.send(machine.Segment{Seq: f.seq, Data: good, BadSum: true})
		f.send(machine.Segment{Seq: f.seq, Data: good[:50]})
		if got := f.answered(); got != string(good[:50]) {
			t.Errorf("%s: a part sent again: %q", a, got)
		}
		f.send(machine.Segment{Seq: f.seq + 50, Data: good[50:]})
		if got := f.answered(); got != string(good[50:]) {
			t.Errorf("%s: the rest sent again: %q", a, got)
		}
		for name, forge := range forgeries {
			f.guard(policy.Off)
			f.connect(dst)
			forge(f, good, bad)
			if got := f.answered(); got == "" || got == "reset" {
				t.Errorf("%s %s unguarded: %q, want an echo", a, name, got)
			}
			f.guard(policy.Enforce)
			f.connect(dst)
			forge(f, good, bad)
			read := ""
			for got := f.answered(); got != "" && got != "reset"; got = f.answered() {
				read += got
			}
			if len(read) >= len(bad) && read != string(good) {
				t.Errorf("%s %s: the server read another hello", a, name)
			}
		}
		// The server would take the byte out of the stream.
		f.connect(dst)
		f.send(machine.Segment{Seq: f.seq, Data: good[:1], Flags: machine.URG})
		if got := f.answered(); got != "reset" {
			t.Errorf("%s: an urgent byte: %q, want a reset", a, got)
		}
	}
}

// TestForgedPackets: what no rule can speak about does not pass, and what
// passes unguarded shows that it would.
func TestForgedPackets(t *testing.T) {
	f := newForger(t)
	for _, a := range guardFamilies {
		open := []policy.Opening{
			{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Direct},
			{Port: 7, Transport: policy.UDP, Verdict: policy.Direct},
		}
		must(t, f.dp.SetAddress(testPolicy, netip.MustParseAddr(a), open))
		options := []byte{1, 1, 1, 0}
		if a == world.StrangerV6 {
			options = []byte{0, 0, 1, 4, 0, 0, 0, 0}
		}
		for _, c := range []struct {
			name   string
			s      machine.Segment
			port   int
			reason string
		}{
			{"fragment", machine.Segment{Protocol: unix.IPPROTO_UDP, Fragment: fragmentOf(a, 0, true), Data: make([]byte, 16)}, 7, "deny/fragment"},
			{"options", machine.Segment{Protocol: unix.IPPROTO_UDP, Options: options}, 7, "deny/ip-options"},
			{"other protocol", machine.Segment{Protocol: unix.IPPROTO_UDPLITE}, 7, "deny/socket-type"},
			{"denied port", machine.Segment{Protocol: unix.IPPROTO_UDP}, 8, "deny/no-rule"},
			{"middle of a connection", machine.Segment{Seq: 5, Data: []byte("x")}, inspectPort + 1, "deny/no-rule"},
		} {
			for _, mode := range []policy.Mode{policy.Off, policy.Enforce} {
				f.guard(mode)
				f.to(hostport(a, c.port))
				before, count := f.passed(), f.counter(c.reason)
				f.send(c.s)
				f.barrier(a)
				passed := f.passed() - before
				if mode == policy.Off && passed == 0 {
					t.Errorf("%s %s: it does not even pass unguarded", a, c.name)
				}
				if mode == policy.Enforce && (passed != 0 || f.counter(c.reason) == count) {
					t.Errorf("%s %s: %d packets passed, %s is %d", a, c.name, passed, c.reason, f.counter(c.reason))
				}
			}
		}
	}
}

// fragmentOf is the fragment field of a family.
func fragmentOf(a string, offset uint16, more bool) uint16 {
	if a == world.StrangerV6 {
		if more {
			return offset<<3 | 1
		}
		return offset << 3
	}
	if more {
		return offset | 0x2000
	}
	return offset
}

// passed counts what has reached the other end but for the barriers.
func (f *forger) passed() int {
	n := 0
	for p, count := range f.rig.world.Wire() {
		if p.Dst == f.dst.Addr() && (p.Protocol != unix.IPPROTO_TCP || p.Port != inspectPort) {
			n += count
		}
	}
	return n
}

func (f *forger) counter(name string) uint64 {
	f.t.Helper()
	all, err := f.dp.Counters()
	must(f.t, err)
	return all[name]
}

// barrier waits until what was sent before has gone where it goes: the
// device is a queue, and so is the wire.
func (f *forger) barrier(a string) {
	f.t.Helper()
	src, dst, seq := f.src, f.dst, f.seq
	f.connect(hostport(a, inspectPort))
	f.send(machine.Segment{Seq: f.seq, Flags: machine.RST})
	f.src, f.dst, f.seq = src, dst, seq
}
