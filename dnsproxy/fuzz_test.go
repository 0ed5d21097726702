// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/hostile"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

func mustPack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// FuzzQuery gives raw queries to the whole handler. Nothing panics, nothing
// but a response to that query comes back, and a name that is not allowed is
// never answered with success.
func FuzzQuery(f *testing.F) {
	for _, name := range []string{"www.example.com.", "evil.test.", "a.wild.test.", "localhost.", "_a._tcp.www.example.com.", ".", `\000.example.com.`, "db.internal."} {
		f.Add(mustPack(f, question(name, dns.TypeA)), true)
		f.Add(mustPack(f, question(name, dns.TypeANY)), false)
	}
	for _, s := range hostile.Spellings() {
		f.Add(s.Query(dns.TypeA), false)
	}
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}, true)
	r := newRig(f, Config{Upstreams: Upstreams{Search: []string{"corp.test"}}}) // without upstreams
	client := *r.origins.client.Load()
	f.Fuzz(func(t *testing.T, raw []byte, tcp bool) {
		transport := policy.UDP
		if tcp {
			transport = policy.TCP
		}
		out := r.reply(context.Background(), client, transport, raw)
		if n := r.Stats()["panics"]; n != 0 {
			t.Fatal("the handler panicked")
		}
		if out == nil {
			return
		}
		reply := new(dns.Msg)
		if err := reply.Unpack(out); err != nil {
			t.Fatalf("reply %x: %v", out, err)
		}
		if !reply.Response || len(raw) < 2 || reply.Id != uint16(raw[0])<<8|uint16(raw[1]) {
			t.Fatalf("not a reply to %x: %v", raw, reply)
		}
		if reply.Rcode == dns.RcodeSuccess {
			d := decide(reply.Question[0], r.pol.Policy(policy.DefaultPolicy), r.upstream.set.Load().Search)
			if d.action == refuse && d.reason != policy.ReasonQueryType || d.action == forward || len(reply.Answer) > 0 && d.action == refuse {
				t.Fatalf("answered: %v", reply)
			}
		}
		if len(r.kernel.Addresses()) != 0 {
			t.Fatalf("a query opened %v", r.kernel.Addresses())
		}
	})
}

// FuzzReply gives raw replies of an upstream to the checks, the filter and
// Learn: only addresses that the guard accepts are opened, each is in the
// reply that the client sees, and none for another name than the asked one.
func FuzzReply(f *testing.F) {
	q := dns.Question{Name: "a.wild.test.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
	query := newQuery(q, nil)
	query.Id = 0x0707
	for _, lines := range [][]string{
		{"a.wild.test. 60 A 203.0.113.1", "a.wild.test. 60 A 127.0.0.1"},
		{"a.wild.test. 60 CNAME evil.test.", "evil.test. 60 A 10.0.0.1", "evil.test. 60 A 203.0.113.1"},
		{"wild.test. 60 DNAME evil.test.", "a.wild.test. 60 CNAME a.evil.test.", "a.evil.test. 60 A 203.0.113.1"},
		{"evil.test. 60 A 203.0.113.1", "a.wild.test. 60 HTTPS 1 . ech=aGk= mandatory=ech"},
	} {
		m := zoneReply(query, nil)
		m.Rcode = 0
		m.Answer = records(f, lines...)
		f.Add(mustPack(f, m), uint16(dns.TypeA))
		f.Add(mustPack(f, m), uint16(dns.TypeHTTPS))
	}
	guard := ipguard.New(nil)
	f.Fuzz(func(t *testing.T, raw []byte, qtype uint16) {
		query := query.Copy()
		query.Question[0].Qtype = qtype
		rep, _, ok := match(query, raw)
		if !ok || rep == nil {
			return
		}
		kernel, pol := new(learnedtest.Kernel), new(learnedtest.Policies)
		pol.Store(learnedtest.Compile(t, learnedtest.Services()...))
		names := learned.New(kernel, pol, learned.Options{Guard: guard, MaxAddrsPerName: 1 << 16})
		host := pol.Policy(id).Lookup("a.wild.test")
		out := filter(rep, query.Question[0], rules{
			address: func(a netip.Addr) bool { ok, _ := guard.Check(a, learned.GuardOptions(host)); return ok },
			target:  func(string) bool { return false },
			maxTTL:  3600,
			plain:   true, // the wildcard's rules
		})
		if err := names.Learn(id, "w", "a.wild.test", out.addrs); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, rr := range out.answer {
			switch v := rr.(type) {
			case *dns.A:
				seen[v.A.String()] = true
			case *dns.AAAA:
				seen[v.AAAA.String()] = true
			case *dns.HTTPS:
				for _, kv := range v.Value {
					if hidden(kv.Key()) || !plainParameter(kv.Key()) {
						t.Fatalf("left in the reply: %v", v)
					}
				}
			}
			if rr.Header().Ttl > 3600 {
				t.Fatalf("time to live: %v", rr)
			}
		}
		opened := kernel.Addresses()
		if len(seen) != len(opened) {
			t.Fatalf("the client sees %v, open is %v", seen, opened)
		}
		for _, a := range opened {
			if ok, class := guard.Check(netip.MustParseAddr(a), learned.GuardOptions(host)); !ok || !seen[a] {
				t.Fatalf("opened %s (%s), the client sees %v", a, class, seen)
			}
		}
		for _, l := range names.Dump() {
			if l.Name != "a.wild.test" {
				t.Fatalf("learned %v", l)
			}
		}
		m := answerTo(query, clientRcode(rep.Rcode))
		m.Answer, m.Ns = out.answer, out.ns
		m.Truncate(maxReply)
		if _, err := m.Pack(); err != nil {
			t.Skip("a record that cannot be packed again becomes SERVFAIL")
		}
	})
}
