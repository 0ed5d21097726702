// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// authorize returns an AuthorizationPolicy in namespace default that guards a
// ServiceEntry there.
func authorize(action AuthAction, target string, rules ...*AuthRule) *AuthorizationPolicy {
	a := &AuthorizationPolicy{
		Ref:    Ref{Kind: "AuthorizationPolicy", Namespace: "default", Name: strings.ToLower(action.String()) + "-" + target, File: "a.yaml", Line: 7},
		Action: action, Rules: rules,
	}
	if target != "" {
		a.Targets = []AuthTarget{{"ServiceEntry", target}}
	}
	return a
}

func values(list ...string) []ValueMatch { return valueMatches(list) }

func paths(list ...string) []PathMatch {
	var out []PathMatch
	for _, s := range list {
		if strings.Contains(s, "{") {
			out = append(out, PathMatch{Template: s})
		} else {
			out = append(out, PathMatch{ValueMatch: ParseValueMatch(s)})
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
			se("http", ResolutionDNS, "http.example.com").port(80, ProtocolHTTP).port(8080, ProtocolHTTP),
			se("tls", ResolutionDNS, "tls.example.com", "*.tls.example.com").port(443, ProtocolTLS),
			se("tcp", ResolutionDNS, "tcp.example.com").port(5432, ProtocolTCP),
			se("udp", ResolutionDNS, "udp.example.com").port(123, ProtocolUDP),
			se("any", ResolutionDNS, "any.example.com").port(9000, ProtocolUnset),
			se("static", ResolutionStatic, "static.example.com").port(6379, ProtocolTCP).endpoint("192.0.2.10").endpoint("2001:db8::10"),
			se("net", ResolutionNone, "net.example.com").port(6379, ProtocolTCP).port(123, ProtocolUDP).at("192.0.2.0/24", "2001:db8::/32"),
		},
		Authorizations: list,
	}
}

var families = map[string]string{"ipv4": "203.0.113.1", "ipv6": "2001:db8:ffff::1"}

