// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// sameHost compares all that a host says; what AuthorizationPolicies say by its text.
func sameHost(x, y *Host) bool {
	if x.guarded || y.guarded {
		return x.guarded == y.guarded && x.sum == y.sum
	}
	return reflect.DeepEqual(x, y)
}

// TestDonatedHosts: a host that policies share says in each of them what it would say if
// that had it of its own.
func TestDonatedHosts(t *testing.T) {
	shared, once := 0, 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 3))
		g := generator{r: r}
		c := g.config()
		s := mustCompile(t, c)
		for step := range 4 {
			alone, err := compileUnshared(c)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[*Host]bool{}
			for _, p := range s.policies {
				own := alone.byKey(p.class.key)
				if own == nil {
					t.Fatalf("seed %d step %d: nothing is compiled for %+v", seed, step, p.class.identity)
				}
				for pattern, h := range p.names.All() {
					if seen[h] {
						shared++
					} else {
						once++
					}
					seen[h] = true
					if fresh, _ := own.names.Get(pattern); fresh == nil || !sameHost(h, fresh) {
						t.Fatalf("seed %d step %d: %s in the policy of %+v:\n%s\nand alone\n%s", seed, step, pattern, p.class.identity, dumpHost(h), dumpHost(fresh))
					}
				}
			}
			edited := g.edit(c)
			next, err := s.Update(edited)
			if err != nil {
				continue
			}
			c, s = edited, next
		}
	}
	if shared == 0 || once == 0 {
		t.Errorf("%d hosts are shared, %d are not", shared, once)
	}
	t.Logf("%d hosts are shared, %d are not", shared, once)
}

func dumpHost(h *Host) (text string) {
	if h == nil {
		return "nothing"
	}
	text = fmt.Sprintf("%+v", *h)
	for _, hp := range h.Ports {
		text += fmt.Sprintf("\n  %+v\n    %+v", *hp, *hp.Upstream)
	}
	return text
}

// TestManyNamespaces: what all namespaces see is kept once, however many of them have
// workloads on the node; what is said differently in one of them is that one's own.
func TestManyNamespaces(t *testing.T) {
	c := &Config{}
	for i := range 20 {
		h := hostname.Pattern(fmt.Sprintf("h%d.example.com", i))
		c.Services = append(c.Services, &Service{
			Ref: Ref{Kind: "ServiceEntry", Namespace: "shop", Name: fmt.Sprint("s", i)}, External: true, Hosts: []hostname.Pattern{h},
			Ports: []Port{{Number: 443, Protocol: ProtocolTLS}}, Resolution: ResolutionDNS,
		})
	}
	// The namespaces differ in one host, which each of them declares.
	for _, ns := range []string{"a", "b", "c"} {
		c.Services = append(c.Services, &Service{
			Ref: Ref{Kind: "ServiceEntry", Namespace: ns, Name: "own"}, External: true, Hosts: []hostname.Pattern{"own.example.com"},
			Ports: []Port{{Number: 443, Protocol: ProtocolTLS}}, Resolution: ResolutionDNS,
		})
		c.Workloads = append(c.Workloads, workloads(ns)...)
	}
	s := mustCompile(t, c)
	hosts, all := map[*Host]bool{}, 0
	for _, p := range s.policies {
		for _, h := range p.names.All() {
			hosts[h] = true
			all++
		}
	}
	if len(s.policies) < 3 || all < 3*21 || len(hosts) < 20+3 || len(hosts) > 20+4 {
		t.Errorf("%d policies have %d hosts, of which %d are different", len(s.policies), all, len(hosts))
	}
}

// hostFrom is what the policy of the workloads in a namespace has for a host.
func hostFrom(t *testing.T, s *Snapshot, namespace string, host hostname.Pattern) (*Policy, *Host) {
	t.Helper()
	for _, w := range s.Workloads() {
		if w.Namespace != namespace {
			continue
		}
		p := s.Policy(w.Policy)
		h, ok := p.names.Get(host)
		if !ok {
			t.Fatalf("the policy of %s has no host %s", namespace, host)
		}
		return p, h
	}
	t.Fatalf("no workload in %s", namespace)
	return nil, nil
}

