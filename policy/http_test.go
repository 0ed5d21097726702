// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"net/url"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/match"
)

// get returns a GET request as the forwarding core hands it in.
func get(host, target string, header ...string) *Request {
	u, err := url.Parse(target)
	if err != nil {
		panic(err)
	}
	r := &Request{
		Method: "GET", Scheme: "http", Authority: host, Host: host, Path: u.EscapedPath(),
		Query: u.Query(), Port: 80,
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func TestHTTPMatch(t *testing.T) {
	sm := func(k MatchKind, v string) map[string]StringMatch {
		return map[string]StringMatch{"x-a": {Kind: k, Value: v}}
	}
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
		{"path prefix, any case", &HTTPMatch{URI: &StringMatch{Kind: MatchPathPrefix, Value: "/Ab"}, IgnoreURICase: true}, []*Request{get("a.b", "/aB/c")}, []*Request{get("a.b", "/abc")}},
		{"regex is of the whole path", uri(MatchRegex, "/v[0-9]"), []*Request{get("a.b", "/v1"), get("a.b", "/v1?x=/v22")}, []*Request{get("a.b", "/v12"), get("a.b", "/x/v1"), get("a.b", "/v1%0A")}},
		{"alternatives stay within the whole", uri(MatchRegex, "/a|/b"), []*Request{get("a.b", "/a"), get("a.b", "/b")}, []*Request{get("a.b", "/ax"), get("a.b", "/x/b")}},
		{"empty uri is any", uri(MatchPresent, ""), []*Request{get("a.b", "/x")}, nil},
		{"exact, any case", &HTTPMatch{URI: &StringMatch{Kind: MatchExact, Value: "/Ab"}, IgnoreURICase: true}, []*Request{get("a.b", "/aB")}, []*Request{get("a.b", "/abc")}},
		{"prefix, any case", &HTTPMatch{URI: &StringMatch{Kind: MatchPrefix, Value: "/Ab"}, IgnoreURICase: true}, []*Request{get("a.b", "/aBc")}, []*Request{get("a.b", "/a"), get("a.b", "/xab")}},
		{"regex keeps its case", &HTTPMatch{URI: &StringMatch{Kind: MatchRegex, Value: "/A"}, IgnoreURICase: true}, []*Request{get("a.b", "/A")}, []*Request{get("a.b", "/a")}},
		{"method", &HTTPMatch{Method: &StringMatch{Kind: MatchExact, Value: "POST"}}, []*Request{post}, []*Request{get("a.b", "/")}},
		{"scheme", &HTTPMatch{Scheme: &StringMatch{Kind: MatchExact, Value: "https"}}, []*Request{https}, []*Request{post}},
		{"authority as sent", &HTTPMatch{Authority: &StringMatch{Kind: MatchExact, Value: "a.b:8080"}}, []*Request{other}, []*Request{post}},
		{"port", &HTTPMatch{Port: 8080}, []*Request{other}, []*Request{post}},
		{"header", &HTTPMatch{Headers: sm(MatchExact, "1")}, []*Request{get("a.b", "/", "X-A", "1")}, []*Request{get("a.b", "/"), get("a.b", "/", "X-A", "2"), get("a.b", "/", "X-A", "1", "X-A", "2")}},
		{"header, several values", &HTTPMatch{Headers: sm(MatchExact, "1,2")}, []*Request{get("a.b", "/", "X-A", "1", "X-A", "2")}, []*Request{get("a.b", "/", "X-A", "1")}},
		{"header is there", &HTTPMatch{Headers: sm(MatchPresent, "")}, []*Request{get("a.b", "/", "X-A", "")}, []*Request{get("a.b", "/")}},
		{"header regex * is presence", &HTTPMatch{Headers: sm(MatchRegex, "*")}, []*Request{get("a.b", "/", "X-A", "")}, []*Request{get("a.b", "/")}},
		{"empty exact needs the header", &HTTPMatch{Headers: sm(MatchExact, "")}, []*Request{get("a.b", "/", "X-A", "")}, []*Request{get("a.b", "/")}},
		{"host header", &HTTPMatch{Headers: map[string]StringMatch{"host": {Kind: MatchExact, Value: "a.b"}}}, []*Request{get("a.b", "/")}, []*Request{other}},
		{"pseudo-header", &HTTPMatch{Headers: map[string]StringMatch{":method": {Kind: MatchExact, Value: "POST"}}}, []*Request{post}, []*Request{other}},
		{"without header", &HTTPMatch{WithoutHeaders: sm(MatchExact, "1")}, []*Request{get("a.b", "/"), get("a.b", "/", "X-A", "2")}, []*Request{get("a.b", "/", "X-A", "1")}},
		{"without any", &HTTPMatch{WithoutHeaders: sm(MatchPresent, "")}, []*Request{get("a.b", "/")}, []*Request{get("a.b", "/", "X-A", "")}},
		{"without: missing is empty", &HTTPMatch{WithoutHeaders: sm(MatchRegex, ".*")}, nil, []*Request{get("a.b", "/"), get("a.b", "/", "X-A", "1")}},
		{"query", &HTTPMatch{QueryParams: sm(MatchExact, "1")}, []*Request{get("a.b", "/?x-a=1"), get("a.b", "/?x-a=1&x-a=2")}, []*Request{get("a.b", "/"), get("a.b", "/?x-a=2&x-a=1"), get("a.b", "/?X-A=1")}},
		{"query is there", &HTTPMatch{QueryParams: sm(MatchPresent, "")}, []*Request{get("a.b", "/?x-a"), get("a.b", "/?x-a=1")}, []*Request{get("a.b", "/?x-b=1")}},
		{"all conditions", &HTTPMatch{URI: &StringMatch{Kind: MatchPrefix, Value: "/"}, Headers: sm(MatchExact, "1"), QueryParams: sm(MatchExact, "1")}, []*Request{get("a.b", "/?x-a=1", "X-A", "1")}, []*Request{get("a.b", "/?x-a=1"), get("a.b", "/", "X-A", "1")}},
	} {
		m, err := match.NewHTTPMatcher(c.m)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, r := range c.yes {
			if !m.Matches(r) {
				t.Errorf("%s: %s %q %v does not match", c.name, r.Method, r.Path, r.Header)
			}
		}
		for _, r := range c.no {
			if m.Matches(r) {
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

// TestRequestOnTCPRule: what a rule for TCP opens goes there whatever it looks
// like, also when it comes to the forwarding core; semantics/requests.txtar has
// what becomes of requests.
func TestRequestOnTCPRule(t *testing.T) {
	p := defaultOf(t, []*Service{with(se("tcp", ResolutionDNS, "tcp.example.org"), svcPort(80, ProtocolTCP))},
		vs("tcp", mesh, names("tcp.example.org"), answer("not on tcp ports")))
	for host, known := range map[string][]string{"tcp.example.org": nil, "evil.example": {"tcp.example.org"}} {
		const want = "default tcp.example.org:80"
		if got := outcome(p.DecideHTTP(Flow{Dst: ap("203.0.113.1:80"), Names: known}, get(host, "/"))); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

func TestPickByWeight(t *testing.T) {
	rule := &HTTPRule{Route: []*WeightedDestination{
		{Destination: Destination{Host: "a.example"}, Weight: 1},
		{Destination: Destination{Host: "b.example"}, Weight: 0},
		{Destination: Destination{Host: "c.example"}, Weight: 3},
	}}
	p := defaultOf(t, []*Service{with(se("s", ResolutionDNS, "a.example"), svcPort(80, ProtocolHTTP))}, vs("v", mesh, names("a.example"), rule))
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
		p := defaultOf(t, []*Service{k, with(se("s", ResolutionStatic, c.host), svcPort(5432, ProtocolTCP))})
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
		with(se("one", ResolutionStatic, "a.b"), svcPort(80, ProtocolHTTP), svcEndpoint("192.0.2.1")),
		with(se("two", ResolutionStatic, "a.b"), svcPort(80, ProtocolHTTP), svcPort(81, ProtocolTCP), svcEndpoint("192.0.2.1"), svcEndpoint("192.0.2.2")),
		with(se("late", ResolutionDNS, "a.b"), svcPort(80, ProtocolTCP)),
	})
	h := p.Lookup("a.b")
	if len(h.Ports) != 2 || h.Ports[0].Rule.Name != "one" || h.Ports[1].Rule.Name != "two" || h.Ports[0].Protocol != ProtocolHTTP {
		t.Fatalf("ports %v", h.Ports)
	}
	if got := upstreamText(h.Ports[0].Upstream); got != "a.b:80 HTTP STATIC 192.0.2.1:80 192.0.2.2:80" {
		t.Errorf("endpoints of both: %s", got)
	}
}

func TestNoListeners(t *testing.T) {
	c := served(gatewayServer("http", 80, ProtocolHTTP, nil, "*"))
	bindTo(c, vs("v", nil, names("*"), answer("all")))
	if ls := mustCompile(t, c).Listeners(); len(ls) != 1 || ls[0].DecideHTTP(get("www.example.com", "/")).Action == nil {
		t.Errorf("%d listeners", len(ls))
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
