// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
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
		egressHost + " nobody not-supported [1] []",
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
