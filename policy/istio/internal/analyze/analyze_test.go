// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

func ref(kind, name string, line int) policy.Ref {
	return policy.Ref{Kind: kind, Namespace: "default", Name: name, File: "f", Line: line, Column: 1}
}

func route(line int, hosts ...string) []*policy.WeightedDestination {
	var out []*policy.WeightedDestination
	for _, h := range hosts {
		host, subset, _ := strings.Cut(h, "+")
		out = append(out, &policy.WeightedDestination{Destination: policy.Destination{Host: host, Subset: subset}})
	}
	return out
}

// analyzed are the findings about a Config that no file holds.
func analyzed(cfg *policy.Config, namespaces ...string) []strictyaml.Finding {
	from := Files{
		Report: &strictyaml.Report{}, Namespaces: map[string]bool{},
		Object: func(policy.Ref) (r strictyaml.Reporter, spec *strictyaml.Node) { return r, nil },
	}
	for _, ns := range namespaces {
		from.Namespaces[ns] = true
	}
	Config(cfg, from)
	return from.Report.Sorted(from.Report.Findings)
}

func compareFindings(t *testing.T, got []strictyaml.Finding, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i].String()
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("finding %d:\n got %s\nwant %s", i, g, w)
		}
	}
}

// TestAnalyzeRoutes is about the lists and fields that the files of the other
// tests do not have.
func TestAnalyzeRoutes(t *testing.T) {
	service := func(name string, p policy.Protocol) *policy.Service {
		return &policy.Service{
			Ref: ref("ServiceEntry", name, 1), External: true, Hosts: []hostname.Pattern{hostname.Pattern(name + ".example.com")},
			Ports: []policy.Port{{Number: 8000, Protocol: p}},
		}
	}
	match := func(sni string) []*policy.L4Match {
		return []*policy.L4Match{{SNIHosts: []hostname.Pattern{hostname.Pattern(sni)}}}
	}
	cfg := &policy.Config{
		Services: []*policy.Service{service("http", policy.ProtocolHTTP), service("tls", policy.ProtocolTLS), service("udp", policy.ProtocolUDP)},
		Gateways: []*policy.Gateway{{Ref: ref("Gateway", "pass", 1), Servers: []policy.GatewayServer{{
			Port: 443, Protocol: policy.ProtocolHTTPS, Hosts: []hostname.Pattern{"*.example.com"},
			TLS: &policy.ServerTLS{Mode: policy.ServerPassthrough},
		}}}, {Ref: ref("Gateway", "terminate", 1), Servers: []policy.GatewayServer{{
			Port: 443, Protocol: policy.ProtocolHTTPS, Hosts: []hostname.Pattern{"*.example.com"},
			TLS: &policy.ServerTLS{Mode: policy.ServerSimple},
		}}}},
		VirtualServices: []*policy.VirtualService{{
			Ref: ref("VirtualService", "wrong", 2), Hosts: []hostname.Pattern{"http.example.com"}, Gateways: []string{model.Mesh},
			TLS: []*policy.TLSRule{{Ref: ref("VirtualService", "wrong", 3), Matches: match("http.example.com"), Route: route(3, "gone.example.com")}},
			TCP: []*policy.TCPRule{
				{Ref: ref("VirtualService", "wrong", 4), Route: route(4, "tls.example.com+v1")},
				{Ref: ref("VirtualService", "wrong", 5), Route: route(5, "tls.example.com")},
			},
		}, {
			Ref: ref("VirtualService", "right", 6), Hosts: []hostname.Pattern{"tls.example.com"}, Gateways: []string{model.Mesh, "default/pass"},
			TLS: []*policy.TLSRule{
				{Ref: ref("VirtualService", "right", 7), Matches: match("tls.example.com"), Route: route(7, "tls.example.com+v2", "istio-egressgateway.istio-system.svc.cluster.local")},
				{Ref: ref("VirtualService", "right", 8), Matches: match("tls.example.com"), Route: route(8, "tls.example.com+v3")},
			},
		}, {
			Ref: ref("VirtualService", "passed", 9), Hosts: []hostname.Pattern{"a.example.com"}, Gateways: []string{"default/pass"},
			HTTP: []*policy.HTTPRule{{Ref: ref("VirtualService", "passed", 10), Route: route(10, "http.example.com")}},
		}, {
			Ref: ref("VirtualService", "terminated", 11), Hosts: []hostname.Pattern{"a.example.com"}, Gateways: []string{"default/terminate"},
			HTTP: []*policy.HTTPRule{{Ref: ref("VirtualService", "terminated", 12), Route: route(12, "http.example.com")}},
		}, {
			Ref: ref("VirtualService", "udp", 13), Hosts: []hostname.Pattern{"udp.example.com"}, Gateways: []string{model.Mesh},
			HTTP: []*policy.HTTPRule{{Ref: ref("VirtualService", "udp", 14), Route: route(14, "http.example.com"), Mirrors: []policy.Mirror{{Destination: policy.Destination{Host: "mirror.example.com"}}}}},
			TCP:  []*policy.TCPRule{{Ref: ref("VirtualService", "udp", 15), Matches: match("a"), Route: route(15, "http.example.com")}},
		}},
		DestinationRules: []*policy.DestinationRule{{
			Ref: ref("DestinationRule", "subsets", 16), Host: "*.example.com", Subsets: []policy.Subset{{Name: "v2"}, {Name: "v4"}},
		}, {
			Ref: ref("DestinationRule", "gone", 17), Host: "gone.example.net",
		}, {
			Ref: ref("DestinationRule", "gateway", 18), Host: "istio-egressgateway.istio-system.svc.cluster.local",
		}},
	}
	compareFindings(t, analyzed(cfg), []string{
		"f:2:1: warning: tls rules do not apply to http.example.com: ServiceEntry default/http has no TLS port [VirtualService default/wrong]",
		"f:2:1: warning: tcp rules do not apply to http.example.com: ServiceEntry default/http has no TCP port that is neither HTTP nor TLS [VirtualService default/wrong]",
		"f:3:1: warning: no ServiceEntry declares the destination gone.example.com: connections are closed [VirtualService default/wrong]",
		`f:4:1: warning: Referenced host+subset in destinationrule not found: "tls.example.com+v1" [VirtualService default/wrong]`,
		"f:5:1: warning: virtualService rule #1 not used (route without matches defined before) [VirtualService default/wrong]",
		`f:8:1: warning: Referenced host+subset in destinationrule not found: "tls.example.com+v3" [VirtualService default/right]`,
		"f:8:1: warning: virtualService rule #1 match #0 is not used (duplicate/overlapping match in rule #0) [VirtualService default/right]",
		"f:8:1: warning: virtualService rule #1 not used (all matches used by prior rules) [VirtualService default/right]",
		"f:9:1: warning: http rules do not apply: no server of the Gateways that the VirtualService is bound to has such a port [VirtualService default/passed]",
		"f:13:1: warning: http rules do not apply to udp.example.com: ServiceEntry default/udp has no HTTP port (what TLS carries cannot be read) [VirtualService default/udp]",
		"f:13:1: warning: tcp rules do not apply to udp.example.com: ServiceEntry default/udp has no TCP port that is neither HTTP nor TLS [VirtualService default/udp]",
		"f:14:1: warning: no ServiceEntry declares the destination mirror.example.com: nothing is mirrored [VirtualService default/udp]",
		`f:16:1: warning: no route uses the subset "v4" of *.example.com [DestinationRule default/subsets]`,
		"f:17:1: warning: no ServiceEntry and no Service declares the host gone.example.net: the rule does not apply to anything [DestinationRule default/gone]",
	})
}

