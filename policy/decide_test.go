// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

func hostPattern(i int) hostname.Pattern {
	if i%10 == 0 {
		return hostname.Pattern(fmt.Sprintf("*.host%d.example.com", i))
	}
	return hostname.Pattern(fmt.Sprintf("host%d.example.com", i))
}

// flows is the policy that the tables below ask.
func flows(t testing.TB) *Policy {
	return defaultOf(t, []*Service{
		with(se("api", ResolutionDNS, "api.example.com"), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolHTTPS)),
		with(se("wild", ResolutionNone, "*.example.com"), svcPort(443, ProtocolTLS), svcPort(8443, ProtocolTLS)),
		with(se("ntp", ResolutionDNS, "time.example.org"), svcPort(123, ProtocolUDP)),
		with(se("db", ResolutionStatic, "db.example.org"), svcPort(5432, ProtocolTCP), svcTarget(15432), svcEndpoint("192.0.2.10"), svcEndpoint("2001:db8::10")),
		with(se("nets", ResolutionNone, "nets.example.org"), svcPort(25, ProtocolTCP), svcAddresses("198.51.100.0/24", "2001:db8:25::/48")),
		with(se("host25", ResolutionNone, "one.example.org"), svcPort(25, ProtocolUDP), svcAddresses("198.51.100.7/32")),
		with(se("vip", ResolutionDNS, "vip.example.org"), svcPort(80, ProtocolHTTP), svcAddresses("240.1.1.1/32", "fd00::80/128")),
		with(se("sniff", ResolutionDNS, "any.example.org"), svcPort(9000, ProtocolUnset)),
		with(se("tcp443", ResolutionDNS, "tunnel.example.org"), svcPort(443, ProtocolTCP)),
		se("mute", ResolutionDNS, "mute.example.org"),
		with(se("wildtcp", ResolutionDNS, "*.tcp.example.org"), svcPort(22, ProtocolTCP), svcTarget(2222)),
	})
}

// TestDecide has what is asked in no other way than by flows that are half
// known, and that no decision allocates; semantics/flows.txtar has the rest.
func TestDecide(t *testing.T) {
	p := flows(t)
	for _, c := range []struct {
		name    string
		tr      Transport
		dst     string
		names   string
		host    string
		from    Evidence
		verdict Verdict
		reason  Reason
		rule    string
	}{
		{"learned", TCP, "203.0.113.1:443", "api.example.com", "", 0, Inspect, ReasonAllowed, "api"},
		{"nothing known", TCP, "203.0.113.1:443", "", "", 0, Deny, ReasonNoRule, ""},
		{"icmp", 1, "203.0.113.1:0", "api.example.com", "", 0, Deny, ReasonSocketType, ""},
		{"host", TCP, "203.0.113.1:80", "", "api.example.com", EvidenceHTTP, Proxy, ReasonAllowed, "api"},
		{"name on an endpoint's port", TCP, "192.0.2.10:15432", "", "db.example.org", EvidenceNone, Direct, ReasonAllowed, "db"},
		{"name on a foreign port", TCP, "192.0.2.11:15432", "", "db.example.org", EvidenceNone, Deny, ReasonPort, "db"},
		{"udp name, own address", UDP, "203.0.113.9:123", "time.example.org", "time.example.org", 0, Direct, ReasonAllowed, "ntp"},
		{"udp name, own literal", UDP, "198.51.100.7:25", "", "one.example.org", 0, Direct, ReasonAllowed, "host25"},
		{"udp name, foreign address", UDP, "203.0.113.9:123", "", "time.example.org", 0, Deny, ReasonNoRule, "ntp"},
		{"tcp name, wrong transport", UDP, "203.0.113.9:443", "", "api.example.com", 0, Deny, ReasonTransport, "api"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := Flow{Transport: c.tr, Dst: ap(c.dst), Host: c.host, HostFrom: c.from}
			if c.names != "" {
				f.Names = strings.Split(c.names, ",")
			}
			d := p.Decide(f)
			if d.Verdict != c.verdict || d.Reason != c.reason || ruleName(d.Rule) != c.rule {
				t.Errorf("%+v: %v %v by %q; want %v %v by %q", f, d.Verdict, d.Reason, ruleName(d.Rule), c.verdict, c.reason, c.rule)
			}
			if allowed := d.Verdict != Deny; allowed != (d.Host != nil) || allowed != (d.Port != nil) {
				t.Errorf("host %v and port %v with verdict %v", d.Host, d.Port, d.Verdict)
			}
			if n := testing.AllocsPerRun(20, func() { p.Decide(f) }); n != 0 {
				t.Errorf("Decide allocates %v times", n)
			}
		})
	}
}

func ruleName(r *Ref) string {
	if r == nil {
		return ""
	}
	return r.Name
}

