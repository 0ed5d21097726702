// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// authorize returns an AuthorizationPolicy in namespace default that guards a
// ServiceEntry there.
func authorize(action AuthAction, target string, rules ...*AuthRule) *AuthorizationPolicy {
	a := &AuthorizationPolicy{
		Ref:    Ref{Kind: "AuthorizationPolicy", Namespace: "default", Name: strings.ToLower(action.String()) + "-" + target, File: "a.yaml", Line: 7},
		Action: action, Rules: rules,
	}
	if target != "" {
		a.Targets = []AuthTarget{{Kind: "ServiceEntry", Name: target}}
	}
	return a
}

func values(list ...string) []ValueMatch { return match.ParseValues(list) }

func paths(list ...string) []PathMatch {
	var out []PathMatch
	for _, s := range list {
		if strings.Contains(s, "{") {
			out = append(out, PathMatch{Template: s})
		} else {
			out = append(out, PathMatch{ValueMatch: config.ParseValueMatch(s)})
		}
	}
	return out
}

func on(o *AuthOperation) *AuthRule { return &AuthRule{To: []*AuthOperation{o}} }

func from(s *AuthSource) *AuthRule { return &AuthRule{From: []*AuthSource{s}} }

func when(key string, list ...string) *AuthRule {
	return &AuthRule{When: []*AuthCondition{{Key: key, Values: list}}}
}

// guarded is a Config with one service of each kind, and policies for them.
func guarded(list ...*AuthorizationPolicy) *Config {
	return &Config{
		Services: []*Service{
			with(se("http", ResolutionDNS, "http.example.com"), svcPort(80, ProtocolHTTP), svcPort(8080, ProtocolHTTP)),
			with(se("tls", ResolutionDNS, "tls.example.com", "*.tls.example.com"), svcPort(443, ProtocolTLS)),
			with(se("tcp", ResolutionDNS, "tcp.example.com"), svcPort(5432, ProtocolTCP)),
			with(se("udp", ResolutionDNS, "udp.example.com"), svcPort(123, ProtocolUDP)),
			with(se("any", ResolutionDNS, "any.example.com"), svcPort(9000, ProtocolUnset)),
			with(se("static", ResolutionStatic, "static.example.com"), svcPort(6379, ProtocolTCP), svcEndpoint("192.0.2.10"), svcEndpoint("2001:db8::10")),
			with(se("net", ResolutionNone, "net.example.com"), svcPort(6379, ProtocolTCP), svcPort(123, ProtocolUDP), svcAddresses("192.0.2.0/24", "2001:db8::/32")),
		},
		Authorizations: list,
	}
}

var families = map[string]string{"ipv4": "203.0.113.1", "ipv6": "2001:db8:ffff::1"}

// TestAuthorizationOfClaims: claims are nobody's, and the reader refuses
// conditions about them; what else is open is in
// semantics/authorization.txtar.
func TestAuthorizationOfClaims(t *testing.T) {
	p := mustCompile(t, guarded(authorize(AuthAllow, "http", when("request.auth.claims[a]", "b")))).Policy(DefaultPolicy)
	for fam, addr := range families {
		if got := p.Openings("http.example.com", netip.MustParseAddr(addr)); len(got) != 0 {
			t.Errorf("%s: opens %v", fam, got)
		}
	}
	if d := p.DecideQuery("http.example.com"); d.Verdict != Deny || !d.byAuthorizer() || d.Host != nil || p.Lookup("http.example.com") != nil {
		t.Errorf("the name may be asked for: %+v", d)
	}
}

func TestAuthorizationDestinationAddress(t *testing.T) {
	p := mustCompile(t, guarded(
		authorize(AuthAllow, "tcp", when("destination.ip", "203.0.113.0/24", "2001:db8:ffff::/48")),
		authorize(AuthDeny, "static", when("destination.ip", "192.0.2.10", "2001:db8::10")),
	)).Policy(DefaultPolicy)
	for addr, want := range map[string]int{"203.0.113.9": 1, "198.51.100.1": 0, "2001:db8:ffff::9": 1, "2001:db8:1::": 0} {
		if got := p.Openings("tcp.example.com", netip.MustParseAddr(addr)); len(got) != want {
			t.Errorf("%s opens %v", addr, got)
		}
	}
	// The addresses of a service that is denied stay closed although a wider
	// rule lies around them.
	for _, addr := range []string{"192.0.2.10", "2001:db8::10"} {
		d := p.Decide(Flow{Transport: TCP, Dst: ap(hostPort(addr, 6379))})
		if d.Verdict != Deny || d.Reason != ReasonAuthorization || ruleName(d.Rule) != "deny-static" {
			t.Errorf("%s: %v %v by %s", addr, d.Verdict, d.Reason, ruleName(d.Rule))
		}
		for _, o := range p.Static() {
			if o.Prefix.IsSingleIP() && o.Verdict != Proxy {
				t.Errorf("the kernel opens %+v", o)
			}
		}
	}
	for _, addr := range []string{"192.0.2.11", "2001:db8::11"} {
		if d := p.Decide(Flow{Transport: TCP, Dst: ap(hostPort(addr, 6379))}); d.Verdict != Direct {
			t.Errorf("beside it, %s: %v %v", addr, d.Verdict, d.Reason)
		}
	}
}

