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

// svcNamespace moves an object to a namespace.
func svcNamespace(namespace string) func(*Service) {
	return func(s *Service) {
		s.Ref.Namespace = namespace
	}
}

func vsNamespace(namespace string) func(*VirtualService) {
	return func(vs *VirtualService) {
		vs.Ref.Namespace = namespace
		for _, r := range vs.HTTP {
			r.Ref = vs.Ref
		}
	}
}

func workloads(namespaces ...string) []*Workload {
	var out []*Workload
	for _, n := range namespaces {
		out = append(out, &Workload{Ref: Ref{Kind: "Workload", Namespace: n, Name: "w"}, Identity: Identity{Name: "w", Namespace: n}})
	}
	return out
}

// policyFor compiles c and returns the policy of its workload in a namespace.
func policyFor(t testing.TB, c *Config, namespace string) *Policy {
	t.Helper()
	s := mustCompile(t, c)
	for _, w := range s.Workloads() {
		if w.Namespace == namespace {
			return s.Policy(w.Policy)
		}
	}
	return s.Policy(DefaultPolicy)
}

// TestHostOfSeveralNamespaces: a workload has its own namespace's entries for
// a host, others have the oldest one's, and nobody has a mixture.
func TestHostOfSeveralNamespaces(t *testing.T) {
	const host = "shop.example.com"
	for _, ip := range []string{"185.10.10.3", "2001:db8:b::3"} {
		for name, b := range map[string]*Service{
			"another port": with(se("b", ResolutionStatic, host), svcPort(8080, ProtocolHTTP), svcEndpoint(ip)),
			"all ports":    with(se("b", ResolutionStatic, host), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolTLS), svcPort(3306, ProtocolTCP), svcEndpoint(ip)),
			"addresses":    with(se("b", ResolutionNone, host), svcPort(8080, ProtocolTCP), svcAddresses(netip.PrefixFrom(netip.MustParseAddr(ip), netip.MustParseAddr(ip).BitLen()).String())),
			"private":      private(with(se("b", ResolutionDNS, host), svcPort(8080, ProtocolHTTP))),
			"no port":      with(se("b", ResolutionStatic, host), svcEndpoint(ip)),
		} {
			a := func() *Service {
				return with(se("a", ResolutionDNS, host), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolTLS), svcPort(3306, ProtocolTCP), svcNamespace("a"))
			}
			with(b, svcNamespace("b")).Created = 1 // older
			c := &Config{Services: []*Service{b, a()}, Workloads: workloads("a", "b", "c")}
			alone := policyFor(t, &Config{Services: []*Service{a()}, Workloads: workloads("a")}, "a").Lookup(host)
			got := policyFor(t, c, "a").Lookup(host)
			if x, y := hostText(got), hostText(alone); x != y {
				t.Errorf("%s: a has\n%s, want\n%s", name, x, y)
			}
			theirs := policyFor(t, &Config{Services: []*Service{b}, Workloads: workloads("b")}, "b").Lookup(host)
			for _, ns := range []string{"b", "c"} { // the older one is everybody else's
				if x, y := hostText(policyFor(t, c, ns).Lookup(host)), hostText(theirs); x != y {
					t.Errorf("%s: %s has\n%s, want\n%s", name, ns, x, y)
				}
			}
		}
	}
}

func private(s *Service) *Service {
	s.AllowPrivate = true
	return s
}

func hostText(h *Host) string {
	if h == nil {
		return "nothing"
	}
	s := &Snapshot{policies: []*Policy{{class: &identityClass{}, names: hostname.NewIndex(func(yield func(hostname.Pattern, *Host) bool) { yield(h.Pattern, h) }), addrs: emptyPolicy.addrs, vhosts: emptyPolicy.vhosts}}}
	return s.Text()
}

// TestOneNamespaceJoins: within a namespace ports are put together, as long as
// queries are answered in one way.
func TestOneNamespaceJoins(t *testing.T) {
	dns := func(name string, port uint16) *Service {
		return with(se(name, ResolutionDNS, "x.example.com"), svcPort(port, ProtocolHTTP), svcNamespace("a"))
	}
	static := func(name string) *Service {
		return with(se(name, ResolutionStatic, "x.example.com"), svcPort(8080, ProtocolHTTP), svcEndpoint("192.0.2.1"), svcNamespace("a"))
	}
	again := static("one")
	again.Ref.File = "other.yaml"
	for name, c := range map[string]struct {
		list  []*Service
		ports int
		own   bool
	}{
		"two of DNS":             {[]*Service{dns("one", 80), dns("two", 81)}, 2, false},
		"static after DNS":       {[]*Service{dns("one", 80), static("two")}, 1, false},
		"DNS after static":       {[]*Service{static("one"), dns("two", 80)}, 1, true},
		"the same object, twice": {[]*Service{dns("one", 80), again}, 2, true},
	} {
		h := policyFor(t, &Config{Services: c.list, Workloads: workloads("a")}, "a").Lookup("x.example.com")
		if len(h.Ports) != c.ports || h.Own != c.own {
			t.Errorf("%s: %d ports, own %t", name, len(h.Ports), h.Own)
		}
	}
}

