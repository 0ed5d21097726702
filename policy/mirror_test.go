// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/field"
)

// asMirror is a mirror of all requests to port 80 of a host.
func asMirror(host string) Mirror {
	return Mirror{Destination: Destination{Host: host, Port: 80}, Percent: 100}
}

// mirroredTo lists where copies of a request to host may go, and what becomes of
// them.
func mirroredTo(t *testing.T, s *Snapshot, host string) (out []string) {
	t.Helper()
	r := &Request{Method: "GET", Scheme: "http", Authority: host, Host: host, Path: "/", Port: 80}
	d := s.Policy(DefaultPolicy).DecideHTTP(Flow{Dst: netip.MustParseAddrPort("192.0.2.1:80"), Names: []string{host}}, r)
	if d.Verdict == Deny {
		t.Fatalf("denied: %+v", d.Decision)
	}
	for i := range d.Mirrors {
		m := &d.Mirrors[i]
		copied := d.Copied(m, d.To, r)
		up := "nobody"
		if m.To.Upstream != nil {
			up = m.To.Upstream.Host
		}
		out = append(out, fmt.Sprint(m.To.Destination.Host, " ", up, " ", m.Refused, " ", copied.Header.Values("X-First"), copied.Header.Values("X-Second")))
	}
	return out
}

// TestMirrorsOnTheWay: each rule on the way copies what it sends on, and a mirror is
// decided as a destination is.
func TestMirrorsOnTheWay(t *testing.T) {
	c := twoHopHTTP()
	rules := c.VirtualServices[0].HTTP
	rules[0].Mirrors = []Mirror{asMirror("m.example.com"), asMirror(egressHost), asMirror("inside.default.svc.cluster.local")}
	rules[0].Headers = &Headers{Request: HeaderOps{Set: []Header{{Name: "X-First", Value: "1"}}}}
	rules[1].Mirrors = []Mirror{asMirror("n.example.com"), {Destination: Destination{Host: "m.example.com"}, Percent: 0}}
	rules[1].Headers = &Headers{Request: HeaderOps{Set: []Header{{Name: "X-Second", Value: "2"}}}}
	inside := kube("inside")
	inside.Ports = []Port{{Number: 80, Protocol: ProtocolHTTP}}
	c.Services = append(c.Services, inside, with(se("m", ResolutionDNS, "m.example.com"), svcPort(80, ProtocolHTTP)))
	s := mustCompile(t, c)
	want := []string{
		"m.example.com m.example.com  [1] []",
		"edition.cnn.com edition.cnn.com  [1] [2]",
		"inside.default.svc.cluster.local inside.default.svc.cluster.local name-not-allowed [1] []",
		"n.example.com nobody  [1] [2]",
	}
	if got := mirroredTo(t, s, "edition.cnn.com"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("mirrors\n%q, want\n%q", got, want)
	}
	// What is declared later is where copies go then, as if it had always been.
	later := *c
	later.Services = append(c.Services[:len(c.Services):len(c.Services)], with(se("n", ResolutionDNS, "n.example.com"), svcPort(80, ProtocolHTTP)))
	updated, err := s.Update(&later)
	if err != nil {
		t.Fatal(err)
	}
	want[3] = "n.example.com n.example.com  [1] [2]"
	if got := mirroredTo(t, updated, "edition.cnn.com"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("mirrors after an update\n%q, want\n%q", got, want)
	}
	if updated.Text() != mustCompile(t, &later).Text() {
		t.Error("an update differs from a compilation")
	}
}

