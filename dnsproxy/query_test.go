// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

func TestDecide(t *testing.T) {
	p := learnedtest.Compile(t, append(learnedtest.Services(), learnedtest.Service("4.3.2.1.in-addr.arpa"))...).Policy(policy.DefaultPolicy)
	search := []string{"default.svc.cluster.local", "cluster.local"}
	const in = dns.ClassINET
	tests := []struct {
		name   string
		qtype  uint16
		class  uint16
		want   action
		reason policy.Reason
	}{
		{"www.example.com.", dns.TypeA, in, forward, policy.ReasonAllowed},
		{"WWW.Example.COM.", dns.TypeAAAA, in, forward, policy.ReasonAllowed},
		{"www.example.com.", dns.TypeHTTPS, in, forward, policy.ReasonAllowed},
		{"www.example.com.", dns.TypeTXT, in, forward, policy.ReasonAllowed},
		{"www.example.com.", dns.TypeNULL, in, refuse, policy.ReasonQueryType},
		{"www.example.com.", 65280, in, refuse, policy.ReasonQueryType},
		{"www.example.com.", dns.TypeANY, in, minimal, policy.ReasonAllowed},
		{"www.example.com.", dns.TypeAXFR, in, unsupported, policy.ReasonMalformed},
		{"www.example.com.", dns.TypeIXFR, in, unsupported, policy.ReasonMalformed},
		{"www.example.com.", dns.TypeOPT, in, unsupported, policy.ReasonMalformed},
		{"www.example.com.", dns.TypeA, dns.ClassCHAOS, refuse, policy.ReasonName},
		{"www.example.com.", dns.TypeA, dns.ClassANY, refuse, policy.ReasonName},
		{"a.wild.test.", dns.TypeA, in, forward, policy.ReasonAllowed},
		{"a.wild.test.", dns.TypeMX, in, forward, policy.ReasonAllowed},
		{"a.wild.test.", dns.TypeTXT, in, refuse, policy.ReasonQueryType},
		{"a.wild.test.", dns.TypeNULL, in, refuse, policy.ReasonQueryType},
		{"wild.test.", dns.TypeA, in, refuse, policy.ReasonName},
		{"evil.test.", dns.TypeA, in, refuse, policy.ReasonName},
		{"evil.test.", dns.TypeANY, in, refuse, policy.ReasonName},
		{"www.example.com.evil.test.", dns.TypeA, in, refuse, policy.ReasonName},
		{"evilwww.example.com.", dns.TypeA, in, refuse, policy.ReasonName},
		{`www.example.com\000.evil.test.`, dns.TypeA, in, refuse, policy.ReasonName},
		{`www\.example.com.`, dns.TypeA, in, refuse, policy.ReasonName},
		{`b\195\188cher.wild.test.`, dns.TypeA, in, refuse, policy.ReasonName},
		{".", dns.TypeNS, in, refuse, policy.ReasonName},
		{"1.0.0.10.in-addr.arpa.", dns.TypePTR, in, refuse, policy.ReasonName},
		{"4.3.2.1.in-addr.arpa.", dns.TypePTR, in, forward, policy.ReasonAllowed},
		{"db.internal.", dns.TypeA, in, own, policy.ReasonAllowed},
		{"db.internal.", dns.TypeTXT, in, own, policy.ReasonAllowed},
		{"localhost.", dns.TypeA, in, loopback, policy.ReasonAllowed},
		{"app.localhost.", dns.TypeAAAA, in, loopback, policy.ReasonAllowed},
		{"notlocalhost.", dns.TypeA, in, refuse, policy.ReasonName},
		{"use-application-dns.net.", dns.TypeA, in, absent, policy.ReasonAllowed},
		{"www.example.com.default.svc.cluster.local.", dns.TypeA, in, absent, policy.ReasonAllowed},
		{"www.example.com.cluster.local.", dns.TypeAAAA, in, absent, policy.ReasonAllowed},
		{"a.wild.test.cluster.local.", dns.TypeA, in, absent, policy.ReasonAllowed},
		// Service names of an exact host.
		{"_mongodb._tcp.www.example.com.", dns.TypeSRV, in, forward, policy.ReasonAllowed},
		{"_MongoDB._TCP.WWW.example.com.", dns.TypeSRV, in, forward, policy.ReasonAllowed},
		{"_xmpp-client._tcp.www.example.com.", dns.TypeTXT, in, forward, policy.ReasonAllowed},
		{"_ldap._tcp.dc._msdcs.www.example.com.", dns.TypeSRV, in, forward, policy.ReasonAllowed},
		{"_443._tcp.www.example.com.", dns.TypeTLSA, in, forward, policy.ReasonAllowed},
		{"_dns.www.example.com.", dns.TypeSVCB, in, forward, policy.ReasonAllowed},
		{"_mongodb._tcp.www.example.com.", dns.TypeA, in, refuse, policy.ReasonQueryType},
		{"_mongodb._tcp.www.example.com.", dns.TypeAAAA, in, refuse, policy.ReasonQueryType},
		{"_mongodb._tcp.www.example.com.", dns.TypeNULL, in, refuse, policy.ReasonQueryType},
		{"_mongodb._tcp.www.example.com.", dns.TypeANY, in, refuse, policy.ReasonQueryType},
		{"_http._tcp.db.internal.", dns.TypeSRV, in, own, policy.ReasonAllowed},
		{"_a._tcp.x.wild.test.", dns.TypeSRV, in, forward, policy.ReasonAllowed},
		{"_a._tcp.x.wild.test.", dns.TypeTXT, in, refuse, policy.ReasonQueryType},
		{"_mongodb._tcp.evil.test.", dns.TypeSRV, in, refuse, policy.ReasonName},
		{"data._tcp.www.example.com.", dns.TypeSRV, in, refuse, policy.ReasonName},
		{"_seventeen-letters._tcp.www.example.com.", dns.TypeSRV, in, refuse, policy.ReasonName},
		{"_a._b._c._d._e.www.example.com.", dns.TypeSRV, in, refuse, policy.ReasonName},
		{"_tcp.dc.www.example.com.", dns.TypeSRV, in, refuse, policy.ReasonName},
		{"_.www.example.com.", dns.TypeSRV, in, refuse, policy.ReasonName},
		{"_tcp.", dns.TypeSRV, in, refuse, policy.ReasonName},
		{"evil.test.cluster.local.", dns.TypeA, in, refuse, policy.ReasonName},
		{"www.example.com.other.local.", dns.TypeA, in, refuse, policy.ReasonName},
	}
	for _, tt := range tests {
		d := decide(dns.Question{Name: tt.name, Qtype: tt.qtype, Qclass: tt.class}, p, search)
		if d.action != tt.want || d.reason != tt.reason {
			t.Errorf("%s %s %s: action %d %s, want %d %s", tt.name, dns.Class(tt.class), dns.Type(tt.qtype), d.action, d.reason, tt.want, tt.reason)
		}
	}
	if d := decide(dns.Question{Name: "www.example.com.", Qtype: dns.TypeA, Qclass: in}, nil, search); d.action != refuse {
		t.Errorf("without a policy: action %d", d.action)
	}
}