// TestNoDonatedDenial: what AuthorizationPolicies deny to some is denied to them, and to
// nobody else, although others have the host without a guard.
func TestNoDonatedDenial(t *testing.T) {
	c := guarded(
		authorize(AuthDeny, "tcp", from(&AuthSource{Namespaces: values("shop")})),
		authorize(AuthAllow, "static", from(&AuthSource{Namespaces: values("bank")})),
	)
	c.Workloads = workloads("aisle", "shop", "bank")
	s := mustCompile(t, c)
	for _, tt := range []struct {
		namespace string
		host      hostname.Pattern
		at        string
		denied    bool
	}{
		{"aisle", "tcp.example.com", "203.0.113.9:5432", false}, {"shop", "tcp.example.com", "203.0.113.9:5432", true}, {"bank", "tcp.example.com", "[2001:db8:9::9]:5432", false},
		{"aisle", "static.example.com", "192.0.2.10:6379", true}, {"shop", "static.example.com", "[2001:db8::10]:6379", true}, {"bank", "static.example.com", "192.0.2.10:6379", false},
	} {
		p, _ := hostFrom(t, s, tt.namespace, tt.host)
		if d := p.Decide(Flow{Transport: TCP, Dst: ap(tt.at), Names: []string{string(tt.host)}}); (d.Verdict == Deny) != tt.denied {
			t.Errorf("%s from %s: %+v", tt.host, tt.namespace, d)
		}
	}
	_, aisle := hostFrom(t, s, "aisle", "udp.example.com")
	if _, shop := hostFrom(t, s, "shop", "udp.example.com"); aisle != shop {
		t.Error("a host that nobody guards is there twice")
	}
}

// TestNoDonatedInside: an address inside of the cluster that a ServiceEntry names is one
// of its host for the workloads of its own namespace alone.
func TestNoDonatedInside(t *testing.T) {
	inside := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00:10::3")}
	for _, tt := range []struct {
		what string
		host func() *Service
	}{
		{"endpoints", func() *Service {
			return with(se("db", ResolutionStatic, "db.example.com"), svcPort(5432, ProtocolTCP), svcEndpoint("10.1.2.3"), svcEndpoint("fd00:10::3"))
		}},
		{"addresses", func() *Service {
			return with(se("db", ResolutionNone, "db.example.com"), svcPort(5432, ProtocolTCP), svcAddresses("10.1.2.3/32", "fd00:10::3/128"))
		}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			far := with(se("far", ResolutionStatic, "far.example.com"), svcPort(5432, ProtocolTCP), svcEndpoint("192.0.2.1"), svcEndpoint("2001:db8::1"))
			c := &Config{
				Services: []*Service{tt.host(), far}, Workloads: workloads("a", "default", "z"),
				Cluster: Cluster{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00:10::/64")}},
			}
			s := mustCompile(t, c)
			for _, ns := range []string{"a", "default", "z"} {
				_, h := hostFrom(t, s, ns, "db.example.com")
				if got := slices.Equal(h.Answers, inside); got != (ns == "default") || !got && len(h.Answers)+len(h.Literal) > 0 {
					t.Errorf("from %s it has the addresses %v, and queries are answered with %v", ns, h.Literal, h.Answers)
				}
			}
			_, a := hostFrom(t, s, "a", "far.example.com")
			if _, z := hostFrom(t, s, "default", "far.example.com"); a != z {
				t.Error("a host outside of the cluster is there twice")
			}
		})
	}
}

// TestNoDonatedProof: where names that no rule has pass, a name need not be proved, and
// elsewhere it must be.
func TestNoDonatedProof(t *testing.T) {
	every := AllowAny
	c := &Config{
		Services:  []*Service{with(se("tls", ResolutionDNS, "tls.example.com"), svcPort(443, ProtocolTLS))},
		Workloads: workloads("closed", "open"),
		Sidecars:  []*Sidecar{{Ref: Ref{Kind: "Sidecar", Namespace: "open", Name: "default"}, Outbound: &every}},
	}
	check := func(open, closed Verdict) {
		t.Helper()
		s := mustCompile(t, c)
		for ns, want := range map[string]Verdict{"open": open, "closed": closed} {
			p, _ := hostFrom(t, s, ns, "tls.example.com")
			for _, addr := range families {
				if got := p.Openings("tls.example.com", netip.MustParseAddr(addr)); len(got) != 1 || got[0].Verdict != want {
					t.Errorf("from %s the kernel is told %v, want %v", ns, got, want)
				}
			}
		}
	}
	check(Direct, Inspect)
	c.Sidecars, c.Mesh = []*Sidecar{{Ref: Ref{Kind: "Sidecar", Namespace: "closed", Name: "default"}, Outbound: new(OutboundMode)}}, Mesh{Outbound: AllowAny}
	check(Direct, Inspect)
	// A denial of another host may be asked for by its name.
	c.Authorizations = []*AuthorizationPolicy{authorize(AuthDeny, "other", &AuthRule{})}
	c.Services = append(c.Services, with(se("other", ResolutionDNS, "other.example.com"), svcPort(443, ProtocolTLS)))
	check(Proxy, Inspect)
}
