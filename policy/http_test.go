// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"net/url"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// get returns a GET request as the forwarding core hands it in.
func get(host, target string, header ...string) *Request {
	u, err := url.Parse(target)
	if err != nil {
		panic(err)
	}
	r := &Request{
		Method: "GET", Scheme: "http", Authority: host, Host: host, Path: u.EscapedPath(),
		Query: u.Query(), Header: map[string][]string{}, Port: 80,
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header[header[i]] = append(r.Header[header[i]], header[i+1])
	}
	return r
}

func TestHTTPMatch(t *testing.T) {
	sm := func(k MatchKind, v string) map[string]StringMatch { return map[string]StringMatch{"x-a": {k, v}} }
	post, https, other := get("a.b", "/"), get("a.b", "/"), get("a.b", "/")
	post.Method, https.Scheme, other.Authority, other.Port = "POST", "https", "a.b:8080", 8080
	for _, c := range []struct {
		name    string
		m       *HTTPMatch
		yes, no []*Request
	}{
		{"nothing", &HTTPMatch{}, []*Request{get("a.b", "/x"), post}, nil},
		{"exact", uri(MatchExact, "/a"), []*Request{get("a.b", "/a"), get("a.b", "/a?q=1")}, []*Request{get("a.b", "/a/"), get("a.b", "/A"), get("a.b", "/ab")}},
		{"prefix is of the raw text", uri(MatchPrefix, "/foo"), []*Request{get("a.b", "/foo"), get("a.b", "/foobar"), get("a.b", "/foo/x")}, []*Request{get("a.b", "/fo"), get("a.b", "/x/foo"), get("a.b", "/%66oo")}},
		{"path prefix is of whole segments", uri(MatchPathPrefix, "/foo"), []*Request{get("a.b", "/foo"), get("a.b", "/foo/"), get("a.b", "/foo/x")}, []*Request{get("a.b", "/foobar"), get("a.b", "/fo"), get("a.b", "/Foo"), get("a.b", "/x/foo")}},
		{"path prefix of all", uri(MatchPathPrefix, "/"), []*Request{get("a.b", "/"), get("a.b", "/x/y"), {Path: "*"}}, nil},
		{"path prefix, any case", &HTTPMatch{URI: &StringMatch{MatchPathPrefix, "/Ab"}, IgnoreURICase: true}, []*Request{get("a.b", "/aB/c")}, []*Request{get("a.b", "/abc")}},
		{"regex is of the whole path", uri(MatchRegex, "/v[0-9]"), []*Request{get("a.b", "/v1"), get("a.b", "/v1?x=/v22")}, []*Request{get("a.b", "/v12"), get("a.b", "/x/v1"), get("a.b", "/v1%0A")}},
		{"alternatives stay within the whole", uri(MatchRegex, "/a|/b"), []*Request{get("a.b", "/a"), get("a.b", "/b")}, []*Request{get("a.b", "/ax"), get("a.b", "/x/b")}},
		{"empty uri is any", uri(MatchPresent, ""), []*Request{get("a.b", "/x")}, nil},
		{"exact, any case", &HTTPMatch{URI: &StringMatch{MatchExact, "/Ab"}, IgnoreURICase: true}, []*Request{get("a.b", "/aB")}, []*Request{get("a.b", "/abc")}},
		{"prefix, any case", &HTTPMatch{URI: &StringMatch{MatchPrefix, "/Ab"}, IgnoreURICase: true}, []*Request{get("a.b", "/aBc")}, []*Request{get("a.b", "/a"), get("a.b", "/xab")}},
		{"regex keeps its case", &HTTPMatch{URI: &StringMatch{MatchRegex, "/A"}, IgnoreURICase: true}, []*Request{get("a.b", "/A")}, []*Request{get("a.b", "/a")}},
		{"method", &HTTPMatch{Method: &StringMatch{MatchExact, "POST"}}, []*Request{post}, []*Request{get("a.b", "/")}},
		{"scheme", &HTTPMatch{Scheme: &StringMatch{MatchExact, "https"}}, []*Request{https}, []*Request{post}},
		{"authority as sent", &HTTPMatch{Authority: &StringMatch{MatchExact, "a.b:8080"}}, []*Request{other}, []*Request{post}},
		{"port", &HTTPMatch{Port: 8080}, []*Request{other}, []*Request{post}},
		{"header", &HTTPMatch{Headers: sm(MatchExact, "1")}, []*Request{get("a.b", "/", "X-A", "1")}, []*Request{get("a.b", "/"), get("a.b", "/", "X-A", "2"), get("a.b", "/", "X-A", "1", "X-A", "2")}},
		{"header, several values", &HTTPMatch{Headers: sm(MatchExact, "1,2")}, []*Request{get("a.b", "/", "X-A", "1", "X-A", "2")}, []*Request{get("a.b", "/", "X-A", "1")}},
		{"header is there", &HTTPMatch{Headers: sm(MatchPresent, "")}, []*Request{get("a.b", "/", "X-A", "")}, []*Request{get("a.b", "/")}},
		{"header regex * is presence", &HTTPMatch{Headers: sm(MatchRegex, "*")}, []*Request{get("a.b", "/", "X-A", "")}, []*Request{get("a.b", "/")}},
		{"empty exact needs the header", &HTTPMatch{Headers: sm(MatchExact, "")}, []*Request{get("a.b", "/", "X-A", "")}, []*Request{get("a.b", "/")}},
		{"host header", &HTTPMatch{Headers: map[string]StringMatch{"host": {MatchExact, "a.b"}}}, []*Request{get("a.b", "/")}, []*Request{other}},
		{"pseudo-header", &HTTPMatch{Headers: map[string]StringMatch{":method": {MatchExact, "POST"}}}, []*Request{post}, []*Request{other}},
		{"without header", &HTTPMatch{WithoutHeaders: sm(MatchExact, "1")}, []*Request{get("a.b", "/"), get("a.b", "/", "X-A", "2")}, []*Request{get("a.b", "/", "X-A", "1")}},
		{"without any", &HTTPMatch{WithoutHeaders: sm(MatchPresent, "")}, []*Request{get("a.b", "/")}, []*Request{get("a.b", "/", "X-A", "")}},
		{"without: missing is empty", &HTTPMatch{WithoutHeaders: sm(MatchRegex, ".*")}, nil, []*Request{get("a.b", "/"), get("a.b", "/", "X-A", "1")}},
		{"query", &HTTPMatch{QueryParams: sm(MatchExact, "1")}, []*Request{get("a.b", "/?x-a=1"), get("a.b", "/?x-a=1&x-a=2")}, []*Request{get("a.b", "/"), get("a.b", "/?x-a=2&x-a=1"), get("a.b", "/?X-A=1")}},
		{"query is there", &HTTPMatch{QueryParams: sm(MatchPresent, "")}, []*Request{get("a.b", "/?x-a"), get("a.b", "/?x-a=1")}, []*Request{get("a.b", "/?x-b=1")}},
		{"all conditions", &HTTPMatch{URI: &StringMatch{MatchPrefix, "/"}, Headers: sm(MatchExact, "1"), QueryParams: sm(MatchExact, "1")}, []*Request{get("a.b", "/?x-a=1", "X-A", "1")}, []*Request{get("a.b", "/?x-a=1"), get("a.b", "/", "X-A", "1")}},
	} {
		m, err := newMatcher(c.m)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, r := range c.yes {
			if !m.matches(r) {
				t.Errorf("%s: %s %q %v does not match", c.name, r.Method, r.Path, r.Header)
			}
		}
		for _, r := range c.no {
			if m.matches(r) {
				t.Errorf("%s: %s %q %v matches", c.name, r.Method, r.Path, r.Header)
			}
		}
	}
}