// TestAnalyzeVisibility: objects that nobody sees both of do not conflict.
func TestAnalyzeVisibility(t *testing.T) {
	everybody := policy.Visibility{}
	nobody := policy.Visibility{Limited: true}
	in := func(ns ...string) policy.Visibility { return policy.Visibility{Limited: true, Namespaces: ns} }
	for _, tt := range []struct {
		a, b policy.Visibility
		want bool
	}{
		{everybody, everybody, true}, {everybody, in("a"), true}, {in("a"), everybody, true}, {in("a", "b"), in("b"), true},
		{in("a"), in("b"), false}, {everybody, nobody, false}, {nobody, everybody, false}, {nobody, nobody, false},
	} {
		entry := func(name string, p policy.Protocol, v policy.Visibility) *policy.Service {
			return &policy.Service{
				Ref: ref("ServiceEntry", name, 1), External: true, Hosts: []hostname.Pattern{"a.b"}, Export: v,
				Ports: []policy.Port{{Number: 80, Protocol: p}},
			}
		}
		rules := func(name string, v policy.Visibility) *policy.VirtualService {
			return &policy.VirtualService{
				Ref: ref("VirtualService", name, 2), Hosts: []hostname.Pattern{"a.b"}, Gateways: []string{model.Mesh}, Export: v,
				HTTP: []*policy.HTTPRule{{Ref: ref("VirtualService", name, 3), Redirect: &policy.Redirect{URI: "/"}}},
			}
		}
		got := analyzed(&policy.Config{
			Services:        []*policy.Service{entry("a", policy.ProtocolHTTP, tt.a), entry("b", policy.ProtocolTCP, tt.b)},
			VirtualServices: []*policy.VirtualService{rules("a", tt.a), rules("b", tt.b)},
		}, "a", "b")
		if want := map[bool]int{true: 2}[tt.want]; len(got) != want {
			t.Errorf("%v and %v: %d findings, want %d: %v", tt.a, tt.b, len(got), want, got)
		}
	}
	compareFindings(t, analyzed(&policy.Config{Services: []*policy.Service{{
		Ref: ref("ServiceEntry", "a", 1), Hosts: []hostname.Pattern{"a.b"}, Export: in("default", "here", "typo"),
	}}}, "here"), []string{
		"f:1:1: warning: exportTo typo: there is no object and no workload in that namespace [ServiceEntry default/a]",
	})
}

