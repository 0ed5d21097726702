// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/ipguard"
)

func records(t testing.TB, lines ...string) []dns.RR {
	t.Helper()
	var out []dns.RR
	for _, l := range lines {
		rr, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rr)
	}
	return out
}

func TestFilter(t *testing.T) {
	good := func(a netip.Addr) bool { ok, _ := ipguard.New(nil).Check(a, ipguard.Options{Exact: true}); return ok }
	target := func(n string) bool { return n == "allowed.test" }
	tests := []struct {
		name    string
		qtype   uint16
		rcode   int
		answer  []string
		want    []string
		addrs   string // addr/ttl
		refused string
	}{
		{"plain", dns.TypeA, 0, []string{"q.test. 60 A 203.0.113.1", "Q.TEST. 7200 A 203.0.113.2"},
			[]string{"Q.test. 60 IN A 203.0.113.1", "Q.test. 3600 IN A 203.0.113.2"}, "203.0.113.1/1m0s 203.0.113.2/2h0m0s", ""},
		{"chain, shortest time", dns.TypeA, 0, []string{"b.test. 300 A 203.0.113.1", "q.test. 20 CNAME a.test.", "a.test. 100 CNAME b.test."},
			[]string{"b.test. 300 IN A 203.0.113.1", "Q.test. 20 IN CNAME a.test.", "a.test. 100 IN CNAME b.test."}, "203.0.113.1/20s", ""},
		{"unrelated owner", dns.TypeA, 0, []string{"evil.test. 60 A 203.0.113.1", "q.test. 60 A 203.0.113.2"},
			[]string{"Q.test. 60 IN A 203.0.113.2"}, "203.0.113.2/1m0s", ""},
		{"unrelated chain", dns.TypeA, 0, []string{"x.test. 60 CNAME y.test.", "y.test. 60 A 203.0.113.1"}, []string{}, "", ""},
		{"other type", dns.TypeA, 0, []string{"q.test. 60 AAAA 2001:4860::1", "q.test. 60 TXT x"}, []string{}, "", ""},
		{"before the end of the chain", dns.TypeA, 0, []string{"q.test. 60 A 203.0.113.9", "q.test. 60 CNAME a.test.", "a.test. 60 A 203.0.113.1"},
			[]string{"Q.test. 60 IN CNAME a.test.", "a.test. 60 IN A 203.0.113.1"}, "203.0.113.1/1m0s", ""},
		{"loop", dns.TypeA, 0, []string{"q.test. 60 CNAME a.test.", "a.test. 60 CNAME q.test.", "a.test. 60 A 203.0.113.1"},
			[]string{"Q.test. 60 IN CNAME a.test.", "a.test. 60 IN CNAME q.test.", "a.test. 60 IN A 203.0.113.1"}, "203.0.113.1/1m0s", ""},
		{"DNAME", dns.TypeA, 0, []string{"test. 50 DNAME other.", "q.test. 0 CNAME q.other.", "q.other. 60 A 203.0.113.1"},
			[]string{"test. 50 IN DNAME other.", "Q.test. 0 IN CNAME q.other.", "q.other. 60 IN A 203.0.113.1"}, "203.0.113.1/0s", ""},
		{"rebinding", dns.TypeA, 0, []string{"q.test. 60 A 127.0.0.1", "q.test. 60 A 169.254.169.254", "q.test. 60 A 203.0.113.1"},
			[]string{"Q.test. 60 IN A 203.0.113.1"}, "203.0.113.1/1m0s", "127.0.0.1 169.254.169.254"},
		{"rebinding v6", dns.TypeAAAA, 0, []string{"q.test. 60 AAAA ::1", "q.test. 60 AAAA ::ffff:10.0.0.1", "q.test. 60 AAAA 64:ff9b::7f00:1", "q.test. 60 AAAA 2001:4860::1"},
			[]string{"Q.test. 60 IN AAAA 2001:4860::1"}, "2001:4860::1/1m0s", "::1 ::ffff:10.0.0.1 64:ff9b::7f00:1"},
		{"NXDOMAIN with an address", dns.TypeA, dns.RcodeNameError, []string{"q.test. 60 A 203.0.113.1"}, []string{}, "", ""},
		{"other class", dns.TypeA, 0, []string{"q.test. 60 CH A 203.0.113.1"}, []string{}, "", ""},
		{"CNAME asked", dns.TypeCNAME, 0, []string{"q.test. 60 CNAME a.test.", "a.test. 60 CNAME b.test."},
			[]string{"Q.test. 60 IN CNAME a.test."}, "", ""},
		{"HTTPS", dns.TypeHTTPS, 0, []string{`q.test. 60 HTTPS 1 . mandatory=alpn,ech alpn=h2 ech=aGk= ipv4hint=10.0.0.1 ipv6hint=::1 port=8443`},
			[]string{`Q.test. 60 IN HTTPS 1 . mandatory="alpn" alpn="h2" port="8443"`}, "", ""},
		{"HTTPS, only ech mandatory", dns.TypeHTTPS, 0, []string{`q.test. 60 HTTPS 1 . mandatory=ech alpn=h2 ech=aGk=`},
			[]string{`Q.test. 60 IN HTTPS 1 . alpn="h2"`}, "", ""},
		{"HTTPS targets", dns.TypeHTTPS, 0, []string{`q.test. 60 HTTPS 0 evil.test.`, `q.test. 60 HTTPS 1 allowed.test. alpn=h3`, `q.test. 60 HTTPS 2 q.test. alpn=h2`},
			[]string{`Q.test. 60 IN HTTPS 1 allowed.test. alpn="h3"`, `Q.test. 60 IN HTTPS 2 q.test. alpn="h2"`}, "", ""},
		{"SVCB", dns.TypeSVCB, 0, []string{`q.test. 60 SVCB 1 . ech=aGk=`}, []string{`Q.test. 60 IN SVCB 1 .`}, "", ""},
		{"MX", dns.TypeMX, 0, []string{"q.test. 60 MX 10 mail.test.", "mail.test. 60 A 203.0.113.1"}, []string{"Q.test. 60 IN MX 10 mail.test."}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rep := &dns.Msg{Answer: records(t, tt.answer...), Extra: records(t, "q.test. 60 A 203.0.113.77")}
			rep.Rcode = tt.rcode
			f := filter(rep, dns.Question{Name: "Q.test.", Qtype: tt.qtype, Qclass: dns.ClassINET}, rules{address: good, target: target, maxTTL: 3600})
			if got := texts(f.answer); !slices.Equal(got, tt.want) {
				t.Errorf("answer:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			var addrs, refused []string
			for _, a := range f.addrs {
				addrs = append(addrs, fmt.Sprintf("%s/%s", a.Addr, a.TTL))
			}
			for _, a := range f.refused {
				refused = append(refused, a.String())
			}
			if got := strings.Join(addrs, " "); got != tt.addrs {
				t.Errorf("addresses %q, want %q", got, tt.addrs)
			}
			if got := strings.Join(refused, " "); got != tt.refused {
				t.Errorf("refused %q, want %q", got, tt.refused)
			}
		})
	}
}

func TestFilterSignatures(t *testing.T) {
	sig := func(owner, covered string) string {
		return owner + " 60 RRSIG " + covered + " 8 2 60 20300101000000 20200101000000 1 test. AAAA"
	}
	answer := func() []dns.RR {
		return records(t, "q.test. 60 CNAME a.test.", sig("q.test.", "CNAME"), "a.test. 60 A 203.0.113.1", "a.test. 60 A 127.0.0.1", sig("a.test.", "A"), sig("x.test.", "A"))
	}
	ns := func() []dns.RR {
		return records(t, "test. 60 SOA a. b. 1 2 3 4 5", sig("test.", "SOA"), "test. 60 NS ns.test.", "ns.test. 60 A 203.0.113.5")
	}
	count := func(r rules) (answers, signatures, authority int) {
		f := filter(&dns.Msg{Answer: answer(), Ns: ns()}, dns.Question{Name: "q.test.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, r)
		for _, rr := range f.answer {
			if rr.Header().Rrtype == dns.TypeRRSIG {
				signatures++
			}
		}
		return len(f.answer), signatures, len(f.ns)
	}
	public := func(a netip.Addr) bool { return !a.IsLoopback() }
	tests := []struct {
		name                           string
		r                              rules
		answers, signatures, authority int
	}{
		{"no DO", rules{maxTTL: 60}, 3, 0, 1},
		{"DO", rules{maxTTL: 60, dnssec: true}, 5, 2, 2},
		// The signature over a changed record set would only fail.
		{"DO, address refused", rules{maxTTL: 60, dnssec: true, address: public}, 3, 1, 2},
	}
	for _, tt := range tests {
		if a, s, n := count(tt.r); a != tt.answers || s != tt.signatures || n != tt.authority {
			t.Errorf("%s: %d answers, %d signatures, %d authority; want %d %d %d", tt.name, a, s, n, tt.answers, tt.signatures, tt.authority)
		}
	}
}