func TestCandidates(t *testing.T) {
	p := flows(t)
	for _, c := range []struct {
		name      string
		dst       string
		names     []string
		http, tls bool
		opaque    string
		reason    Reason
	}{
		{"http", "203.0.113.1:80", []string{"api.example.com"}, true, false, "", ReasonAllowed},
		{"tls", "203.0.113.1:443", []string{"api.example.com"}, false, true, "", ReasonAllowed},
		{"opaque", "203.0.113.1:443", []string{"tunnel.example.org"}, false, false, "tunnel.example.org:443", ReasonAllowed},
		{"opaque by wildcard", "203.0.113.1:22", []string{"a.tcp.example.org"}, false, false, "a.tcp.example.org:22", ReasonAllowed},
		{"tls and opaque", "203.0.113.1:443", []string{"api.example.com", "tunnel.example.org"}, false, true, "tunnel.example.org:443", ReasonAllowed},
		{"no protocol", "203.0.113.1:9000", []string{"any.example.org"}, true, true, "any.example.org:9000", ReasonAllowed},
		{"static", "192.0.2.10:5432", nil, false, false, "db.example.org:5432", ReasonAllowed},
		{"cidr", "198.51.100.9:25", nil, false, false, "nets.example.org:25", ReasonAllowed},
		{"nothing", "203.0.113.1:443", nil, false, false, "", ReasonNoRule},
		{"other port", "203.0.113.1:444", []string{"api.example.com"}, false, false, "", ReasonPort},
	} {
		got := p.Candidates(Flow{Transport: TCP, Dst: ap(c.dst), Names: c.names})
		opaque := ""
		if got.Opaque != nil {
			opaque = fmt.Sprintf("%s:%d", got.Opaque.Host, got.Opaque.Port)
		}
		if got.HTTP != c.http || got.TLS != c.tls || opaque != c.opaque || got.Reason != c.reason {
			t.Errorf("%s: %+v (opaque %q)", c.name, got, opaque)
		}
		if (got.Verdict == Deny) != (c.reason != ReasonAllowed) {
			t.Errorf("%s: verdict %v", c.name, got.Verdict)
		}
	}
}

func TestDecideTLS(t *testing.T) {
	p := flows(t)
	for _, c := range []struct {
		name, dst string
		names     []string
		sni       string
		upstream  string
		reason    Reason
		rule      string
	}{
		{"exact", "203.0.113.1:443", nil, "api.example.com", "api.example.com:443 HTTPS DNS api.example.com:443", ReasonAllowed, "api"},
		{"wildcard, address of the workload's", "203.0.113.1:443", nil, "q.example.com", "q.example.com:443 TLS NONE", ReasonAllowed, "wild"},
		{"wildcard and target port", "203.0.113.1:22", nil, "q.tcp.example.org", "q.tcp.example.org:22 TCP DNS target-port 2222 q.tcp.example.org:2222", ReasonAllowed, "wildtcp"},
		{"another allowed name", "203.0.113.1:443", []string{"q.example.com"}, "api.example.com", "api.example.com:443 HTTPS DNS api.example.com:443", ReasonAllowed, "api"},
		{"stranger", "203.0.113.1:443", []string{"api.example.com"}, "evil.example", "", ReasonName, "api"},
		{"none", "203.0.113.1:443", []string{"api.example.com"}, "", "", ReasonNoName, "api"},
		{"none, address unknown", "203.0.113.1:443", nil, "", "", ReasonNoName, ""},
		{"stranger, tcp rule", "203.0.113.1:443", []string{"tunnel.example.org"}, "evil.example", "tunnel.example.org:443 TCP DNS tunnel.example.org:443", ReasonAllowed, "tcp443"},
		{"none, tcp rule", "203.0.113.1:443", []string{"tunnel.example.org"}, "", "tunnel.example.org:443 TCP DNS tunnel.example.org:443", ReasonAllowed, "tcp443"},
		{"stranger, no protocol", "203.0.113.1:9000", []string{"any.example.org"}, "evil.example", "", ReasonName, "sniff"},
		{"none, no protocol", "203.0.113.1:9000", []string{"any.example.org"}, "", "", ReasonNoName, "sniff"},
		{"own name, no protocol", "203.0.113.1:9000", []string{"any.example.org"}, "any.example.org", "any.example.org:9000 (unset) DNS any.example.org:9000", ReasonAllowed, "sniff"},
		{"http port", "203.0.113.1:80", []string{"api.example.com"}, "api.example.com", "", ReasonNotHTTP, "api"},
	} {
		d, u := p.DecideTLS(Flow{Dst: ap(c.dst), Names: c.names}, c.sni)
		upstream := ""
		if u != nil {
			upstream = upstreamText(u)
		}
		if upstream != c.upstream || d.Reason != c.reason || ruleName(d.Rule) != c.rule || (d.Verdict == Deny) != (u == nil) {
			t.Errorf("%s: %v %v by %q to %q", c.name, d.Verdict, d.Reason, ruleName(d.Rule), upstream)
		}
	}
}