func hostPort(a string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(a), port).String()
}

// TestAuthorizationCosts: what a guard looks at is not copied.
func TestAuthorizationCosts(t *testing.T) {
	p := mustCompile(t, guarded(
		authorize(AuthDeny, "http", on(&AuthOperation{Methods: values("DELETE")}), on(&AuthOperation{Paths: paths("/admin*")})),
		authorize(AuthAllow, "http", on(&AuthOperation{Hosts: values("http.example.com")}), when("request.headers[x-any]", "*")),
		authorize(AuthAllow, "tls", when("connection.sni", "*.tls.example.com")),
	)).Policy(DefaultPolicy)
	r := get("http.example.com", "/")
	if n := testing.AllocsPerRun(20, func() {
		p.DecideHTTP(flow80, r)
		p.DecideTLS(flow443, "tls.example.com") // under a wildcard, the upstream is made for the name
		p.Decide(flow443)
	}); n != 0 {
		t.Errorf("decisions allocate %v times", n)
	}
}

var (
	flow80  = Flow{Transport: TCP, Dst: ap("203.0.113.1:80"), Names: []string{"http.example.com"}}
	flow443 = Flow{Transport: TCP, Dst: ap("203.0.113.1:443"), Names: []string{"tls.example.com"}}
)

// TestAuthorizationMarks: AUDIT and dry-run policies deny nothing, and say so.
func TestAuthorizationMarks(t *testing.T) {
	dry := func(a *AuthorizationPolicy) *AuthorizationPolicy { a.DryRun = true; return a }
	p := mustCompile(t, guarded(
		authorize(AuthAudit, "http", on(&AuthOperation{Methods: values("GET")})),
		dry(authorize(AuthDeny, "http", on(&AuthOperation{Paths: paths("/a")}))),
		dry(authorize(AuthAllow, "tcp", on(&AuthOperation{Ports: []uint16{1}}))),
		dry(authorize(AuthAllow, "tls", &AuthRule{})),
	)).Policy(DefaultPolicy)
	http := func(method, path string) Decision {
		r := get("http.example.com", path)
		r.Method = method
		return p.DecideHTTP(flow80, r).Decision
	}
	tls, _ := p.DecideTLS(flow443, "tls.example.com")
	tcp := Flow{Transport: TCP, Dst: ap("203.0.113.1:5432"), Names: []string{"tcp.example.com"}}
	for _, c := range []struct {
		name         string
		d            Decision
		audited, dry string
	}{
		{"audited", http("GET", "/"), "audit-http", ""},
		{"both", http("GET", "/a"), "audit-http", "deny-http"},
		{"neither", http("POST", "/"), "", ""},
		{"allowed by dry-run", tls, "", ""},
		{"not allowed by dry-run", p.Candidates(tcp).Decision, "", "allow-tcp"},
		{"in the kernel", p.Decide(tcp), "", "allow-tcp"},
	} {
		if c.d.Verdict == Deny || ruleName(c.d.Audited) != c.audited || ruleName(c.d.DryRun) != c.dry {
			t.Errorf("%s: %v, audited by %q, dry-run %q", c.name, c.d.Verdict, ruleName(c.d.Audited), ruleName(c.d.DryRun))
		}
	}
}

func TestAuthorizationRefusals(t *testing.T) {
	for want, rule := range map[string]*AuthRule{
		"when: source.ip":         when("source.ip", "x"),
		"when: destination.port":  when("destination.port", "99999"),
		"neither a value":         {When: []*AuthCondition{{Key: "source.ip"}}},
		"has {**} twice":          on(&AuthOperation{Paths: paths("/{**}/{**}")}),
		"neither a text nor {*}":  on(&AuthOperation{NotPaths: paths("/a{*}")}),
		"when: destination.ip: P": when("destination.ip", "1.2.3.4/99"),
	} {
		_, err := Compile(guarded(authorize(AuthDeny, "tls", rule)))
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "ParseAddr", "P"), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if _, err := Compile(guarded(authorize(9, "tls"))); err == nil {
		t.Error("an unknown action compiles")
	}
}