// TestMirrorsOfGateways: rules of a gateway copy what visitors send, wherever their
// rule says.
func TestMirrorsOfGateways(t *testing.T) {
	c := richConfig()
	s := mustCompile(t, c)
	n := 0
	for _, l := range s.Listeners() {
		d := l.DecideHTTP(&Request{
			Method: "GET", Scheme: "http", Authority: "api.example.com", Host: "api.example.com", Path: "/v1/x", Port: 80,
			Header: field.List{{Name: "X-A", Value: "1"}, {Name: "X-B", Value: "2"}}, Query: map[string][]string{"q": {"a"}},
		})
		for i := range d.Mirrors {
			if m := &d.Mirrors[i]; m.To.Upstream == nil || m.Percent != [...]float64{5, 100}[i] {
				t.Errorf("%+v", m)
			}
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d mirrors, want 2", n)
	}
}

// TestMirrorIsGateway: copies for an egress gateway go on as requests do that rules lead
// there, and go nowhere that such a request would not go.
func TestMirrorIsGateway(t *testing.T) {
	answers := func(change func(*HTTPRule)) func(*Config) {
		return func(c *Config) {
			r := c.VirtualServices[0].HTTP[1]
			r.Route = nil
			change(r)
		}
	}
	leads := func(host string) func(*Config) {
		return func(c *Config) { c.VirtualServices[0].HTTP[1].Route[0].Destination.Host = host }
	}
	guard := func(target AuthTarget, namespace string) func(*Config) {
		return func(c *Config) {
			c.Authorizations = append(c.Authorizations, &AuthorizationPolicy{
				Ref: Ref{Kind: "AuthorizationPolicy", Namespace: namespace, Name: "no"}, Action: AuthDeny, Targets: []AuthTarget{target}, Rules: []*AuthRule{{}},
			})
		}
	}
	circle := func(c *Config) { // of two ports
		g, v := c.Gateways[0], c.VirtualServices[0]
		g.Servers = append(g.Servers, g.Servers[0])
		g.Servers[1].Port, g.Servers[1].Name = 443, "other"
		v.HTTP[1] = to("", egressHost, 443, atGateway("default/egress", 80))
		v.HTTP = append(v.HTTP, to("", egressHost, 80, atGateway("default/egress", 443)))
		v.HTTP[1].Ref, v.HTTP[2].Ref = v.Ref, v.Ref
	}
	for _, tt := range []struct {
		name     string
		change   func(*Config)
		to       string // "": nobody
		refused  Reason
		rule     string // what refuses it
		answered bool
	}{
		{"sent", func(*Config) {}, "copies.example.com", "", "via", false},
		{"guarded", guard(AuthTarget{Kind: "ServiceEntry", Name: "copies"}, "default"), "", ReasonAuthorization, "no", false},
		{"another gateway's guard", guard(AuthTarget{Kind: "Gateway", Name: "other"}, "istio-system"), "copies.example.com", "", "via", false},
		{"no server", func(c *Config) { c.Gateways[0].Servers[0].Hosts = names("other.example.com") }, "", ReasonNoRoute, "via", false},
		{"no rule", func(c *Config) {
			c.VirtualServices[0].HTTP[1].Matches[0].Method = &StringMatch{Kind: MatchExact, Value: "PUT"}
		}, "", ReasonNoRoute, "via", false},
		{"redirect", answers(func(r *HTTPRule) { r.Redirect = &Redirect{URI: "/x"} }), "", "", "via", true},
		{"response", answers(func(r *HTTPRule) { r.DirectResponse = &DirectResponse{Status: 200} }), "", "", "via", true},
		{"nobody", leads("nobody.example.com"), "", "", "via", false},
		{"not the workload's", leads("inside.default.svc.cluster.local"), "", ReasonName, "via", false},
		{"circle", circle, "", ReasonGatewayLoop, "via", false},
		// Copies are not copied: there would be no end of it.
		{"copied there", func(c *Config) {
			c.VirtualServices[0].HTTP[1].Mirrors = []Mirror{asMirror(egressHost), asMirror("copies.example.com")}
		}, "copies.example.com", "", "via", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := twoHopHTTP()
			inside := kube("inside")
			inside.Ports = []Port{{Number: 80, Protocol: ProtocolHTTP}}
			c.Services = append(c.Services, inside, with(se("copies", ResolutionDNS, "copies.example.com"), svcPort(80, ProtocolHTTP)))
			rules := c.VirtualServices[0].HTTP
			rules[0].Route[0].Destination = Destination{Host: "edition.cnn.com", Port: 80}
			rules[0].Mirrors = []Mirror{asMirror(egressHost)}
			rules[0].Timeout, rules[1].Timeout = 3e9, 2e9
			rules[1].Route[0].Destination.Host = "copies.example.com"
			tt.change(c)
			r := get("edition.cnn.com", "/")
			p := mustCompile(t, c).Policy(DefaultPolicy)
			f := Flow{Dst: netip.MustParseAddrPort("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
			d := p.DecideHTTP(f, r)
			// Whatever becomes of copies, the request goes where its rule leads.
			if d.Verdict == Deny || d.To.Upstream.Host != "edition.cnn.com" || len(d.Hops()) != 0 || len(d.Mirrors) != 1 {
				t.Fatalf("%+v", d)
			}
			m := &d.Mirrors[0]
			host := ""
			if m.Refused == "" && m.To.Upstream != nil {
				host = m.To.Upstream.Host
			}
			if host != tt.to || m.Refused != tt.refused || m.Rule.Name != tt.rule || m.Answered != tt.answered {
				t.Errorf("to %q, refused %q by %v, answered %t; want %+v", host, m.Refused, m.Rule, m.Answered, tt)
			}
			if tt.to != "" && (m.Gateway() != "default/egress" || m.Way.Timeout() != 2e9 || len(m.Beyond()) != 1) {
				t.Errorf("gateway %q, timeout %v, rules %v", m.Gateway(), m.Way.Timeout(), m.Beyond())
			}
			if again := p.DecideHTTP(f, r); !m.Leads(&again.Mirrors[0]) {
				t.Error("an equal decision leads elsewhere")
			}
			route, _, _ := p.Routes(f, r)
			told := route.Does[len(route.Does)-1]
			want := "no copy goes to " + egressHost
			if tt.to != "" {
				want = "copies to " + egressHost + " port 80 go on through gateway default/egress to copies.example.com port 80"
			}
			if !strings.HasPrefix(told, want) || !strings.Contains(told, string(tt.refused)) {
				t.Errorf("told %q, want %q", told, want)
			}
		})
	}
}