// TestAuthorizationOpenings: what the kernel may decide alone, it decides as
// the policies say; what needs more than it knows goes to the proxy.
func TestAuthorizationOpenings(t *testing.T) {
	any := &AuthRule{}
	for _, c := range []struct {
		name     string
		list     []*AuthorizationPolicy
		host     string
		want     string
		resolves bool
	}{
		{"unguarded", nil, "tls.example.com", "443 inspect", true},
		{"guard of another", []*AuthorizationPolicy{authorize(AuthDeny, "http", any)}, "tls.example.com", "443 inspect", true},
		{"denied", []*AuthorizationPolicy{authorize(AuthDeny, "tls", any)}, "tls.example.com", "", false},
		{"denied under the wildcard", []*AuthorizationPolicy{authorize(AuthDeny, "tls", any)}, "a.tls.example.com", "", false},
		{"one name under the wildcard is denied", []*AuthorizationPolicy{authorize(AuthDeny, "tls", on(&AuthOperation{Hosts: values("a.tls.example.com")}))}, "a.tls.example.com", "", false},
		{"another is not", []*AuthorizationPolicy{authorize(AuthDeny, "tls", on(&AuthOperation{Hosts: values("a.tls.example.com")}))}, "b.tls.example.com", "443 inspect", true},
		{"one name under the wildcard is allowed", []*AuthorizationPolicy{authorize(AuthAllow, "tls", when("connection.sni", "*.tls.example.com"))}, "a.tls.example.com", "443 inspect", true},
		{"another is not allowed", []*AuthorizationPolicy{authorize(AuthAllow, "tls", when("connection.sni", "*.tls.example.com"))}, "tls.example.com", "", false},
		{"allow nothing", []*AuthorizationPolicy{authorize(AuthAllow, "tls")}, "tls.example.com", "", false},
		{"allow everything", []*AuthorizationPolicy{authorize(AuthAllow, "tls", any)}, "tls.example.com", "443 inspect", true},
		{"one of two ALLOW policies is enough", []*AuthorizationPolicy{authorize(AuthAllow, "tls"), authorize(AuthAllow, "tls", any)}, "tls.example.com", "443 inspect", true},
		{"DENY before ALLOW", []*AuthorizationPolicy{authorize(AuthAllow, "tls", any), authorize(AuthDeny, "tls", any)}, "tls.example.com", "", false},
		{"AUDIT denies nothing", []*AuthorizationPolicy{authorize(AuthAudit, "tls", any)}, "tls.example.com", "443 inspect", true},
		{"a port", []*AuthorizationPolicy{authorize(AuthDeny, "http", on(&AuthOperation{Ports: []uint16{80}}))}, "http.example.com", "8080 proxy", true},
		{"a port, as a condition", []*AuthorizationPolicy{authorize(AuthAllow, "http", when("destination.port", "80"))}, "http.example.com", "80 proxy", true},
		{"a host with its port", []*AuthorizationPolicy{authorize(AuthDeny, "http", on(&AuthOperation{Hosts: values("http.example.com:80")}))}, "http.example.com", "8080 proxy", true},
		{"a host with any port", []*AuthorizationPolicy{authorize(AuthDeny, "http", on(&AuthOperation{Hosts: values("http.example.com:*")}))}, "http.example.com", "", false},
		{"methods are the proxy's to read", []*AuthorizationPolicy{authorize(AuthAllow, "http", on(&AuthOperation{Methods: values("GET")}))}, "http.example.com", "80 proxy,8080 proxy", true},
		{"methods allow no TLS", []*AuthorizationPolicy{authorize(AuthAllow, "tls", on(&AuthOperation{Methods: values("GET")}))}, "tls.example.com", "", false},
		{"methods deny all TLS", []*AuthorizationPolicy{authorize(AuthDeny, "tls", on(&AuthOperation{Methods: values("POST")}))}, "tls.example.com", "", false},
		{"not-methods deny all TLS", []*AuthorizationPolicy{authorize(AuthDeny, "tls", on(&AuthOperation{NotMethods: values("GET")}))}, "tls.example.com", "", false},
		{"headers deny all TCP", []*AuthorizationPolicy{authorize(AuthDeny, "tcp", when("request.headers[x]", "1"))}, "tcp.example.com", "", false},
		{"SNI is not read of TCP", []*AuthorizationPolicy{authorize(AuthAllow, "tcp", when("connection.sni", "tcp.example.com"))}, "tcp.example.com", "", false},
		{"source addresses are the proxy's to know", []*AuthorizationPolicy{authorize(AuthAllow, "tcp", from(&AuthSource{IPBlocks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}))}, "tcp.example.com", "5432 proxy", true},
		{"and nobody's for UDP", []*AuthorizationPolicy{authorize(AuthAllow, "udp", when("source.ip", "10.0.0.0/8"))}, "udp.example.com", "", false},
		{"UDP", []*AuthorizationPolicy{authorize(AuthAllow, "udp", on(&AuthOperation{Ports: []uint16{123}}))}, "udp.example.com", "123 direct", true},
		{"no protocol: it depends", []*AuthorizationPolicy{authorize(AuthDeny, "any", on(&AuthOperation{Methods: values("POST")}))}, "any.example.com", "9000 proxy", true},
		{"namespace", []*AuthorizationPolicy{authorize(AuthDeny, "tls", from(&AuthSource{Namespaces: values("default")}))}, "tls.example.com", "", false},
		{"other namespace", []*AuthorizationPolicy{authorize(AuthDeny, "tls", from(&AuthSource{Namespaces: values("prod")}))}, "tls.example.com", "443 inspect", true},
		{"account", []*AuthorizationPolicy{authorize(AuthAllow, "tls", from(&AuthSource{Principals: values("cluster.local/ns/default/sa/*")}))}, "tls.example.com", "443 inspect", true},
		{"tokens nobody has", []*AuthorizationPolicy{authorize(AuthAllow, "tls", from(&AuthSource{Never: true}))}, "tls.example.com", "", false},
		{"claims nobody has", []*AuthorizationPolicy{authorize(AuthAllow, "http", when("request.auth.claims[a]", "b"))}, "http.example.com", "", false},
		{"a policy of another namespace", []*AuthorizationPolicy{func() *AuthorizationPolicy {
			a := authorize(AuthDeny, "tls", any)
			a.Ref.Namespace = "other"
			return a
		}()}, "tls.example.com", "443 inspect", true},
		{"a policy for the namespace's own servers", []*AuthorizationPolicy{authorize(AuthAllow, "")}, "tls.example.com", "443 inspect", true},
		{"dry-run", []*AuthorizationPolicy{func() *AuthorizationPolicy {
			a := authorize(AuthDeny, "tls", any)
			a.DryRun = true
			return a
		}()}, "tls.example.com", "443 inspect", true},
	} {
		p := mustCompile(t, guarded(c.list...)).Policy(DefaultPolicy)
		for fam, addr := range families {
			var got []string
			for _, o := range p.Openings(c.host, netip.MustParseAddr(addr)) {
				got = append(got, fmt.Sprintf("%d %v", o.Port, o.Verdict))
			}
			if s := strings.Join(got, ","); s != c.want {
				t.Errorf("%s, %s: opens %q, want %q", c.name, fam, s, c.want)
			}
		}
		if got := p.Lookup(c.host) != nil; got != c.resolves {
			t.Errorf("%s: the name is allowed: %v", c.name, got)
		}
		if d := p.DecideQuery(c.host); (d.Verdict != Deny) != c.resolves || !c.resolves && !d.byGuard() || (d.Host != nil) != c.resolves {
			t.Errorf("%s: the name may be asked for: %+v", c.name, d)
		}
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

// TestAuthorizationOfFlows: the last decision, with everything that is known.
func TestAuthorizationOfFlows(t *testing.T) {
	p := mustCompile(t, guarded(
		authorize(AuthDeny, "http", on(&AuthOperation{Methods: values("DELETE")}), on(&AuthOperation{Paths: paths("/admin*")})),
		authorize(AuthAllow, "http", on(&AuthOperation{Hosts: values("http.example.com")}), when("request.headers[x-any]", "*")),
		authorize(AuthAllow, "tcp", when("source.ip", "10.0.0.0/8", "fd00::/8")),
		authorize(AuthDeny, "any", on(&AuthOperation{Paths: paths("/x")})),
		authorize(AuthAllow, "tls", when("connection.sni", "*.tls.example.com")),
	)).Policy(DefaultPolicy)
	flow := func(port uint16, names ...string) Flow {
		return Flow{Transport: TCP, Dst: ap(hostPort(families["ipv4"], port)), Names: names}
	}
	http := func(method, path string, header ...string) Reason {
		r := get("http.example.com", path, header...)
		r.Method = method
		return p.DecideHTTP(flow(80, "http.example.com"), r).Reason
	}
	tls := func(sni string) Reason { d, _ := p.DecideTLS(flow(443, "tls.example.com"), sni); return d.Reason }
	tcp := func(src string) Reason {
		f := flow(5432, "tcp.example.com")
		if src != "" {
			f.Src = netip.MustParseAddr(src)
		}
		c := p.Candidates(f)
		if (c.Opaque != nil) != (c.Verdict != Deny) {
			t.Errorf("from %q: opaque %v, %v", src, c.Opaque, c.Verdict)
		}
		return c.Reason
	}
	unset := func() (any, any, any) {
		f := flow(9000, "any.example.com")
		h := p.DecideHTTP(f, get("any.example.com", "/y")).Reason
		d, _ := p.DecideTLS(f, "any.example.com")
		c := p.Candidates(f)
		if c.Opaque != nil || !c.HTTP || !c.TLS {
			t.Errorf("candidates of a port without protocol: %+v", c)
		}
		x := p.DecideHTTP(f, get("any.example.com", "/x")).Reason
		return h, d.Reason, x
	}
	h, s, x := unset()
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"GET", http("GET", "/"), ReasonAllowed},
		{"DELETE", http("DELETE", "/"), ReasonAuthorization},
		{"path", http("GET", "/admin/x"), ReasonAuthorization},
		{"path, encoded", http("GET", "/%61dmin"), ReasonAuthorization},
		{"path, doubled slash", http("GET", "/%2f%61dmin"), ReasonAuthorization},
		{"path, dots", http("GET", "/./admin"), ReasonAuthorization},
		{"path, parameter", http("GET", "/;x/admin"), ReasonAuthorization},
		{"sni under the wildcard", tls("a.tls.example.com"), ReasonAllowed},
		{"sni", tls("tls.example.com"), ReasonNoAllow},
		{"sni of nobody", tls("x.example.com"), ReasonName},
		{"source", tcp("10.1.2.3"), ReasonAllowed},
		{"source, mapped", tcp("::ffff:10.1.2.3"), ReasonAllowed},
		{"source v6", tcp("fd00::1"), ReasonAllowed},
		{"other source", tcp("11.1.2.3"), ReasonNoAllow},
		{"other source v6", tcp("fe80::1"), ReasonNoAllow},
		{"unknown source", tcp(""), ReasonNoAllow},
		{"no protocol, http", h, ReasonAllowed},
		{"no protocol, tls is not read", s, ReasonAuthorization},
		{"no protocol, denied path", x, ReasonAuthorization},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
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

// TestAuthorizationOfDestinations: a rule that leads elsewhere leads past no guard.
func TestAuthorizationOfDestinations(t *testing.T) {
	c := guarded(authorize(AuthDeny, "http", on(&AuthOperation{Methods: values("POST")})), authorize(AuthDeny, "tcp", &AuthRule{}))
	c.Services = append(c.Services, se("free", ResolutionDNS, "free.example.com").port(80, ProtocolHTTP).port(5432, ProtocolTCP))
	v := vs("v", mesh, names("free.example.com"), to("", "http.example.com", 80))
	v.TCP = []*TCPRule{{Ref: v.Ref, Route: []*WeightedDestination{{Destination: Destination{Host: "tcp.example.com", Port: 5432}}}}}
	c.VirtualServices = []*VirtualService{v}
	p := mustCompile(t, c).Policy(DefaultPolicy)
	for method, want := range map[string]Reason{"GET": ReasonAllowed, "POST": ReasonAuthorization} {
		r := get("free.example.com", "/")
		r.Method = method
		if d := p.DecideHTTP(Flow{Dst: ap("203.0.113.1:80")}, r); d.Reason != want {
			t.Errorf("%s: %v, want %v", method, d.Reason, want)
		}
	}
	f := Flow{Transport: TCP, Dst: ap("203.0.113.1:5432"), Names: []string{"free.example.com"}}
	if d := p.Candidates(f); d.Reason != ReasonAuthorization || d.Opaque != nil {
		t.Errorf("tcp: %+v", d)
	}
}

// TestAuthorizationOfOwnDestination: a rule that leads to the host itself asks
// nothing a second time, when less is known of the address.
func TestAuthorizationOfOwnDestination(t *testing.T) {
	c := guarded(authorize(AuthAllow, "http", when("destination.ip", "203.0.113.0/24")),
		authorize(AuthDeny, "tls", when("connection.sni", "b.tls.example.com")))
	c.VirtualServices = []*VirtualService{vs("v", mesh, names("http.example.com"), to("", "http.example.com", 80))}
	wild := vs("w", mesh, names("*.tls.example.com"))
	wild.TLS = []*TLSRule{{Ref: wild.Ref, Matches: []*L4Match{{SNIHosts: wild.Hosts}}, Route: []*WeightedDestination{{Destination: Destination{Host: "b.tls.example.com"}}}}}
	c.VirtualServices = append(c.VirtualServices, wild)
	p := mustCompile(t, c).Policy(DefaultPolicy)
	for addr, want := range map[string]Reason{"203.0.113.1": ReasonAllowed, "198.51.100.1": ReasonNoAllow} {
		f := Flow{Transport: TCP, Dst: ap(hostPort(addr, 80)), Names: []string{"http.example.com"}}
		if d := p.DecideHTTP(f, get("http.example.com", "/")); d.Reason != want {
			t.Errorf("%s: %v, want %v", addr, d.Reason, want)
		}
	}
	// Another name of the same wildcard is another destination: what was read
	// of the flow is asked of its guard too.
	for sni, want := range map[string]Reason{"a.tls.example.com": ReasonAllowed, "b.tls.example.com": ReasonAuthorization} {
		if d, _ := p.DecideTLS(flow443, sni); d.Reason != want {
			t.Errorf("%s: %v, want %v", sni, d.Reason, want)
		}
	}
}

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

// TestAuthorizationByWorkload: two workloads, two answers.
func TestAuthorizationByWorkload(t *testing.T) {
	c := guarded(authorize(AuthAllow, "tls", from(&AuthSource{ServiceAccounts: values("a/web")})))
	for _, account := range []string{"web", "batch"} {
		c.Workloads = append(c.Workloads, &Workload{Identity: Identity{Name: account, Namespace: "a", ServiceAccount: account}})
	}
	s := mustCompile(t, c)
	for i, want := range []Verdict{Inspect, Deny} {
		w := s.Workloads()[i]
		if d := s.Policy(w.Policy).Decide(flow443); d.Verdict != want {
			t.Errorf("%s: %v, want %v", w.Name, d.Verdict, want)
		}
	}
}

// TestGatewayGuard: who guards an egress gateway.
func TestGatewayGuard(t *testing.T) {
	selecting := func(namespace string, action AuthAction, labels map[string]string, rules ...*AuthRule) *AuthorizationPolicy {
		a := authorize(action, "", rules...)
		a.Ref.Namespace, a.Selector = namespace, labels
		return a
	}
	eg := map[string]string{"istio": "egressgateway"}
	get := on(&AuthOperation{Hosts: values("http.example.com")})
	for _, c := range []struct {
		name string
		list []*AuthorizationPolicy
		want Reason
	}{
		{"nobody", nil, ""},
		{"another namespace denies", []*AuthorizationPolicy{selecting("x", AuthDeny, eg, &AuthRule{})}, ""},
		{"other labels", []*AuthorizationPolicy{selecting("gw", AuthDeny, map[string]string{"a": "b"}, &AuthRule{})}, ""},
		{"own namespace", []*AuthorizationPolicy{selecting("gw", AuthDeny, eg, &AuthRule{})}, ReasonAuthorization},
		{"all servers of the namespace", []*AuthorizationPolicy{selecting("gw", AuthDeny, nil, &AuthRule{})}, ReasonAuthorization},
		{"root namespace", []*AuthorizationPolicy{selecting("istio-system", AuthDeny, nil, &AuthRule{})}, ReasonAuthorization},
		{"the host is allowed", []*AuthorizationPolicy{selecting("gw", AuthAllow, eg, get)}, ""},
		{"another host is", []*AuthorizationPolicy{selecting("gw", AuthAllow, eg, on(&AuthOperation{Hosts: values("x.example.com")}))}, ReasonNoAllow},
		{"a stranger allows", []*AuthorizationPolicy{selecting("gw", AuthAllow, eg), selecting("x", AuthAllow, eg, &AuthRule{})}, ReasonNoAllow},
	} {
		b := newBuilder(guarded(c.list...), &Snapshot{})
		b.index()
		b.indexAuthorizations()
		g := b.authScope(b.scope(Identity{}, b.questions())).gatewayGuard("gw", map[string]string{"istio": "egressgateway", "app": "gw"})
		p := mustCompile(t, guarded()).Policy(DefaultPolicy)
		_, hp := p.LookupPort("http.example.com", TCP, 80)
		door := &GatewayListener{Port: 80, guard: g}
		r := &Request{Method: "GET", Path: "/", Host: "http.example.com"}
		facts := door.facts(&flow80, hp, "http.example.com", r)
		if got := g.refuses(&facts, false).reason; got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPathMatch(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"/a", []string{"/a"}, []string{"/a/", "/ab"}},
		{"/a*", []string{"/a", "/ab/c"}, []string{"/b"}},
		{"*/z", []string{"/z", "/a/z"}, []string{"/z/a"}},
		{"/a/{*}", []string{"/a/b"}, []string{"/a", "/a/", "/a/b/c"}},
		{"/a/{*}/c", []string{"/a/b/c"}, []string{"/a/c", "/a/b/c/d", "/a/b/b/c"}},
		{"/a/{**}", []string{"/a", "/a/", "/a/b", "/a/b/c"}, []string{"/b/a", "/ab"}},
		{"/{**}/z", []string{"/a/z", "/a/b/z", "/z"}, []string{"/a/z/b", "/az"}},
		{"/{*}/x/{**}", []string{"/a/x/b", "/a/x/b/c"}, []string{"/x/b", "/a/b/x"}},
	} {
		m := pathMatchers(paths(c.pattern))[0]
		for _, p := range c.yes {
			if !m.matches(p) {
				t.Errorf("%s does not match %s", c.pattern, p)
			}
		}
		for _, p := range c.no {
			if m.matches(p) {
				t.Errorf("%s matches %s", c.pattern, p)
			}
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