func TestParse(t *testing.T) {
	good, err := question("www.example.com.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	with := func(i int, b byte) []byte {
		raw := []byte(string(good))
		raw[i] = b
		return raw
	}
	tests := []struct {
		name  string
		raw   []byte
		rcode int // -1: dropped, 0: good
	}{
		{"good", good, 0},
		{"empty", nil, -1},
		{"short", good[:11], -1},
		{"response", with(2, good[2]|0x80), -1},
		{"status", with(2, dns.OpcodeStatus<<3), dns.RcodeNotImplemented},
		{"notify", with(2, dns.OpcodeNotify<<3), dns.RcodeNotImplemented},
		{"update", with(2, dns.OpcodeUpdate<<3), dns.RcodeNotImplemented},
		{"no question", with(5, 0), dns.RcodeFormatError},
		{"two questions", with(5, 2), dns.RcodeFormatError},
		{"an answer", with(7, 1), dns.RcodeFormatError},
		{"an authority", with(9, 1), dns.RcodeFormatError},
		{"three additionals", with(11, 3), dns.RcodeFormatError},
		{"header only", good[:12], dns.RcodeFormatError},
		{"cut name", good[:20], dns.RcodeFormatError},
		{"cut option", good[:len(good)-3], dns.RcodeFormatError},
		{"compression loop", append([]byte(string(good[:12])), 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
	}
	for _, tt := range tests {
		req, refusal, err := parse(tt.raw)
		got := 0
		switch {
		case err != nil && refusal == nil:
			got = -1
		case err != nil:
			got = refusal.Rcode
			if refusal.Id != uint16(good[0])<<8|uint16(good[1]) || !refusal.Response {
				t.Errorf("%s: refusal %v", tt.name, refusal)
			}
		}
		if got != tt.rcode || (got == 0) != (req != nil) {
			t.Errorf("%s: rcode %d, want %d (%v)", tt.name, got, tt.rcode, err)
		}
	}
}

func TestSearchIsNormalized(t *testing.T) {
	s := New(Config{Names: learned.New(new(learnedtest.Kernel), new(learnedtest.Policies), learned.Options{}), Upstreams: Upstreams{Search: []string{".Corp.Example.", "b\x00d", ""}}})
	if got := strings.Join(s.upstream.set.Load().Search, " "); got != "corp.example" {
		t.Errorf("search = %q", got)
	}
}
