// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/policy"
)

// TestDenied: the response code of a denial is the operator's choice where it
// is about a name; a host that is allowed exists whatever is asked of it.
func TestDenied(t *testing.T) {
	z := newZone(t, internet...)
	ask := func(d DeniedAnswer, q *dns.Msg) *dns.Msg {
		t.Helper()
		r := newRig(t, Config{Denied: d}, z.addr).serve()
		m := r.ask("udp", r.udp[0], q)
		if edeOf(m) != int(dns.ExtendedErrorCodeBlocked) || len(m.Answer)+len(m.Ns) > 0 {
			t.Errorf("%s: ede %d, %v", d, edeOf(m), m)
		}
		if asked := z.takeAsked(); len(asked) > 0 {
			t.Errorf("%s: the server was asked %v", d, asked)
		}
		return m
	}
	chaos := question("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	for _, name := range []string{"NXDOMAIN", "REFUSED", "NOERROR"} {
		d, err := ParseDenial(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			q    *dns.Msg
			want string
		}{
			{question("evil.test.", dns.TypeA), name},
			{question("evil.test.", dns.TypeTXT), name},
			{question("evil.test.cluster.local.", dns.TypeAAAA), name},
			{question("x.wild.test.", dns.TypeTXT), "NOERROR"},
			{question("x.wild.test.", dns.TypeCAA), "NOERROR"},
			{question("www.example.com.", dns.TypeNULL), "NOERROR"},
			{question("_mongodb._tcp.www.example.com.", dns.TypeA), "NOERROR"},
			{question(".", dns.TypeNS), "REFUSED"},
			{chaos, "REFUSED"},
		} {
			if m := ask(d, tt.q); dns.RcodeToString[m.Rcode] != tt.want {
				t.Errorf("%s: %s: %s, want %s", name, tt.q.Question[0].String(), dns.RcodeToString[m.Rcode], tt.want)
			}
		}
	}
	if _, err := ParseDenial("refused"); err == nil {
		t.Error("an unknown denial was taken")
	}
	var zero DeniedAnswer
	if zero.String() != "NXDOMAIN" {
		t.Errorf("the default is %s", zero)
	}
}

// TestUnknownWorkload: who is not known yet is told to ask again, and in audit mode that it
// would be denied.
func TestUnknownWorkload(t *testing.T) {
	z := newZone(t, internet...)
	r := newRig(t, Config{}, z.addr).serve()
	client := Client{Workload: "w", Policy: policy.UnknownWorkload, Server: netip.MustParseAddrPort("192.0.2.53:53")}
	r.setClient(client)
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m := r.ask("udp", r.udp[0], question("www.example.com.", qtype))
		if m.Rcode != dns.RcodeServerFailure || edeOf(m) != int(dns.ExtendedErrorCodeBlocked) || len(m.Answer) > 0 {
			t.Errorf("enforce: %v", m)
		}
	}
	if asked := z.takeAsked(); len(asked) > 0 {
		t.Errorf("the server was asked %v", asked)
	}
	client.Mode = policy.Audit
	r.setClient(client)
	if m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)); m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
		t.Errorf("audit: %v", m)
	}
	client.Policy, client.Mode = policy.DefaultPolicy, policy.Enforce
	r.setClient(client)
	if m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)); m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
		t.Errorf("when it is known: %v", m)
	}
}

// TestServiceNames: who may reach a host may ask where its services are. Their
// targets are opened by nothing but an answer of their own.
func TestServiceNames(t *testing.T) {
	z := newZone(t, append([]string{
		"_mongodb._tcp.www.example.com. 60 SRV 0 5 27017 Other.example.com.",
		"_mongodb._tcp.www.example.com. 60 SRV 0 5 27017 shard.evil.test.",
	}, internet...)...)
	r := newRig(t, Config{}, z.addr).serve()
	m := r.ask("udp", r.udp[0], question("_mongodb._tcp.www.example.com.", dns.TypeSRV))
	want := []string{
		"_mongodb._tcp.www.example.com. 60 IN SRV 0 5 27017 Other.example.com.",
		"_mongodb._tcp.www.example.com. 60 IN SRV 0 5 27017 shard.evil.test.",
	}
	if got := texts(m.Answer); !slices.Equal(got, want) {
		t.Errorf("answer %q", got)
	}
	r.expectEvent("", false)
	if got := r.kernel.Addresses(); len(got) > 0 {
		t.Errorf("a service name opened %v", got)
	}
	if m := r.ask("udp", r.udp[0], question("other.example.com.", dns.TypeA)); len(m.Answer) == 0 {
		t.Errorf("the allowed target: %v", m)
	}
	// The denial of the other one names it.
	if m := r.ask("udp", r.udp[0], question("shard.evil.test.", dns.TypeA)); m.Rcode != dns.RcodeNameError {
		t.Errorf("the target that is not allowed: %v", m)
	}
	r.expectEvent(policy.ReasonName, false)
}

// TestSearchOfClient: the suffixes of the client's own resolv.conf make search
// steps, of allowed names only, and are read only when they matter.
func TestSearchOfClient(t *testing.T) {
	z := newZone(t, internet...)
	var read atomic.Int32
	r := newRig(t, Config{Denied: DenyRefused, SearchOf: func(c Client) []string {
		if read.Add(1); c.Workload != "w" {
			t.Errorf("asked for the suffixes of %s", c.Workload)
		}
		return []string{"Ns1.SVC.cluster.local.", "b\x00d", "cluster.local"}
	}}, z.addr).serve()
	for _, tt := range []struct {
		name string
		want int
		read int
	}{
		{"www.example.com.", dns.RcodeSuccess, 0},
		{"www.example.com.ns1.svc.cluster.local.", dns.RcodeNameError, 1},
		{"a.wild.test.cluster.local.", dns.RcodeNameError, 1},
		{"www.example.com.ns2.svc.cluster.local.", dns.RcodeRefused, 1},
		{"evil.test.ns1.svc.cluster.local.", dns.RcodeRefused, 1},
		{"evil.test.", dns.RcodeRefused, 1},
	} {
		z.takeAsked()
		read.Store(0)
		m := r.ask("udp", r.udp[0], question(tt.name, dns.TypeA))
		if asked := z.takeAsked(); m.Rcode != tt.want || int(read.Load()) != tt.read || len(asked) > 0 && tt.want != 0 {
			t.Errorf("%s: %s after %d readings, the server was asked %v", tt.name, dns.RcodeToString[m.Rcode], read.Load(), asked)
		}
	}
}

// TestOwnerNames: the letters of an owner's name mean nothing, and a chain of
// aliases may be in any order.
func TestOwnerNames(t *testing.T) {
	chain := []string{
		"WWW.Example.COM. 60 CNAME Edge.CDN.test.",
		"edge.cdn.TEST. 60 CNAME pop.cdn.test.",
		"POP.cdn.test. 60 A 203.0.113.9",
	}
	backwards := slices.Clone(chain)
	slices.Reverse(backwards)
	for _, lines := range [][]string{chain, backwards} {
		z := newZone(t)
		z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.Answer = records(t, lines...)
			_ = w.WriteMsg(m)
		})
		r := newRig(t, Config{}, z.addr).serve()
		for _, name := range []string{"www.example.com.", "wWw.eXample.com."} {
			m := r.ask("udp", r.udp[0], question(name, dns.TypeA))
			if len(m.Answer) != 3 || !slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Name == name }) {
				t.Errorf("%s: %v", name, m)
			}
		}
		if got := fmt.Sprint(r.kernel.Addresses()); got != "[203.0.113.9]" {
			t.Errorf("opened %s", got)
		}
	}
}
