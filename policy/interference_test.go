// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// TestNoInterference: whatever another namespace declares and exports, the
// hosts that a namespace declares and has rules of each list for (http, tls,
// tcp) stay for its own workloads what they are without it: answers, decisions
// and where connections go. Only
// the kernel may leave to the forwarding core what several share an address
// for.
func TestNoInterference(t *testing.T) {
	a := ofNamespaceA()
	before := policyFor(t, a, "a")
	changed := 0
	for seed := range uint64(600) {
		g := intruder{rand.New(rand.NewPCG(seed, 7))}
		c := *a
		c.Services = nil
		for range 1 + g.IntN(4) {
			c.Services = append(c.Services, g.service())
		}
		c.Services = append(c.Services, a.Services...)
		for range g.IntN(4) {
			c.VirtualServices = append([]*VirtualService{g.rules()}, c.VirtualServices...)
		}
		s, err := Compile(&c)
		if err != nil {
			continue // one of the random objects is none
		}
		var now *Policy
		for _, w := range s.Workloads() {
			if w.Namespace == "a" {
				now = s.Policy(w.Policy)
			}
		}
		for _, q := range asked(before) {
			if x, y := q(before), q(now); x != y {
				t.Fatalf("seed %d: %s\nwas %s\nwith %+v\n%+v", seed, y, x, c.Services[:len(c.Services)-len(a.Services)], c.VirtualServices)
			}
		}
		if now.sum != before.sum {
			changed++
		}
	}
	if changed < 300 {
		t.Errorf("the policy changed %d times only: the other namespace did nothing", changed)
	}
}

const (
	vip4, vip6         = "240.0.0.1", "fd00::1"
	learned4, learned6 = "203.0.113.1", "2001:db8::1"
)

func ofNamespaceA() *Config {
	c := &Config{Workloads: workloads("a", "b"), Services: []*Service{
		with(se("web", ResolutionDNS, "web.example.com"), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolTLS), svcPort(3306, ProtocolTCP), svcPort(53, ProtocolUDP), svcNamespace("a")),
		with(se("db", ResolutionStatic, "db.example.com"), svcPort(3306, ProtocolTCP), svcPort(443, ProtocolTLS), svcPort(53, ProtocolUDP), svcAddresses(vip4+"/32", vip6+"/128"), svcEndpoint("192.0.2.9"), svcEndpoint("2001:db8::9"), svcNamespace("a")),
		with(se("any", ResolutionNone, "any.example.com"), svcPort(8080, ProtocolUnset), svcNamespace("a")),
		with(se("wild", ResolutionNone, "*.wild.example.com"), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolTLS), svcNamespace("a")),
	}}
	for _, h := range []hostname.Pattern{"web.example.com", "db.example.com", "any.example.com", "*.wild.example.com"} {
		v := with(vs("rules-"+string(h[len(h)-11:]), mesh, names(h), answer("mine")), vsNamespace("a"))
		v.Ref.Name = string(h)
		to := Destination{Host: string(h)}
		if h.IsWildcard() {
			to.Host = "web.example.com"
		}
		route := []*WeightedDestination{{Destination: to}}
		v.TLS = []*TLSRule{{Ref: v.Ref, Matches: []*L4Match{{SNIHosts: v.Hosts}}, Route: route}}
		v.TCP = []*TCPRule{{Ref: v.Ref, Route: route}}
		c.VirtualServices = append(c.VirtualServices, v)
	}
	return c
}

// asked are questions about what a policy has; what is said to them is
// compared.
func asked(before *Policy) []func(*Policy) string {
	var out []func(*Policy) string
	for _, host := range []string{"web.example.com", "db.example.com", "any.example.com", "x.wild.example.com"} {
		out = append(out, func(p *Policy) string { return host + ": " + dnsAnswer(p, host) })
		for _, dst := range []string{learned4, learned6, vip4, vip6} {
			for _, port := range []uint16{80, 443, 3306, 53, 8080} {
				for _, tr := range []Transport{TCP, UDP} {
					if _, hp := before.LookupPort(host, tr, port); hp == nil {
						continue // not the namespace's own
					}
					out = append(out, func(p *Policy) string {
						return host + " at " + dst + ": " + fate(p, host, netip.AddrPortFrom(netip.MustParseAddr(dst), port), tr)
					})
				}
			}
		}
	}
	return out
}

