// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// whyConfig has something that loses for each reason there is.
func whyConfig() *Config {
	hidden := with(se("hidden", ResolutionDNS, "hidden.example.com"), svcPort(443, ProtocolTLS))
	hidden.Export = Visibility{Limited: true, Namespaces: []string{"prod"}}
	labels := answer("labels", &HTTPMatch{SourceLabels: map[string]string{"app": "x"}})
	header := answer("header", &HTTPMatch{Headers: map[string]StringMatch{"x-a": {Kind: MatchExact, Value: "1"}}})
	l4 := vs("l4", mesh, names("tls.example.com"))
	l4.TLS = []*TLSRule{
		{Ref: l4.Ref, Matches: []*L4Match{{SNIHosts: names("tls.example.com"), Port: 444}}, Route: toL4("api.example.com", 443)},
		{Ref: l4.Ref, Matches: []*L4Match{{SNIHosts: names("tls.example.com"), Port: 443}}, Route: toL4("api.example.com", 443)},
	}
	secret := vs("secret", mesh, names("api.example.com"), answer("x"))
	secret.Export = Visibility{Limited: true, Namespaces: []string{"prod"}}
	return &Config{
		Services: []*Service{
			with(se("api", ResolutionDNS, "api.example.com"), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolTLS)),
			with(se("again", ResolutionDNS, "api.example.com"), svcPort(80, ProtocolHTTP)),
			with(se("wide", ResolutionNone, "*.example.com"), svcPort(80, ProtocolHTTP), svcPort(53, ProtocolUDP)),
			with(se("tls", ResolutionDNS, "tls.example.com"), svcPort(443, ProtocolTLS)),
			with(se("db", ResolutionStatic, "db.example.com"), svcPort(5432, ProtocolTCP), svcEndpoint("192.0.2.1")),
			hidden, kube("inside"),
		},
		VirtualServices: []*VirtualService{
			vs("old", mesh, names("api.example.com"), answer("", uri(MatchPrefix, "/v1")), labels, header, answer("", uri(MatchExact, "/yes")), answer("late", uri(MatchPrefix, "/yes"))),
			vs("young", mesh, names("api.example.com"), answer("")), secret,
			vs("wide", mesh, names("*.example.com"), answer("")),
			vs("edge", []string{"default/gw"}, names("api.example.com"), answer("")),
			l4,
		},
	}
}

