// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// TestPrecedence: for random VirtualServices and requests, the rule that
// decides is the one that a reader of Istio's documentation would find: of the
// VirtualServices that have a rule for the port, and of these with the most
// specific host that matches, the oldest, and in it the first rule of which one match has all its conditions hold.
func TestPrecedence(t *testing.T) {
	hosts := []hostname.Pattern{"a.example.com", "b.example.com", "*.example.com", "*-x.example.com", "*.com", "c-x.example.com"}
	names := []string{"a.example.com", "b.example.com", "c-x.example.com", "d.example.com", "q.com"}
	r := rand.New(rand.NewPCG(3, 4))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	decided := map[string]int{}
	for range 400 {
		c := &Config{}
		for i, h := range []hostname.Pattern{"*.example.com", "*.com"} {
			c.Services = append(c.Services, with(se(fmt.Sprint("s", i), ResolutionNone, h), svcPort(80, ProtocolHTTP), svcPort(8080, ProtocolHTTP)))
		}
		for i := range 1 + r.IntN(6) {
			v := vs(fmt.Sprint("v", i), mesh, nil)
			v.Hosts = append(v.Hosts, hosts[r.IntN(len(hosts))])
			for j := range 1 + r.IntN(4) {
				rule := answer(fmt.Sprint("v", i, "r", j))
				for range r.IntN(3) {
					m := &HTTPMatch{Port: []uint16{0, 0, 80, 8080}[r.IntN(4)]}
					switch r.IntN(4) {
					case 0:
						m.URI = &StringMatch{Kind: MatchPrefix, Value: pick("/", "/a", "/a/b")}
					case 1:
						m.URI = &StringMatch{Kind: MatchExact, Value: pick("/", "/a", "/a/b")}
					case 2:
						m.Method = &StringMatch{Kind: MatchExact, Value: pick("GET", "POST")}
					}
					rule.Matches = append(rule.Matches, m)
				}
				v.HTTP = append(v.HTTP, rule)
			}
			c.VirtualServices = append(c.VirtualServices, v)
		}
		p := mustCompile(t, c).Policy(DefaultPolicy)
		for range 30 {
			port := []uint16{80, 8080}[r.IntN(2)]
			req := &Request{Host: names[r.IntN(len(names))], Method: pick("GET", "POST"), Path: pick("/", "/a", "/a/b", "/z"), Scheme: "http", Port: port}
			req.Authority = req.Host
			want := found(c.VirtualServices, req)
			d := p.DecideHTTP(Flow{Dst: ap(fmt.Sprintf("203.0.113.1:%d", port)), Names: []string{req.Host}}, req)
			got := string(d.Reason)
			if d.Action != nil {
				got = d.Action.Rule.Name
			}
			if got != want {
				t.Fatalf("%s %s%s port %d: %s, want %s in\n%s", req.Method, req.Host, req.Path, port, got, want, mustCompile(t, c).Text())
			}
			decided[want]++
		}
	}
	if decided[string(ReasonNoRoute)] == 0 || decided[string(ReasonAllowed)] == 0 || len(decided) < 10 {
		t.Errorf("the requests do not show enough: %v", decided)
	}
}

// found is the name of the rule that decides, ReasonNoRoute when there are
// rules and none matches, ReasonAllowed when there are none for the host.
func found(all []*VirtualService, r *Request) string {
	var best *VirtualService
	var as hostname.Pattern
	for _, v := range all {
		if !slices.ContainsFunc(v.HTTP, func(rule *HTTPRule) bool {
			return len(rule.Matches) == 0 || slices.ContainsFunc(rule.Matches, func(m *HTTPMatch) bool { return m.Port == 0 || m.Port == r.Port })
		}) {
			continue
		}
		for _, h := range v.Hosts {
			if h.Matches(r.Host) && (best == nil || hostname.Compare(h, as) < 0) {
				best, as = v, h
			}
		}
	}
	if best == nil {
		return string(ReasonAllowed)
	}
	for _, rule := range best.HTTP {
		if len(rule.Matches) == 0 || slices.ContainsFunc(rule.Matches, func(m *HTTPMatch) bool { return holds(m, r) }) {
			return rule.Name
		}
	}
	return string(ReasonNoRoute)
}

func holds(m *HTTPMatch, r *Request) bool {
	if m.Port != 0 && m.Port != r.Port || m.Method != nil && m.Method.Value != r.Method {
		return false
	}
	switch {
	case m.URI == nil:
		return true
	case m.URI.Kind == MatchPrefix:
		return strings.HasPrefix(r.Path, m.URI.Value)
	}
	return r.Path == m.URI.Value
}