// TestAddressOfSeveralNamespaces: where only the address tells what a flow is
// for, another namespace's rules for it are nothing to a workload whose own
// has some.
func TestAddressOfSeveralNamespaces(t *testing.T) {
	for _, v := range []struct{ vip, mine, theirs string }{{"240.0.0.1/32", "192.0.2.9", "192.0.2.1"}, {"fd00::1/128", "2001:db8::9", "2001:db8::1"}} {
		vip := netip.MustParsePrefix(v.vip).Addr()
		for _, pr := range []Protocol{ProtocolTCP, ProtocolUDP, ProtocolUnset, ProtocolTLS, ProtocolHTTP} {
			for _, other := range []Protocol{ProtocolTCP, ProtocolUDP, ProtocolUnset, ProtocolTLS, ProtocolHTTP} {
				a := with(se("a", ResolutionStatic, "a.example.com"), svcPort(53, pr), svcAddresses(v.vip), svcEndpoint(v.mine), svcNamespace("a"))
				b := with(se("b", ResolutionStatic, "b.example.com"), svcPort(53, other), svcAddresses(v.vip), svcEndpoint(v.theirs), svcNamespace("b"))
				alone := policyFor(t, &Config{Services: []*Service{a}, Workloads: workloads("a")}, "a")
				both := policyFor(t, &Config{Services: []*Service{b, a}, Workloads: workloads("a")}, "a")
				f := Flow{Transport: pr.Transport(), Dst: netip.AddrPortFrom(vip, 53)}
				x, y := alone.Decide(f), both.Decide(f)
				// TLS and HTTP say for whom they are, so that names can share.
				shared := (x.Port.Protocol.IsHTTP() || x.Port.Protocol.IsTLS()) && other.Transport() == TCP && (other.IsHTTP() || other.IsTLS())
				if x.Rule != y.Rule && *x.Rule != *y.Rule || !shared && (x.Verdict != y.Verdict || x.To != y.To) {
					t.Errorf("%v beside %v: %v %v by %v, alone %v %v", pr, other, y.Verdict, y.To, y.Rule, x.Verdict, x.To)
				}
				if f.Transport == TCP {
					if u, w := alone.Candidates(f).Opaque, both.Candidates(f).Opaque; (u == nil) != (w == nil) || u != nil && u.Host != w.Host {
						t.Errorf("%v beside %v: opaque to %+v, alone %+v", pr, other, w, u)
					}
				}
			}
		}
	}
}

// TestWhyNamesTheLoser: explain says what the data path does, and why another
// namespace's entry has no part in it.
func TestWhyNamesTheLoser(t *testing.T) {
	a := with(se("a", ResolutionDNS, "x.example.com"), svcPort(80, ProtocolHTTP), svcNamespace("a"))
	b := with(se("b", ResolutionStatic, "x.example.com"), svcPort(8080, ProtocolHTTP), svcEndpoint("192.0.2.1"), svcNamespace("b"))
	c := &Config{Services: []*Service{b, a}, VirtualServices: []*VirtualService{
		with(vs("b", mesh, names("x.example.com"), answer("b")), vsNamespace("b")), with(vs("a", mesh, names("x.example.com"), answer("a")), vsNamespace("a")),
	}, Workloads: workloads("a", "b")}
	said := func(x Account, rule Ref) string {
		for _, c := range x.Considered {
			if c.Rule == rule {
				return c.String()
			}
		}
		return "nothing"
	}
	r := func(port uint16) *Request {
		return &Request{Method: "GET", Scheme: "http", Host: "x.example.com", Authority: "x.example.com", Path: "/", Port: port}
	}
	p := policyFor(t, c, "a")
	x := p.Why(Flow{Dst: ap("203.0.113.1:8080")}, r(8080))
	if x.Allowed || x.Nearest == nil || x.Nearest.Rule != b.Ref || !strings.Contains(said(x, b.Ref), "own namespace") {
		t.Errorf("%+v", x)
	}
	if x = p.Why(Flow{Dst: ap("203.0.113.1:80")}, r(80)); !x.Allowed || !strings.Contains(said(x, b.Ref), "does not count") ||
		!strings.Contains(said(x, c.VirtualServices[0].Ref), "own namespace") {
		t.Errorf("%+v", x)
	}
	if x = policyFor(t, c, "b").Why(Flow{Dst: ap("203.0.113.1:8080")}, r(8080)); !x.Allowed {
		t.Errorf("%+v", x)
	}
}

// dnsAnswer is what a policy says of queries for a name.
func dnsAnswer(p *Policy, name string) string {
	h := p.Lookup(name)
	if h == nil {
		return "refused"
	}
	return fmt.Sprint(h.Pattern, h.Own, h.Answers, h.Literal, h.AllowPrivate, slices.Sorted(slices.Values(portNumbers(h))))
}

func portNumbers(h *Host) (out []uint16) {
	for _, hp := range h.Ports {
		out = append(out, hp.Number)
	}
	return out
}