func TestWhy(t *testing.T) {
	p := mustCompile(t, whyConfig()).Policy(DefaultPolicy)
	tcp := func(dst string, names ...string) Flow { return Flow{Transport: TCP, Dst: ap(dst), Names: names} }
	sni := func(dst, name string) Flow {
		f := tcp(dst, name)
		f.Host, f.HostFrom = name, EvidenceSNI
		return f
	}
	for _, c := range []struct {
		name  string
		f     Flow
		r     *Request
		want  Verdict
		says  []string
		near  string
		class string
	}{
		{"http", tcp("192.0.2.9:80", "api.example.com"), get("api.example.com", "/yes"), Proxy, []string{
			"ServiceEntry default/api api.yaml:4 counts",
			"ServiceEntry default/again again.yaml:4 does not count: ServiceEntry default/api declares port 80 of host api.example.com first",
			"ServiceEntry default/wide wide.yaml:4 does not count: host *.example.com is less specific than api.example.com of ServiceEntry default/api",
			`rule 1: uri prefix "/v1" does not match "/yes"`, `rule "labels": sourceLabels map[app:x] are not those`,
			`rule "header": header X-A is missing`, "rule 4: matches", `rule "late": comes after a rule that matches`,
			"VirtualService default/young young.yaml:4 does not count: younger than VirtualService default/old for host api.example.com",
			"VirtualService default/secret secret.yaml:4 does not count: not visible to namespace default (exportTo)",
			"VirtualService default/wide wide.yaml:4 does not count: host *.example.com is less specific than api.example.com",
			"VirtualService default/edge edge.yaml:4 does not count: is for gateways (default/gw)",
		}, "", "requests are read one by one"},
		{"no route", tcp("192.0.2.9:80", "api.example.com"), get("api.example.com", "/no"), Deny, []string{`rule 4: uri exact "/yes" does not match "/no"`}, "VirtualService default/old", ""},
		{"tls", sni("192.0.2.9:443", "api.example.com"), nil, Inspect, []string{"ServiceEntry default/wide wide.yaml:4 does not count: port 443 is not declared; it has 80 HTTP, 53 UDP"}, "", "the kernel reads the ClientHello"},
		{"routed tls", sni("192.0.2.9:443", "tls.example.com"), nil, Proxy, []string{"tls rule 1: sni [tls.example.com] port 444 does not match", "tls rule 2: sni [tls.example.com] port 443 matches"}, "", "choose where connections go"},
		{"hidden", sni("192.0.2.9:443", "hidden.example.com"), nil, Deny, []string{"ServiceEntry default/hidden hidden.yaml:4 does not count: not visible to namespace default (exportTo)"}, "ServiceEntry default/hidden", ""},
		{"port", tcp("192.0.2.9:8080", "api.example.com"), nil, Deny, []string{"port 8080 is not declared; it has 80 HTTP, 443 TLS"}, "ServiceEntry default/api", ""},
		{"transport", Flow{Transport: UDP, Dst: ap("192.0.2.9:443"), Names: []string{"api.example.com"}}, nil, Deny, []string{"port 443 is declared for tcp, not for udp"}, "ServiceEntry default/api", ""},
		{"protocol", sni("192.0.2.9:80", "api.example.com"), nil, Deny, []string{"port 80 is for HTTP, the connection shows its name by sni"}, "ServiceEntry default/api", ""},
		{"slip", sni("192.0.2.9:443", "tls.exmple.com"), nil, Deny, nil, "ServiceEntry default/tls", ""},
		{"domain", sni("192.0.2.9:443", "example.com"), nil, Deny, nil, "ServiceEntry default/", ""},
		{"stranger", sni("192.0.2.9:443", "www.test"), nil, Deny, nil, "", ""},
		{"kubernetes", sni("192.0.2.9:443", "inside.default.svc.cluster.local"), nil, Deny, []string{"a Kubernetes Service opens nothing"}, "", ""},
		{"address", tcp("192.0.2.1:5432"), nil, Direct, []string{"ServiceEntry default/db db.yaml:4 counts: names the address 192.0.2.1 on port 5432/tcp"}, "", "nothing is read"},
		{"address, port", tcp("192.0.2.1:22"), nil, Deny, []string{"names the address, but port 22 is not declared; it has 5432 TCP"}, "ServiceEntry default/db", ""},
		{"udp", Flow{Transport: UDP, Dst: ap("192.0.2.9:53"), Names: []string{"x.example.com"}}, nil, Direct, nil, "", "UDP"},
	} {
		w := p.Why(c.f, c.r)
		var said strings.Builder
		for _, x := range w.Considered {
			said.WriteString(x.String() + "\n")
		}
		for _, s := range c.says {
			if !strings.Contains(said.String(), s) {
				t.Errorf("%s: does not say %q:\n%s", c.name, s, said.String())
			}
		}
		near := ""
		if w.Nearest != nil {
			near = w.Nearest.Rule.String()
		}
		if w.Verdict != c.want || w.Allowed != (c.want != Deny) || !strings.Contains(w.Class, c.class) || !strings.HasPrefix(near, c.near) || c.near == "" && near != "" {
			t.Errorf("%s: %v (%v) %q, nearest %+v\n%s", c.name, w.Verdict, w.Reason, w.Class, w.Nearest, said.String())
		}
	}
}

// TestWhyTwoHops: the rules of both hops are told.
func TestWhyTwoHops(t *testing.T) {
	f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
	w := mustCompile(t, twoHopHTTP()).Policy(DefaultPolicy).Why(f, get("edition.cnn.com", "/"))
	said := ""
	for _, c := range w.Considered {
		said += c.String() + "\n"
	}
	for _, s := range []string{`rule "mesh": matches`, "goes on through gateway default/egress port 80", `rule "gateway": is for gateways (default/egress)`, `gateway rule "gateway": matches`} {
		if !strings.Contains(said, s) {
			t.Errorf("does not say %q:\n%s", s, said)
		}
	}
	c := twoHopHTTP()
	c.VirtualServices[0].HTTP[1].Matches[0].URI = &StringMatch{Kind: MatchPrefix, Value: "/only"}
	w = mustCompile(t, c).Policy(DefaultPolicy).Why(f, get("edition.cnn.com", "/"))
	said = ""
	for _, c := range w.Considered {
		said += c.String() + "\n"
	}
	if w.Allowed || !strings.Contains(said, "which has no rule for it (no-route)") || !strings.Contains(said, `uri prefix "/only" does not match "/"`) {
		t.Errorf("%+v:\n%s", w.Nearest, said)
	}
}

// TestWhyTCP: rules are found by the host that the address is of.
func TestWhyTCP(t *testing.T) {
	w := mustCompile(t, twoHopTCP()).Policy(DefaultPolicy).Why(Flow{Transport: TCP, Dst: ap("240.1.1.1:27017")}, nil)
	if n := len(w.Considered); !w.Allowed || n != 3 || !strings.Contains(w.Considered[2].Why, "is the rule of gateway default/egress port 7777") {
		t.Errorf("%+v", w.Considered)
	}
}