func TestLookupAndOpenings(t *testing.T) {
	p := flows(t)
	if h := p.Lookup("api.example.com"); h == nil || h.Pattern != "api.example.com" {
		t.Errorf("Lookup: %v", h)
	}
	if h := p.Lookup("evil.example"); h != nil {
		t.Errorf("Lookup of a stranger: %v", h)
	}
	if h, hp := p.LookupPort("api.example.com", TCP, 8443); h == nil || h.Pattern != "*.example.com" || hp.Number != 8443 {
		t.Errorf("LookupPort: %v, %v", h, hp)
	}
	for addr, prefix := range map[string]string{
		"203.0.113.5": "203.0.113.5/32", "::ffff:203.0.113.5": "203.0.113.5/32", "2001:db8::5": "2001:db8::5/128",
	} {
		want := []Opening{
			{Prefix: netip.MustParsePrefix(prefix), Port: 80, Transport: TCP, Verdict: Proxy},
			{Prefix: netip.MustParsePrefix(prefix), Port: 443, Transport: TCP, Verdict: Inspect, Name: "api.example.com"},
			{Prefix: netip.MustParsePrefix(prefix), Port: 8443, Transport: TCP, Verdict: Inspect, Name: "api.example.com"},
		}
		if got := p.Openings("api.example.com", netip.MustParseAddr(addr)); !slices.Equal(got, want) {
			t.Errorf("Openings(%s): %v, want %v", addr, got, want)
		}
	}
	if got := p.Openings("evil.example", netip.MustParseAddr("203.0.113.5")); got != nil {
		t.Errorf("Openings of a stranger: %v", got)
	}
	if got := p.Openings("api.example.com", netip.Addr{}); got != nil {
		t.Errorf("Openings of no address: %v", got)
	}
}

// TestOpeningsAgreeWithDecide asks Decide about everything that is opened,
// and about the ports and transports beside it.
func TestOpeningsAgreeWithDecide(t *testing.T) {
	p := flows(t)
	a := netip.MustParseAddr("203.0.113.77")
	for _, name := range []string{"api.example.com", "x.example.com", "time.example.org", "any.example.org", "mute.example.org"} {
		open := map[string]Verdict{}
		for _, o := range p.Openings(name, a) {
			open[fmt.Sprint(o.Transport, o.Port)] = o.Verdict
		}
		for port := range uint16(10_000) {
			for _, tr := range []Transport{TCP, UDP} {
				d := p.Decide(Flow{Transport: tr, Dst: netip.AddrPortFrom(a, port), Names: []string{name}})
				if want := open[fmt.Sprint(tr, port)]; d.Verdict != want {
					t.Fatalf("%s %v/%d: decided %v, opened %v", name, port, tr, d.Verdict, want)
				}
			}
		}
	}
	for _, o := range p.Static() {
		if d := p.Decide(Flow{Transport: o.Transport, Dst: netip.AddrPortFrom(o.Prefix.Addr(), o.Port)}); d.Verdict != o.Verdict {
			t.Errorf("%v: decided %v", o, d)
		}
	}
}

func TestStaticIsForNamedAddressesOnly(t *testing.T) {
	p := defaultOf(t, []*Service{
		with(se("dns", ResolutionDNS, "a.b"), svcPort(80, ProtocolHTTP), svcEndpoint("192.0.2.1")),
		with(se("static", ResolutionStatic, "c.d"), svcPort(81, ProtocolHTTP), svcEndpoint("192.0.2.2"), svcEndpoint("192.0.2.3"), svcAddresses("240.0.0.1/32")),
	})
	var got []string
	for _, o := range p.Static() {
		got = append(got, fmt.Sprintf("%v:%d %v", o.Prefix, o.Port, o.Verdict))
	}
	want := []string{"192.0.2.2/32:81 proxy", "192.0.2.3/32:81 proxy", "240.0.0.1/32:81 proxy"}
	if !slices.Equal(got, want) {
		t.Errorf("static: %q, want %q", got, want)
	}
	if h := p.Lookup("c.d"); !h.Own || fmt.Sprint(h.Answers) != "[240.0.0.1]" {
		t.Errorf("answers %v (own %v), want the VIP", h.Answers, h.Own)
	}
	if h := p.Lookup("a.b"); h.Own {
		t.Error("a name with DNS endpoints and no address is not ours to answer")
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		p := mustCompile(b, manyHosts(n)).Policy(DefaultPolicy)
		for name, f := range map[string]Flow{
			"learned":  {Transport: TCP, Dst: ap("203.0.113.1:443"), Names: []string{"host777.example.com"}},
			"wildcard": {Transport: TCP, Dst: ap("203.0.113.1:443"), Names: []string{"a.b.host770.example.com"}},
			"static":   {Transport: TCP, Dst: ap("198.18.0.101:443")},
			"sni":      {Transport: TCP, Dst: ap("203.0.113.1:443"), Host: "host777.example.com", HostFrom: EvidenceSNI},
			"deny":     {Transport: TCP, Dst: ap("203.0.113.1:443")},
		} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.Decide(f)
				}
			})
		}
	}
}