// fate is what becomes of a flow to a host's port, whatever way it takes.
func fate(p *Policy, host string, dst netip.AddrPort, tr Transport) string {
	own := dst.Addr().String() == vip4 || dst.Addr().String() == vip6
	f := Flow{Transport: tr, Dst: dst}
	if !own { // another namespace's name has the same address, and was asked for first
		f.Names = []string{"b.example.com", host}
	}
	brief := func(d Decision) string {
		way := fmt.Sprint(d.Verdict == Deny, d.Reason)
		if tr == UDP {
			way += " " + Way{Verdict: d.Verdict, To: d.To}.String()
		}
		if d.Rule != nil {
			way += " " + d.Rule.String()
		}
		return way
	}
	to := func(u *Upstream) string {
		if u == nil {
			return " nowhere"
		}
		return " to " + upstreamText(u)
	}
	if own != (host == "db.example.com") {
		return "" // another's address: nothing is learned for what has its own
	}
	h, hp := p.LookupPort(host, tr, dst.Port())
	text := fmt.Sprint(dst.Port(), tr, h.Pattern, hp.Rule, hp.Protocol)
	if tr == UDP {
		return text + brief(p.Decide(f))
	}
	if hp.Protocol == ProtocolTCP || hp.Protocol == ProtocolUnset {
		c := p.Candidates(f)
		return text + brief(c.Decision) + to(c.Opaque)
	}
	if hp.Protocol.IsTLS() {
		d, u := p.DecideTLS(f, host)
		return text + brief(d) + to(u)
	}
	r := &Request{Method: "GET", Scheme: "http", Host: host, Authority: host, Path: "/", Port: dst.Port()}
	d := p.DecideHTTP(f, r)
	return text + brief(d.Decision) + to(d.Upstream)
}

// intruder makes objects of another namespace.
type intruder struct{ *rand.Rand }

func (g intruder) one(s ...string) string { return s[g.IntN(len(s))] }

func (g intruder) hosts() []hostname.Pattern {
	return names(hostname.Pattern(g.one("web.example.com", "db.example.com", "any.example.com", "*.wild.example.com", "*.example.com", "other.example.com", "b.example.com")))
}

func (g intruder) export() Visibility {
	if g.IntN(4) == 0 {
		return Visibility{Limited: true, Namespaces: []string{"a"}}
	}
	return Visibility{Everybody: g.IntN(2) == 0}
}

func (g intruder) service() *Service {
	s := with(se(fmt.Sprint("b", g.Uint32()), Resolution(g.IntN(4)), g.hosts()...), svcNamespace("b"))
	seen := map[uint16]bool{}
	for range 1 + g.IntN(3) {
		n := []uint16{80, 443, 3306, 53, 8080}[g.IntN(5)]
		if pr := Protocol(g.IntN(int(ProtocolUDP) + 1)); !seen[n] {
			with(s, svcPort(n, pr))
			seen[n] = true
		}
	}
	for range g.IntN(3) {
		with(s, svcAddresses(g.one(vip4+"/32", vip6+"/128", learned4+"/32", learned6+"/128", "192.0.2.9/32", "198.51.100.0/24")))
	}
	if s.Resolution == ResolutionStatic {
		for range 1 + g.IntN(2) {
			with(s, svcEndpoint(g.one("192.0.2.1", "192.0.2.9", "2001:db8::7", vip4, learned4)))
		}
	}
	s.AllowPrivate, s.Created, s.Export = g.IntN(2) == 0, int64(g.IntN(3)), g.export()
	return s
}

func (g intruder) rules() *VirtualService {
	v := with(vs(fmt.Sprint("b", g.Uint32()), mesh, g.hosts(), to("theirs", g.one("b.example.com", "web.example.com"), 0)), vsNamespace("b"))
	route := []*WeightedDestination{{Destination: Destination{Host: "b.example.com", Port: 443}}}
	if g.IntN(2) == 0 {
		v.TLS = []*TLSRule{{Ref: v.Ref, Matches: []*L4Match{{SNIHosts: v.Hosts}}, Route: route}}
	}
	if g.IntN(2) == 0 {
		v.TCP = []*TCPRule{{Ref: v.Ref, Route: route}}
	}
	v.Export = g.export()
	return v
}