// TestWhySidecar: what a Sidecar hides is told.
func TestWhySidecar(t *testing.T) {
	c := whyConfig()
	c.Sidecars = []*Sidecar{{Ref: Ref{Kind: "Sidecar", Namespace: "default", Name: "s"}, Egress: []SidecarEgress{{Hosts: []SidecarHost{{Namespace: "*", Host: "db.example.com"}}}}}}
	f := Flow{Transport: TCP, Dst: ap("192.0.2.9:443"), Host: "api.example.com", HostFrom: EvidenceSNI}
	w := mustCompile(t, c).Policy(DefaultPolicy).Why(f, nil)
	if w.Allowed || w.Nearest == nil || w.Nearest.Why != "hidden by Sidecar default/s" {
		t.Errorf("%+v", w)
	}
}

// TestWhyAgrees: whatever the configuration, the explanation says what the
// decision says, and something of a rule that allows.
func TestWhyAgrees(t *testing.T) {
	for seed := range uint64(100) {
		g := generator{r: rand.New(rand.NewPCG(seed, 2))}
		c := g.config()
		for range 6 {
			if edited := g.edit(c); canCompile(edited) {
				c = edited
			}
		}
		s := mustCompile(t, c)
		for _, id := range s.Policies() {
			p := s.Policy(id)
			for _, name := range []string{"x.example.com", "q.example.com", "a.wild.org", "z.example.com", "nothing"} {
				for _, dst := range []string{"192.0.2.1:80", "203.0.113.1:443", "[2001:db8::1]:5432"} {
					checkWhy(t, p, Flow{Transport: TCP, Dst: ap(dst), Names: []string{name}})
					checkWhy(t, p, Flow{Transport: TCP, Dst: ap(dst), Names: []string{name}, Host: name, HostFrom: EvidenceSNI})
					checkWhy(t, p, Flow{Transport: UDP, Dst: ap(dst)})
					checkWhyRequest(t, p, Flow{Transport: TCP, Dst: ap(dst), Names: []string{name}}, get(name, "/"))
				}
			}
		}
	}
}

func canCompile(c *Config) bool {
	_, err := Compile(c)
	return err == nil
}

func checkWhy(t *testing.T, p *Policy, f Flow) {
	t.Helper()
	w, d := p.Why(f, nil), p.Decide(f)
	switch {
	case f.Host != "":
		d, _ = p.DecideTLS(f, f.Host)
	case d.Verdict == Proxy:
		if c := p.Candidates(f); c.Verdict == Deny {
			d = c.Decision
		}
	}
	if w.Allowed != (d.Verdict != Deny) || w.Reason != d.Reason {
		t.Fatalf("%+v: explained as %v (%v), decided %v (%v)", f, w.Verdict, w.Reason, d.Verdict, d.Reason)
	}
	if w.Allowed && (w.Class == "" || w.Rule != nil && !slices.ContainsFunc(w.Considered, func(c Considered) bool { return c.Won })) {
		t.Fatalf("%+v: allowed, class %q, by nothing: %+v", f, w.Class, w.Considered)
	}
	if w.Allowed && w.Nearest != nil {
		t.Fatalf("%+v: allowed, and %+v is nearest", f, w.Nearest)
	}
	checkDenial(t, f, w, d)
}

// checkWhyRequest is checkWhy for requests that the policy itself denies.
func checkWhyRequest(t *testing.T, p *Policy, f Flow, r *Request) {
	t.Helper()
	w, d := p.Why(f, r), p.DecideHTTP(f, r)
	if d.Verdict == Deny && w.Reason != d.Reason {
		t.Fatalf("%+v: explained as %v (%v), decided %v (%v)", f, w.Verdict, w.Reason, d.Verdict, d.Reason)
	}
	checkDenial(t, f, w, d.Decision)
}

// checkDenial: what an AuthorizationPolicy or a DestinationRule denies is
// explained by it.
func checkDenial(t *testing.T, f Flow, w Account, d Decision) {
	t.Helper()
	says := ""
	switch d.Reason {
	case ReasonAuthorization:
		says = "matches"
	case ReasonNoAllow:
		says = "ALLOW policy for"
	case ReasonNotSupported:
		says = "which egressd does not do"
	default:
		return
	}
	if w.Nearest == nil || w.Nearest.Rule != *d.Rule || !strings.Contains(w.Nearest.Why, says) {
		t.Fatalf("%+v: %v by %v, explained by %+v: %v", f, d.Reason, d.Rule, w.Nearest, w.Considered)
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "ab", 1}, {"abc", "xabc", 1}, {"googleapis.com", "gogleapsi.com", 3}, {"abcdef", "uvwxyz", 4}, {"a", "abcdefgh", 4}} {
		if got := editDistance(c.a, c.b, 3); got != c.want {
			t.Errorf("%q and %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
	if n := commonLabels("a.b.example.com", "c.example.com"); n != 2 {
		t.Errorf("%d labels in common", n)
	}
}
