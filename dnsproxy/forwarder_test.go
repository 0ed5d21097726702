// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestRoute: a process that is a trusted server is not asked what it asks.
func TestRoute(t *testing.T) {
	ap := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	local, local6, other, far := ap("127.0.0.1:53"), ap("[::1]:53"), ap("192.0.2.53:53"), ap("198.51.100.53:53")
	both := []netip.AddrPort{local, local6}
	tests := []struct {
		name   string
		trust  []netip.AddrPort
		is     []netip.AddrPort // what the client is the server of
		asked  netip.AddrPort
		expect []netip.AddrPort
	}{
		{"a program", both, nil, local, both},
		{"a program, elsewhere", both, nil, far, both},
		{"the forwarder", both, both, far, []netip.AddrPort{far}},
		{"the forwarder, mapped", both, both, ap("[::ffff:198.51.100.53]:53"), []netip.AddrPort{far}},
		{"one of two servers", []netip.AddrPort{local, other}, both, other, []netip.AddrPort{other}},
		{"itself", both, both, local6, nil},
		{"itself, and there is another", []netip.AddrPort{local, other}, both, local, []netip.AddrPort{other}},
		{"the server of an address that is not trusted", []netip.AddrPort{other}, both, far, []netip.AddrPort{other}},
	}
	for _, tt := range tests {
		r := newRig(t, Config{Serves: func(_ Client, a netip.AddrPort) bool { return slices.Contains(tt.is, a) }}, tt.trust...)
		if got := r.route(Client{Server: tt.asked}); !slices.Equal(got, tt.expect) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.expect)
		}
	}
}

// TestForwarderAccount: while as many questions as a workload may have wait for
// a forwarder of the same workload, the forwarder's own are answered.
func TestForwarderAccount(t *testing.T) {
	z := newZone(t, internet...)
	const forwarder = 9
	r := newRig(t, Config{
		MaxPerWorkload: 2, Upstreams: Upstreams{Timeout: 10 * time.Second},
		Serves: func(c Client, a netip.AddrPort) bool { return c.Process.PID == forwarder && a != z.addr },
	}, netip.MustParseAddrPort("192.0.2.1:53"))
	for _, network := range []string{"udp", "tcp"} {
		r.udp, r.tcp = nil, nil
		r.serve()
		to := map[string][]netip.AddrPort{"udp": r.udp, "tcp": r.tcp}[network][0]
		for range 2 { // programs that wait
			if !r.queries.acquire("w") {
				t.Fatal("no room for the programs")
			}
		}
		c := Client{Workload: "w", Policy: policy.DefaultPolicy, Server: z.addr, Process: flow.Process{PID: forwarder}}
		r.setClient(c)
		if m := r.ask(network, to, question("www.example.com.", dns.TypeA)); len(m.Answer) != 1 {
			t.Errorf("%s: the forwarder: %v", network, m)
		}
		c.Process.PID = 7
		r.setClient(c)
		if m := r.ask(network, to, question("www.example.com.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: another program: %v", network, m)
		}
		r.queries.release("w")
		r.queries.release("w")
	}
}

// TestLoop: a forwarder that asks itself is told so at once, in both modes of
// the policy that forward its question, and the operator is told once.
func TestLoop(t *testing.T) {
	z := newZone(t, internet...)
	var log bytes.Buffer
	r := newRig(t, Config{
		Serves: func(Client, netip.AddrPort) bool { return true },
		Log:    slog.New(slog.NewTextHandler(&log, nil)),
	}, z.addr)
	for _, name := range []string{"www.example.com.", "other.example.com."} {
		c := Client{Workload: "w", Policy: policy.DefaultPolicy, Server: z.addr, Process: flow.Process{PID: 7, Command: "forwarder"}}
		m := new(dns.Msg)
		if err := m.Unpack(r.reply(context.Background(), c, policy.UDP, mustPack(t, question(name, dns.TypeA)))); err != nil {
			t.Fatal(err)
		}
		if m.Rcode != dns.RcodeServerFailure || edeOf(m) != int(dns.ExtendedErrorCodeOther) {
			t.Errorf("%s: %v", name, m)
		}
		r.expectEvent(policy.ReasonLoop, false)
	}
	if asked := z.takeAsked(); len(asked) > 0 || r.Stats()["loop"] != 2 || r.Stats()["forwarded"] != 0 {
		t.Errorf("asked %v, %v", asked, r.Stats())
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "command=forwarder") {
		t.Errorf("the log: %s", log.String())
	}
}

// TestSuspectedLoop: when no answer comes and another process that was sent to
// the same server waited for it as well, the operator is told which.
func TestSuspectedLoop(t *testing.T) {
	z := newZone(t)
	far := netip.MustParseAddrPort("198.51.100.53:53")
	for _, tt := range []struct {
		name    string
		other   Client
		suspect bool
	}{
		{"sent elsewhere", Client{Server: far, Process: flow.Process{PID: 8, Command: "coredns"}}, true},
		{"asked the same server", Client{Server: z.addr, Process: flow.Process{PID: 8}}, false},
		{"the same process", Client{Server: far, Process: flow.Process{PID: 7}}, false},
	} {
		var log bytes.Buffer
		r := newRig(t, Config{Upstreams: Upstreams{Timeout: 300 * time.Millisecond}, Log: slog.New(slog.NewTextHandler(&log, nil))}, z.addr)
		other := make(chan struct{})
		z.setHandle(func(dns.ResponseWriter, *dns.Msg) {}) // silence
		ask := func(c Client) {
			c.Workload, c.Policy = "w", policy.DefaultPolicy
			r.reply(context.Background(), c, policy.UDP, mustPack(t, question("www.example.com.", dns.TypeA)))
		}
		go func() { defer close(other); ask(tt.other) }()
		ask(Client{Server: z.addr, Process: flow.Process{PID: 7}})
		<-other
		if got := r.Stats()["loop_suspected"] > 0; got != tt.suspect || got != strings.Contains(log.String(), "command=coredns") {
			t.Errorf("%s: %v\n%s", tt.name, r.Stats(), log.String())
		}
		if n := len(r.waiting.by); n != 0 {
			t.Errorf("%s: %d questions are waited for", tt.name, n)
		}
	}
}

func TestSeldom(t *testing.T) {
	var s seldom
	now := time.Unix(1000, 0)
	var got []bool
	for _, after := range []time.Duration{0, 0, time.Minute - 1, time.Minute, time.Minute} {
		got = append(got, s.allow(now.Add(after)))
	}
	if want := "[true false false true false]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}