// outcome is a decision in short: the rule's name (or "default") and where it
// leads first, or the reason of a denial.
func outcome(d HTTPDecision) string {
	switch {
	case d.Verdict == Deny:
		return fmt.Sprintf("deny %s by %q", d.Reason, ruleName(d.Rule))
	case d.Action == nil:
		return fmt.Sprintf("default %s:%d", d.Upstream.Host, d.Upstream.Port)
	}
	s := d.Action.Rule.Name
	if p := d.Action.Pick(0); p != nil {
		switch {
		case p.Upstream == nil:
			s += " unknown"
		default:
			s += fmt.Sprintf(" %s:%d", p.Upstream.Host, p.Upstream.Port)
		}
	}
	return s
}

func TestDecideHTTP(t *testing.T) {
	inside := kube("inside")
	inside.Ports = []Port{{Number: 80, Protocol: ProtocolHTTP}}
	p := defaultOf(t, []*Service{
		se("api", ResolutionDNS, "api.example.com").port(80, ProtocolHTTP).port(443, ProtocolHTTPS).port(8080, ProtocolHTTP),
		se("plain", ResolutionDNS, "plain.example.org").port(80, ProtocolHTTP),
		se("wild", ResolutionDNS, "*.example.com").port(80, ProtocolHTTP),
		se("v2", ResolutionDNS, "v2.example.net").port(8080, ProtocolHTTP),
		se("two", ResolutionDNS, "two.example.net").port(8080, ProtocolHTTP).port(9090, ProtocolHTTP),
		se("vip", ResolutionStatic, "vip.example.org").port(80, ProtocolHTTP).endpoint("192.0.2.1").at("240.1.1.1/32"),
		se("tls", ResolutionStatic, "tls.example.org").port(443, ProtocolTLS).endpoint("192.0.2.2"),
		se("tcp", ResolutionDNS, "tcp.example.org").port(80, ProtocolTCP),
		se("sniff", ResolutionDNS, "any.example.org").port(9000, ProtocolUnset),
		inside,
	},
		vs("api", mesh, names("api.example.com"),
			answer("gateway-only", &HTTPMatch{URI: &StringMatch{MatchPrefix, "/"}, Gateways: []string{"default/gw"}}),
			to("same-port", "api.example.com", 0, uri(MatchExact, "/self")),
			to("only-port", "v2.example.net", 0, uri(MatchExact, "/v2")),
			to("open-port", "two.example.net", 0, uri(MatchExact, "/two")),
			to("their-port", "two.example.net", 9090, uri(MatchExact, "/two9")),
			to("no-port", "two.example.net", 1, uri(MatchExact, "/two1")),
			to("inside", "inside.default.svc.cluster.local", 0, uri(MatchExact, "/in")),
			to("under-wildcard", "y.example.com", 80, uri(MatchExact, "/wild")),
			to("nobody", "nobody.example", 0, uri(MatchExact, "/nobody")),
			answer("either", uri(MatchExact, "/one"), uri(MatchPrefix, "/other")),
			answer("shadowed", uri(MatchExact, "/one"))),
		vs("api-younger", mesh, names("api.example.com"), answer("younger")),
		vs("ingress", []string{"default/gw"}, names("plain.example.org"), answer("ingress")),
		vs("wide", mesh, names("*.example.com"), answer("wide")),
		vs("narrow", mesh, names("*.deep.example.com", "one.example.com"), answer("narrow")),
		vs("tcp", mesh, names("tcp.example.org"), answer("not on tcp ports")),
	)
	for _, c := range []struct {
		name  string
		dst   string
		known []string
		r     *Request
		want  string
	}{
		{"destination port from the request", "203.0.113.1:80", nil, get("api.example.com", "/self"), "same-port api.example.com:80"},
		{"and from another", "203.0.113.1:8080", nil, get("api.example.com", "/self"), "same-port api.example.com:8080"},
		{"the only port", "203.0.113.1:80", nil, get("api.example.com", "/v2"), "only-port v2.example.net:8080"},
		{"a port that the destination lacks", "203.0.113.1:80", nil, get("api.example.com", "/two"), "open-port unknown"},
		{"the named port", "203.0.113.1:80", nil, get("api.example.com", "/two9"), "their-port two.example.net:9090"},
		{"a port that is not there", "203.0.113.1:80", nil, get("api.example.com", "/two1"), "no-port unknown"},
		{"kubernetes is not for workloads", "203.0.113.1:80", nil, get("api.example.com", "/in"), `deny name-not-allowed by "api"`},
		{"unknown host", "203.0.113.1:80", nil, get("api.example.com", "/nobody"), "nobody unknown"},
		{"second match", "203.0.113.1:80", nil, get("api.example.com", "/other/x"), "either"},
		{"first rule wins", "203.0.113.1:80", nil, get("api.example.com", "/one"), "either"},
		{"no rule, oldest only", "203.0.113.1:80", nil, get("api.example.com", "/none"), `deny no-route by "api"`},
		{"wide", "203.0.113.1:80", nil, get("x.example.com", "/"), "wide"},
		{"narrow wildcard", "203.0.113.1:80", nil, get("x.deep.example.com", "/"), "narrow"},
		{"exact under a wildcard", "203.0.113.1:80", nil, get("one.example.com", "/"), "narrow"},
		{"no rules for workloads", "203.0.113.1:80", nil, get("plain.example.org", "/"), "default plain.example.org:80"},
		{"stranger", "203.0.113.1:80", []string{"plain.example.org"}, get("evil.example", "/"), `deny name-not-allowed by "plain"`},
		{"other port", "203.0.113.1:81", nil, get("plain.example.org", "/"), `deny port-not-allowed by "plain"`},
		{"tls port", "203.0.113.1:443", nil, get("api.example.com", "/"), `deny not-tls by "api"`},
		{"no host", "203.0.113.1:80", []string{"plain.example.org"}, get("", "/"), `deny no-name by "plain"`},
		{"vip by address", "240.1.1.1:80", nil, get("240.1.1.1", "/"), "default vip.example.org:80"},
		{"vip by name", "240.1.1.1:80", nil, get("vip.example.org", "/"), "default vip.example.org:80"},
		{"endpoint by address", "192.0.2.1:80", nil, get("192.0.2.1", "/"), "default vip.example.org:80"},
		{"another address", "192.0.2.1:80", nil, get("192.0.2.9", "/"), `deny name-not-allowed by "vip"`},
		{"learned address by address", "203.0.113.1:80", []string{"plain.example.org"}, get("203.0.113.1", "/"), `deny name-not-allowed by ""`},
		{"address on a tls port", "192.0.2.2:443", nil, get("192.0.2.2", "/"), `deny not-tls by "tls"`},
		{"no protocol, own name", "203.0.113.1:9000", []string{"any.example.org"}, get("any.example.org", "/"), "default any.example.org:9000"},
		{"no protocol, stranger", "203.0.113.1:9000", []string{"any.example.org"}, get("evil.example", "/"), `deny name-not-allowed by "sniff"`},
		{"destination under a wildcard", "203.0.113.1:80", nil, get("api.example.com", "/wild"), "under-wildcard y.example.com:80"},
		{"tcp rule, own name", "203.0.113.1:80", nil, get("tcp.example.org", "/"), "default tcp.example.org:80"},
		{"tcp rule, any name", "203.0.113.1:80", []string{"tcp.example.org"}, get("evil.example", "/"), "default tcp.example.org:80"},
	} {
		c.r.Port = ap(c.dst).Port()
		if got := outcome(p.DecideHTTP(Flow{Dst: ap(c.dst), Names: c.known}, c.r)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestWildcardRequestGoesToItsOwnName(t *testing.T) {
	p := defaultOf(t, []*Service{
		se("dns", ResolutionDNS, "*.a.example").port(80, ProtocolHTTP).target(8080),
		se("none", ResolutionNone, "*.b.example").port(80, ProtocolHTTP),
		se("ep", ResolutionDNS, "*.c.example").port(80, ProtocolHTTP).endpoint("proxy.example.net"),
	})
	for host, want := range map[string]string{
		"x.a.example": "x.a.example:80 HTTP DNS target-port 8080 x.a.example:8080",
		"x.b.example": "x.b.example:80 HTTP NONE",
		"x.c.example": "*.c.example:80 HTTP DNS proxy.example.net:80",
	} {
		d := p.DecideHTTP(Flow{Dst: ap("203.0.113.1:80")}, get(host, "/"))
		if d.Upstream == nil || upstreamText(d.Upstream) != want {
			t.Errorf("%s: %+v, want %s", host, d.Upstream, want)
		}
	}
}

func TestPickByWeight(t *testing.T) {
	rule := &HTTPRule{Route: []*WeightedDestination{
		{Destination: Destination{Host: "a.example"}, Weight: 1},
		{Destination: Destination{Host: "b.example"}, Weight: 0},
		{Destination: Destination{Host: "c.example"}, Weight: 3},
	}}
	p := defaultOf(t, []*Service{se("s", ResolutionDNS, "a.example").port(80, ProtocolHTTP)}, vs("v", mesh, names("a.example"), rule))
	a := p.DecideHTTP(Flow{Dst: ap("203.0.113.1:80")}, get("a.example", "/")).Action
	got := map[string]int{}
	for r := range uint64(400) {
		got[a.Pick(r).Destination.Host]++
	}
	if len(got) != 2 || got["a.example"] != 100 || got["c.example"] != 300 {
		t.Errorf("picked %v", got)
	}
	if a.Pick(1<<64-1) == nil {
		t.Error("nothing picked for the largest number")
	}
	if (&HTTPAction{}).Pick(0) != nil {
		t.Error("a destination without a route")
	}
}

func TestBorrowedEndpoints(t *testing.T) {
	k := kube("db")
	k.Ports = []Port{{Number: 5432, Name: "pg", Protocol: ProtocolTCP, TargetPort: 15432}, {Number: 5433, Protocol: ProtocolTCP}}
	k.Endpoints = []Endpoint{{Addr: netip.MustParseAddr("10.0.0.1"), Ports: map[string]uint16{"pg": 25432}}, {Addr: netip.MustParseAddr("2001:db8::1")}}
	for _, c := range []struct {
		host hostname.Pattern
		want string
	}{
		{"db", "10.0.0.1:25432 [2001:db8::1]:15432"},
		{"db.default", "10.0.0.1:25432 [2001:db8::1]:15432"},
		{"db.default.svc.cluster.local", "10.0.0.1:25432 [2001:db8::1]:15432"},
		{"db.other.svc.cluster.local", ""},
		{"db.example.com", ""},
		{"other", ""},
	} {
		p := defaultOf(t, []*Service{k, se("s", ResolutionStatic, c.host).port(5432, ProtocolTCP)})
		h := p.Lookup(string(c.host))
		got := ""
		for i, e := range h.Ports[0].Upstream.Endpoints {
			if i > 0 {
				got += " "
			}
			got += e.Addr.String()
		}
		if got != c.want {
			t.Errorf("%s: endpoints %q, want %q", c.host, got, c.want)
		}
		if u := h.Ports[0].Upstream; !h.Own || u.Resolution != ResolutionStatic || len(u.Names) != 0 {
			t.Errorf("%s: a STATIC host must be answered and dialled by its endpoints alone: %+v", c.host, u)
		}
	}
}

func TestSharedHosts(t *testing.T) {
	p := defaultOf(t, []*Service{
		se("one", ResolutionStatic, "a.b").port(80, ProtocolHTTP).endpoint("192.0.2.1"),
		se("two", ResolutionStatic, "a.b").port(80, ProtocolHTTP).port(81, ProtocolTCP).endpoint("192.0.2.1").endpoint("192.0.2.2"),
		se("late", ResolutionDNS, "a.b").port(80, ProtocolTCP),
	})
	h := p.Lookup("a.b")
	if len(h.Ports) != 2 || h.Ports[0].Rule.Name != "one" || h.Ports[1].Rule.Name != "two" || h.Ports[0].Protocol != ProtocolHTTP {
		t.Fatalf("ports %v", h.Ports)
	}
	if got := upstreamText(h.Ports[0].Upstream); got != "a.b:80 HTTP STATIC 192.0.2.1:80 192.0.2.2:80" {
		t.Errorf("endpoints of both: %s", got)
	}
}

func TestGatewayListeners(t *testing.T) {
	server := func(port uint16, redirect bool, hosts ...string) GatewayServer {
		s := GatewayServer{Port: port, Protocol: ProtocolHTTP, HTTPSRedirect: redirect}
		for i := 0; i < len(hosts); i += 2 {
			s.HostNamespaces = append(s.HostNamespaces, hosts[i])
			s.Hosts = append(s.Hosts, hostname.Pattern(hosts[i+1]))
		}
		return s
	}
	gateway := func(name string, selector map[string]string, servers ...GatewayServer) *Gateway {
		return &Gateway{Ref: Ref{Kind: "Gateway", Namespace: "default", Name: name}, Selector: selector, Servers: servers}
	}
	web := kube("web")
	web.Ports = []Port{{Number: 80, Protocol: ProtocolHTTP}, {Number: 8080, Protocol: ProtocolHTTP}}
	c := &Config{
		Services: []*Service{web},
		Gateways: []*Gateway{
			gateway("a", map[string]string{"app": "gw"}, server(8080, false, "*", "*.example.com", "default", "special.example.com")),
			gateway("b", nil, server(8080, false, "other", "*"), server(9090, true, "*", "secure.example.com")),
			gateway("far", map[string]string{"app": "another"}, server(7070, false, "*", "*")),
		},
		VirtualServices: []*VirtualService{
			vs("all", []string{"default/a"}, names("www.example.com", "*.wide.example.com"), answer("exact", uri(MatchExact, "/a")), answer("rest")),
			vs("more", []string{"default/a"}, names("www.example.com"), answer("a-again", uri(MatchExact, "/a")), answer("b", uri(MatchExact, "/b")), answer("rest-again")),
			vs("wide", []string{"default/a"}, names("*"), to("to-web", "web.default.svc.cluster.local", 0)),
			vs("foreign", []string{"default/b"}, names("b.example.net"), answer("foreign")),
			vs("secure", []string{"default/b"}, names("secure.example.com"), answer("never")),
		},
		GatewaySelector: map[string]string{"app": "gw", "zone": "1"},
	}
	c.VirtualServices = append(c.VirtualServices, func() *VirtualService {
		v := vs("tenant", []string{"default/b"}, names("t.example.net"), answer("tenant"))
		v.Ref.Namespace = "other"
		return v
	}())
	ls := mustCompile(t, c).Listeners()
	if len(ls) != 2 || ls[0].Port != 8080 || ls[1].Port != 9090 || len(ls[0].Servers) != 2 {
		t.Fatalf("listeners %+v", ls)
	}
	for _, tc := range []struct {
		l    int
		r    *Request
		want string
	}{
		{0, get("www.example.com", "/a"), "exact"},
		{0, get("www.example.com", "/b"), "b"}, // before the catch-all of an older VirtualService
		{0, get("www.example.com", "/c"), "rest"},
		{0, get("x.wide.example.com", "/a"), "exact"},
		{0, get("x.example.com", "/"), "to-web web.default.svc.cluster.local:8080"},
		{0, get("special.example.com", "/"), "to-web web.default.svc.cluster.local:8080"},
		{0, get("t.example.net", "/"), "tenant"},
		{0, get("b.example.net", "/"), `deny no-route by ""`}, // its namespace may not bind
		{0, get("nobody.example", "/"), `deny no-route by ""`},
		{0, get("", "/"), `deny no-name by ""`},
		{1, get("secure.example.com", "/"), "https-redirect"},
		{1, get("other.example.com", "/"), `deny no-route by ""`},
	} {
		if got := outcome(ls[tc.l].DecideHTTP(tc.r)); got != tc.want {
			t.Errorf("listener %d, %s%s: %s, want %s", ls[tc.l].Port, tc.r.Host, tc.r.Path, got, tc.want)
		}
	}
	c.GatewaySelector = nil
	if ls := mustCompile(t, c).Listeners(); len(ls) != 0 {
		t.Errorf("a node without gateway labels has listeners: %v", ls)
	}
}

func TestUnknownPolicyIsNil(t *testing.T) {
	s := mustCompile(t, nil)
	if s.Policy(DefaultPolicy) == nil || s.Policy(0) != nil || s.Policy(7) != nil {
		t.Error("only the default policy exists")
	}
	if ids := s.Policies(); len(ids) != 1 || ids[0] != DefaultPolicy {
		t.Errorf("policies %v", ids)
	}
	d := s.Policy(DefaultPolicy).Decide(Flow{Transport: TCP, Dst: ap("203.0.113.1:80")})
	if d.Verdict != Deny || d.Reason != ReasonNoRule {
		t.Errorf("an empty policy decides %+v", d)
	}
}

// FuzzDecideHTTP holds the rules to what must be true of every request: no
// panic, and nothing allowed for a host that no service has.
func FuzzDecideHTTP(f *testing.F) {
	p := defaultOf(f, richConfig().Services, richConfig().VirtualServices...)
	f.Add("GET", "api.example.com", "/v1", uint16(80))
	f.Add("", "[::1]", "", uint16(0))
	f.Add("GET", "240.1.1.2", "/", uint16(9000))
	f.Fuzz(func(t *testing.T, method, host, path string, port uint16) {
		r := &Request{Method: method, Scheme: "http", Authority: host, Host: host, Path: path, Port: port}
		d := p.DecideHTTP(Flow{Dst: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), port)}, r)
		if d.Verdict == Deny {
			if d.Action != nil || d.Upstream != nil || d.Reason == ReasonAllowed {
				t.Fatalf("a denial with an action: %+v", d)
			}
			return
		}
		if p.Lookup(host) == nil {
			t.Fatalf("host %q is allowed by nobody", host)
		}
	})
}
