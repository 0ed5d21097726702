// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

// TestFilterPlain: what an answer for a name under a wildcard still says, and
// beside it what one for an exact host says.
func TestFilterPlain(t *testing.T) {
	tests := []struct {
		name         string
		qtype        uint16
		answer, ns   []string
		exact, plain []string // answer, then authority
	}{
		{"private parameter", dns.TypeHTTPS, []string{`q.test. 60 HTTPS 1 . alpn=h2 key65400=secret`}, nil,
			[]string{`Q.test. 60 IN HTTPS 1 . alpn="h2" key65400="secret"`}, []string{`Q.test. 60 IN HTTPS 1 . alpn="h2"`}},
		{"known parameter of text", dns.TypeSVCB, []string{`q.test. 60 SVCB 1 . alpn=doq dohpath=/secret{?dns}`}, nil,
			[]string{`Q.test. 60 IN SVCB 1 . alpn="doq" dohpath="/secret{?dns}"`}, []string{`Q.test. 60 IN SVCB 1 . alpn="doq"`}},
		{"made-up protocols", dns.TypeHTTPS, []string{`q.test. 60 HTTPS 1 . alpn=secret,h3,h2,secret2,h2`, `q.test. 60 HTTPS 2 . alpn=secret port=8443`}, nil,
			[]string{`Q.test. 60 IN HTTPS 1 . alpn="secret,h3,h2,secret2,h2"`, `Q.test. 60 IN HTTPS 2 . alpn="secret" port="8443"`},
			[]string{`Q.test. 60 IN HTTPS 1 . alpn="h2,h3"`, `Q.test. 60 IN HTTPS 2 . port="8443"`}},
		{"mandatory private parameter", dns.TypeHTTPS, []string{`q.test. 60 HTTPS 1 . mandatory=key65400 key65400=secret`, `q.test. 60 HTTPS 2 . alpn=h2`}, nil,
			[]string{`Q.test. 60 IN HTTPS 1 . mandatory="key65400" key65400="secret"`, `Q.test. 60 IN HTTPS 2 . alpn="h2"`}, []string{`Q.test. 60 IN HTTPS 2 . alpn="h2"`}},
		{"mandatory ech", dns.TypeHTTPS, []string{`q.test. 60 HTTPS 1 . mandatory=alpn,ech alpn=h2 no-default-alpn ech=aGk= port=8443`}, nil,
			[]string{`Q.test. 60 IN HTTPS 1 . mandatory="alpn" alpn="h2" no-default-alpn="" port="8443"`}, []string{`Q.test. 60 IN HTTPS 1 . mandatory="alpn" alpn="h2" no-default-alpn="" port="8443"`}},
		{"letters", dns.TypeA, []string{"q.TEST. 60 CNAME SeCrEt.Test.", "secret.tesT. 60 A 203.0.113.1"}, nil,
			[]string{"Q.test. 60 IN CNAME SeCrEt.Test.", "secret.test. 60 IN A 203.0.113.1"}, []string{"Q.test. 60 IN CNAME secret.test.", "secret.test. 60 IN A 203.0.113.1"}},
		{"negative", dns.TypeAAAA, nil, []string{"test. 60 SOA secret. data. 7 8 9 10 11", "secret.elsewhere. 60 SOA secret. data. 7 8 9 10 11"},
			[]string{"test. 60 IN SOA secret. data. 7 8 9 10 11"}, []string{"test. 60 IN SOA . . 1 0 0 0 11"}},
		{"signatures", dns.TypeA, []string{"q.test. 60 A 203.0.113.1", "q.test. 60 RRSIG A 8 2 60 20300101000000 20200101000000 1 test. c2VjcmV0"},
			[]string{"q.test. 60 NSEC secret.test. A", "secret. 60 RRSIG NSEC 8 2 60 20300101000000 20200101000000 1 test. c2VjcmV0"},
			[]string{"Q.test. 60 IN A 203.0.113.1", "Q.test. 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 test. c2VjcmV0",
				"Q.test. 60 IN NSEC secret.test. A", "secret. 60 IN RRSIG NSEC 8 2 60 20300101000000 20200101000000 1 test. c2VjcmV0"},
			[]string{"Q.test. 60 IN A 203.0.113.1"}},
		{"service", dns.TypeSRV, []string{"q.test. 60 SRV 1 2 443 A.Test."}, nil, []string{"Q.test. 60 IN SRV 1 2 443 A.Test."}, []string{"Q.test. 60 IN SRV 1 2 443 a.test."}},
		{"mail", dns.TypeMX, []string{"q.test. 60 MX 1 A.Test."}, nil, []string{"Q.test. 60 IN MX 1 A.Test."}, []string{"Q.test. 60 IN MX 1 a.test."}},
		{"reverse", dns.TypePTR, []string{"q.test. 60 PTR A.Test."}, nil, []string{"Q.test. 60 IN PTR A.Test."}, []string{"Q.test. 60 IN PTR a.test."}},
	}
	for _, tt := range tests {
		for _, plain := range []bool{false, true} {
			rep := &dns.Msg{Answer: records(t, tt.answer...), Ns: records(t, tt.ns...)}
			f := filter(rep, dns.Question{Name: "Q.test.", Qtype: tt.qtype, Qclass: dns.ClassINET},
				rules{maxTTL: 3600, dnssec: true, plain: plain, address: func(netip.Addr) bool { return true }})
			want := tt.exact
			if plain {
				want = tt.plain
			}
			if got := texts(slices.Concat(f.answer, f.ns)); !slices.Equal(got, want) {
				t.Errorf("%s, plain %v:\n%s\nwant:\n%s", tt.name, plain, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

// TestPlainTypes: of all types there are, these are asked under a wildcard.
func TestPlainTypes(t *testing.T) {
	p := learnedtest.Compile(t, learnedtest.Services()...).Policy(policy.DefaultPolicy)
	var plain, exact []string
	for qtype := range 1 << 16 {
		t := uint16(qtype)
		if decide(dns.Question{Name: "x.wild.test.", Qtype: t, Qclass: dns.ClassINET}, p, nil).action == forward {
			plain = append(plain, dns.Type(t).String())
		}
		if decide(dns.Question{Name: "www.example.com.", Qtype: t, Qclass: dns.ClassINET}, p, nil).action == forward {
			exact = append(exact, dns.Type(t).String())
		}
	}
	if got, want := strings.Join(plain, " "), "A CNAME PTR MX AAAA SRV SVCB HTTPS"; got != want {
		t.Errorf("under a wildcard: %s, want %s", got, want)
	}
	if got, want := strings.Join(exact, " "), "A NS CNAME SOA PTR HINFO MX TXT AAAA LOC SRV NAPTR DNAME DS SSHFP RRSIG NSEC DNSKEY NSEC3 NSEC3PARAM TLSA SVCB HTTPS URI CAA"; got != want {
		t.Errorf("for an exact host: %s, want %s", got, want)
	}
}
