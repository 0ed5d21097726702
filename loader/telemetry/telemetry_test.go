// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/abi"
	"github.com/egressd/egressd/policy"
)

// raw is an event as the kernel writes it.
func raw(e bpf.EgressdEgdEvent) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e))
}

func addr(s string) [16]uint8 { return netip.MustParseAddr(s).As16() }

// TestParseEvent: what becomes of the kernel's events.
func TestParseEvent(t *testing.T) {
	const first = uint8(bpf.EgressdEgdEventKindEGD_E_FIRST)
	const denied, closed = uint8(bpf.EgressdEgdReasonEGD_R_NO_RULE), uint8(bpf.EgressdEgdEventKindEGD_E_CLOSE)
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	for _, c := range []struct {
		name string
		e    bpf.EgressdEgdEvent
		want KernelEvent
		cut  bool
	}{
		{"denied, IPv4", bpf.EgressdEgdEvent{Dst: addr("::ffff:192.0.2.1"), Dport: abi.Port(443), Proto: 6, Reason: denied},
			KernelEvent{Dst: at("192.0.2.1:443"), Peer: at("192.0.2.1:443"), Transport: policy.TCP, Reason: policy.ReasonNoRule}, false},
		{"denied, IPv6, of a reason that this version does not know", bpf.EgressdEgdEvent{Dst: addr("2001:db8::1"), Dport: abi.Port(53), Proto: 17, Reason: 255},
			KernelEvent{Dst: at("[2001:db8::1]:53"), Peer: at("[2001:db8::1]:53"), Transport: policy.UDP, Reason: policy.ReasonNoRule}, false},
		{"to an endpoint, with a name", bpf.EgressdEgdEvent{Dst: addr("::ffff:192.0.2.1"), Dport: abi.Port(443), Peer: addr("::ffff:198.51.100.7"), PeerPort: abi.Port(8443),
			Proto: 6, Verdict: uint8(policy.Inspect), NameLen: 3, Name: [256]uint8{'a', '.', 'b', 'x'}},
			KernelEvent{Dst: at("192.0.2.1:443"), Peer: at("198.51.100.7:8443"), Transport: policy.TCP, Verdict: policy.Inspect, Reason: policy.ReasonAllowed, Name: "a.b"}, false},
		{"open, and denied now", bpf.EgressdEgdEvent{Dst: addr("::ffff:192.0.2.1"), Dport: abi.Port(80), Src: addr("::ffff:10.0.0.2"), Sport: abi.Port(5000), Proto: 6, Reason: denied, Cookie: 9},
			KernelEvent{Dst: at("192.0.2.1:80"), Peer: at("192.0.2.1:80"), Src: at("10.0.0.2:5000"), Transport: policy.TCP, Reason: policy.ReasonNoRule, Cookie: 9}, true},
		{"the same in audit mode", bpf.EgressdEgdEvent{Dst: addr("::ffff:192.0.2.1"), Dport: abi.Port(80), Src: addr("::ffff:10.0.0.2"), Sport: abi.Port(5000), Proto: 6, Reason: denied, Audit: 1},
			KernelEvent{Dst: at("192.0.2.1:80"), Peer: at("192.0.2.1:80"), Src: at("10.0.0.2:5000"), Transport: policy.TCP, Reason: policy.ReasonNoRule, Audit: true}, false},
		{"the end", bpf.EgressdEgdEvent{Dst: addr("2001:db8::1"), Dport: abi.Port(80), Src: addr("2001:db8::2"), Sport: abi.Port(5000), Proto: 6, Kind: closed, Sent: 3, Received: 4, Opened: 1},
			KernelEvent{Dst: at("[2001:db8::1]:80"), Peer: at("[2001:db8::1]:80"), Src: at("[2001:db8::2]:5000"), Transport: policy.TCP, Reason: policy.ReasonAllowed, Closed: true, Sent: 3, Received: 4, Duration: time.Second}, false},
		{"first bytes, of no protocol", bpf.EgressdEgdEvent{Dst: addr("2001:db8::1"), Dport: abi.Port(443), Proto: 6, Kind: first, Reason: denied, Audit: 1, NameLen: 4, Name: [256]uint8{'S', 'S', 'H', '-'}},
			KernelEvent{Dst: at("[2001:db8::1]:443"), Peer: at("[2001:db8::1]:443"), Transport: policy.TCP, Reason: policy.ReasonNoRule, Audit: true, First: SpokenOther}, false},
	} {
		c.e.Time = uint64(time.Second) + 1
		got, ok := parseEvent(raw(c.e))
		if age := time.Since(got.Time); !ok || age < 0 { // long ago, by the monotonic clock
			t.Errorf("%s: %t, at %v", c.name, ok, got.Time)
		}
		if got.Time = c.want.Time; got != c.want {
			t.Errorf("%s:\n%+v, want\n%+v", c.name, got, c.want)
		}
		if got.Cut() != c.cut {
			t.Errorf("%s: cut: %t", c.name, got.Cut())
		}
		if s := got.Socket(); c.cut && (s.Src != got.Src || s.Dst != got.Peer || s.Cookie != got.Cookie) {
			t.Errorf("%s: the socket %+v", c.name, s)
		}
	}
	whole := raw(bpf.EgressdEgdEvent{})
	if _, ok := parseEvent(whole[:len(whole)-1]); ok {
		t.Error("a part of an event is taken for one")
	}
	long := bpf.EgressdEgdEvent{NameLen: 1<<16 - 1}
	if e, ok := parseEvent(raw(long)); !ok || len(e.Name) != len(long.Name) {
		t.Errorf("a name longer than its place: %d bytes, %t", len(e.Name), ok)
	}
}