// TestHostSet compares the set's answers with those of looking at every host.
func TestHostSet(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	label := func() string { return string([]byte{byte('a' + rnd.IntN(3))}) }
	host := func() hostname.Pattern {
		h := label()
		for range rnd.IntN(3) {
			h += "." + label()
		}
		switch rnd.IntN(4) {
		case 0:
			h = "*." + h
		case 1:
			h = "*" + h
		}
		return hostname.Pattern(h)
	}
	hits := 0
	for range 300 {
		var services []*policy.Service
		for range rnd.IntN(6) {
			s := &policy.Service{Hosts: []hostname.Pattern{host(), host()}}
			s.Ports = []policy.Port{{Number: 1, Protocol: policy.Protocol(rnd.IntN(protocolCount))}}
			services = append(services, s)
		}
		set := newHostSet(services)
		for range 20 {
			h := host()
			want, found := protocols(0), false
			for _, s := range services {
				if slices.ContainsFunc(s.Hosts, h.Overlaps) {
					want |= 1 << s.Ports[0].Protocol
					found = true
				}
			}
			got := set.find(h)
			if (got.service != nil) != found || got.ports != want {
				t.Fatalf("%s: found %v, ports %b, want %v, %b", h, got.service != nil, got.ports, found, want)
			}
			if found {
				hits++
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d of the questions had an answer", hits)
	}
}

func TestSameText(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"a*", "*b", true}, {"a*", "b*", false}, {"*", "", true}, {"a*b", "ab", true}, {"a*b", "a", false},
		{"*a*", "*b*", true}, {"a*c*e", "a*d*e", true}, {"x-*", "*-y", true}, {"ab*", "*ba", true}, {"ab", "ab", true},
		{"ab", "abc", false}, {"*a", "b*c", false}, {"**", "*x", true},
	} {
		if got := sameText(tt.a, tt.b); got != tt.want {
			t.Errorf("%q and %q: %t", tt.a, tt.b, got)
		}
		if got := sameText(tt.b, tt.a); got != tt.want {
			t.Errorf("%q and %q: %t", tt.b, tt.a, got)
		}
	}
}

// large is a Config of n hosts with rules for each, and as many wildcards.
func large(n int) *policy.Config {
	cfg := &policy.Config{}
	for i := range n {
		name := fmt.Sprintf("h%d", i)
		h := hostname.Pattern(name + ".example.com")
		cfg.Services = append(cfg.Services, &policy.Service{
			Ref: ref("ServiceEntry", name, i), External: true, Hosts: []hostname.Pattern{h},
			Ports: []policy.Port{{Number: 80, Protocol: policy.ProtocolHTTP}},
		})
		if i%2 == 0 {
			continue
		}
		m := []*policy.HTTPMatch{{URI: &policy.StringMatch{Kind: policy.MatchPrefix, Value: "/a"}}}
		cfg.VirtualServices = append(cfg.VirtualServices, &policy.VirtualService{
			Ref: ref("VirtualService", name, i), Hosts: []hostname.Pattern{h, "*" + h[1:]}, Gateways: []string{model.Mesh},
			HTTP: []*policy.HTTPRule{
				{Ref: ref("VirtualService", name, i), Matches: m, Route: route(i, string(h))},
				{Ref: ref("VirtualService", name, i+1), Route: route(i, string(h))},
			},
		})
		cfg.Sidecars = append(cfg.Sidecars, &policy.Sidecar{
			Ref: ref("Sidecar", name, i), Selector: map[string]string{"app": name},
			Egress: []policy.SidecarEgress{{Hosts: []policy.SidecarHost{{Namespace: "*", Host: h}}}},
		})
		cfg.Workloads = append(cfg.Workloads, &policy.Workload{
			Ref: ref("Workload", name, i), Identity: policy.Identity{Name: name, Namespace: "default", Labels: map[string]string{"app": name}},
			Cgroups: []string{name + "/*", "all/" + name + "-*"},
		})
	}
	return cfg
}

// BenchmarkAnalyze looks at 100,000 ServiceEntries alone, and at 20,000 with
// something of every kind for each second.
func BenchmarkAnalyze(b *testing.B) {
	bare := large(100_000)
	bare.VirtualServices, bare.Sidecars, bare.Workloads = nil, nil, nil
	for name, cfg := range map[string]*policy.Config{"services": bare, "everything": large(20_000)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if f := analyzed(cfg); len(f) > 0 {
					b.Fatal(len(f), f[0])
				}
			}
		})
	}
}
