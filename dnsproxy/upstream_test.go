// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/policy"
)

func TestWhichUpstreamIsAsked(t *testing.T) {
	first, second, theirs := newZone(t, internet...), newZone(t, internet...), newZone(t, "www.example.com. 60 A 203.0.113.99")
	r := newRig(t, Config{}, first.addr, second.addr).serve()
	tests := []struct {
		addressed netip.AddrPort
		want      *zone
	}{
		{first.addr, first}, {second.addr, second},
		{theirs.addr, first}, // a server that the workload runs itself
	}
	for _, tt := range tests {
		r.setClient(Client{Workload: "w", Policy: policy.DefaultPolicy, Server: tt.addressed})
		m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
		if got := texts(m.Answer); !slices.Equal(got, []string{"www.example.com. 60 IN A 203.0.113.1"}) {
			t.Errorf("addressed %s: %v", tt.addressed, got)
		}
		for _, z := range []*zone{first, second, theirs} {
			if asked := z.takeAsked(); (len(asked) > 0) != (z == tt.want) {
				t.Errorf("addressed %s: %s was asked %v", tt.addressed, z.addr, asked)
			}
		}
	}
}

func TestNextUpstream(t *testing.T) {
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = closed.Close()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	rcode := func(code int) netip.AddrPort {
		z := newZone(t)
		z.setHandle(func(w dns.ResponseWriter, r *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(r, code)) })
		return z.addr
	}
	good := newZone(t, internet...).addr
	tests := []struct {
		name      string
		upstreams []netip.AddrPort
		rcode     int
	}{
		{"port closed", []netip.AddrPort{refusing, good}, 0},
		{"silent", []netip.AddrPort{silent.LocalAddr().(*net.UDPAddr).AddrPort(), good}, 0},
		{"SERVFAIL", []netip.AddrPort{rcode(dns.RcodeServerFailure), good}, 0},
		{"REFUSED", []netip.AddrPort{rcode(dns.RcodeRefused), good}, 0},
		{"all fail", []netip.AddrPort{rcode(dns.RcodeServerFailure), refusing}, dns.RcodeServerFailure},
		{"all refuse", []netip.AddrPort{rcode(dns.RcodeRefused)}, dns.RcodeServerFailure},
		{"NXDOMAIN is an answer", []netip.AddrPort{rcode(dns.RcodeNameError), good}, dns.RcodeNameError},
		{"closed", []netip.AddrPort{refusing}, dns.RcodeServerFailure},
		{"none", nil, dns.RcodeServerFailure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Config{Upstreams: Upstreams{Timeout: 500 * time.Millisecond}}, tt.upstreams...).serve()
			m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
			if m.Rcode != tt.rcode || (len(m.Answer) == 1) != (tt.rcode == 0) {
				t.Errorf("reply: %v", m)
			}
		})
	}
}

func TestUpstreamQueryTellsNothing(t *testing.T) {
	z := newZone(t, internet...)
	r := newRig(t, Config{}, z.addr).serve()
	m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
	m.CheckingDisabled = true
	m.SetEdns0(4000, true)
	m.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0)},
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"},
	}
	r.ask("udp", r.udp[0], m)
	sent := z.lastQuery()
	opt := sent.IsEdns0()
	if sent.Id == m.Id || opt == nil || !opt.Do() || len(opt.Option) != 0 || opt.UDPSize() != upstreamSize || !sent.CheckingDisabled || !sent.RecursionDesired {
		t.Errorf("upstream saw %v", sent)
	}
}

func TestForgedRepliesAreIgnored(t *testing.T) {
	z := newZone(t)
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		forge := func(change func(m *dns.Msg)) {
			m := zoneReply(q, []string{"www.example.com. 60 A 203.0.113.66", "evil.test. 60 A 203.0.113.66"})
			change(m)
			_ = w.WriteMsg(m)
		}
		forge(func(m *dns.Msg) { m.Id++ })
		forge(func(m *dns.Msg) { m.Question[0].Name = "evil.test." })
		forge(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA })
		forge(func(m *dns.Msg) { m.Response = false })
		forge(func(m *dns.Msg) { m.Question = nil })
		_, _ = w.Write([]byte("short"))
		_ = w.WriteMsg(zoneReply(q, internet))
	})
	r := newRig(t, Config{}, z.addr).serve()
	m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
	if got := texts(m.Answer); !slices.Equal(got, []string{"www.example.com. 60 IN A 203.0.113.1"}) {
		t.Errorf("answer %v", got)
	}
	if n := r.Stats()["upstream_ignored"]; n != 6 {
		t.Errorf("upstream_ignored = %d, want 6", n)
	}
}

func TestTruncation(t *testing.T) {
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("www.example.com. 60 A 203.0.113.%d", i+1))
	}
	z := newZone(t)
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		m := zoneReply(q, many)
		if w.RemoteAddr().Network() == "udp" {
			m.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(m)
	})
	r := newRig(t, Config{}, z.addr).serve()
	plain := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
	large := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
	large.SetEdns0(4096, false)
	tests := []struct {
		name    string
		network string
		m       *dns.Msg
		max     int
		full    bool
	}{
		{"without EDNS", "udp", plain, 512, false},
		{"EDNS 1400", "udp", question("www.example.com.", dns.TypeA), 1400, false},
		{"EDNS 4096", "udp", large, 4096, true},
		{"TCP", "tcp", plain, maxMessage, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to := map[string]netip.AddrPort{"udp": r.udp[0], "tcp": r.tcp[0]}[tt.network]
			m := r.ask(tt.network, to, tt.m)
			m.Compress = true
			if m.Len() > tt.max || m.Truncated == tt.full || (len(m.Answer) == 100) != tt.full {
				t.Errorf("%d bytes, TC %v, %d answers", m.Len(), m.Truncated, len(m.Answer))
			}
			if (m.IsEdns0() != nil) != (tt.m.IsEdns0() != nil) {
				t.Error("OPT in the reply to a query without, or the other way round")
			}
		})
	}
	// What did not fit was learned all the same: the client asks for it again by TCP.
	if got := len(r.kernel.Addresses()); got != 100 {
		t.Errorf("%d addresses are open", got)
	}
	if !slices.Contains(z.takeAsked(), "www.example.com. A tcp") {
		t.Error("upstream was not asked by TCP")
	}
}