// TestSpoken: what first bytes are taken for.
func TestSpoken(t *testing.T) {
	const hello, part = uint16(bpf.EgressdEgdFirstEGD_FIRST_HELLO), uint16(bpf.EgressdEgdFirstEGD_FIRST_PART)
	for _, c := range []struct {
		hello    uint16
		text     string
		received uint64
		want     Spoken
	}{
		{hello, "a.example", 0, SpokenTLS},
		{part, "", 0, SpokenTLS},
		{hello, "", 0, SpokenOther}, // no name
		{0, "\x16\x03\x01", 0, SpokenOther},
		{0, "GET / HTTP/1.1\r\n", 0, SpokenHTTP},
		{0, "OPTIONS * HTTP/1.1\r\n", 0, SpokenHTTP},
		{0, "GET ", 0, SpokenHTTP},
		{0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, SpokenHTTP},
		{0, "GET http://a.example/ HTTP/1.1\r\n", 0, SpokenOther}, // to a proxy
		{0, "CONNECT a.example:443 HTTP/1.1", 0, SpokenOther},
		{0, "SSH-2.0-OpenSSH", 0, SpokenOther},
		{0, "", 0, SpokenOther},
		{0, "EHLO /", 60, SpokenOther}, // the server began
		{hello, "a.example", 1, SpokenOther},
	} {
		e := bpf.EgressdEgdEvent{Kind: uint8(bpf.EgressdEgdEventKindEGD_E_FIRST), Hello: c.hello, NameLen: uint16(len(c.text)), Received: c.received}
		copy(e.Name[:], c.text)
		got, _ := parseEvent(raw(e))
		if got.First != c.want || got.Name != map[bool]string{true: c.text}[c.hello == hello] {
			t.Errorf("%d %q %d: %q, name %q", c.hello, c.text, c.received, got.First, got.Name)
		}
	}
}

// TestCounterNames: each counter has a name of its own, in the groups that the metric
// tells apart, and each denial that of its reason.
func TestCounterNames(t *testing.T) {
	by := map[string]uint32{}
	for id, name := range CounterNames() {
		if other, twice := by[name]; twice {
			t.Errorf("%d and %d are both %s", id, other, name)
		}
		by[name] = id
		group, reason, ok := strings.Cut(name, "/")
		switch {
		case !ok || reason == "" || !strings.Contains(" deny pass redirect audit lost ", " "+group+" "):
			t.Errorf("%d: %s", id, name)
		case (group == "deny") != (id < uint32(bpf.EgressdEgdReasonEGD_R_MAX)):
			t.Errorf("%d: %s, as a number of a reason or of none", id, name)
		}
	}
	if by["deny/no-rule"] != uint32(bpf.EgressdEgdReasonEGD_R_NO_RULE) {
		t.Error("a denial is not counted under its reason")
	}
	CounterNames()[by["deny/no-rule"]] = "x"
	if CounterNames()[by["deny/no-rule"]] != "deny/no-rule" {
		t.Error("the names can be changed")
	}
}
