// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// TestGatewaySelectors: on a gateway a VirtualService of which no rule is for
// it and the port does not apply, and the next one does; labels and namespace
// are those of the gateway, and are not asked for where a match names it.
func TestGatewaySelectors(t *testing.T) {
	const host, wild = hostname.Pattern("x.example.com"), hostname.Pattern("*.example.com")
	const gw = "default/gw"
	here, there := map[string]string{"istio": "ingressgateway"}, map[string]string{"app": "shop"}
	alone := func(m ...*HTTPMatch) []*VirtualService {
		return []*VirtualService{vs("v", nil, names(host), answer("v", m...))}
	}
	// behind is what a wildcard's rules say.
	behind := func(m ...*HTTPMatch) []*VirtualService {
		return append(alone(m...), vs("w", nil, names(wild), answer("wild")))
	}
	for _, tt := range []struct {
		name  string
		rules []*VirtualService
		want  string
	}{
		{"for all", behind(), "v"},
		{"for this gateway", behind(&HTTPMatch{Gateways: []string{gw}}), "v"},
		{"for another gateway: the wildcard", behind(&HTTPMatch{Gateways: []string{"default/other"}}), "wild"},
		{"for workloads: the wildcard", behind(&HTTPMatch{Gateways: []string{"mesh"}}), "wild"},
		{"for this port", behind(&HTTPMatch{Port: 80}), "v"},
		{"for another port: the wildcard", behind(&HTTPMatch{Port: 8080}), "wild"},
		{"for the gateway's labels", behind(&HTTPMatch{SourceLabels: here}), "v"},
		{"for other labels: the wildcard", behind(&HTTPMatch{SourceLabels: there}), "wild"},
		{"labels are not asked for where the gateway is named", behind(&HTTPMatch{SourceLabels: there, Gateways: []string{gw}}), "v"},
		{"for the gateway's namespace", behind(&HTTPMatch{SourceNamespace: "default"}), "v"},
		{"for another namespace: the wildcard", behind(&HTTPMatch{SourceNamespace: "shop"}), "wild"},
		{"one match of several is for it", behind(&HTTPMatch{Port: 8080}, &HTTPMatch{Port: 80}), "v"},
		{"a rule that does not match is one", behind(uri(MatchExact, "/x")), string(ReasonNoRoute)},
		{"for other labels: the next of the host", append(alone(&HTTPMatch{SourceLabels: there}), vs("w", nil, names(host), answer("next"))), "next"},
		{"for other labels: nothing", alone(&HTTPMatch{SourceLabels: there}), string(ReasonNoRoute)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := served(gatewayServer("http", 80, ProtocolHTTP, nil, "*.example.com"))
			for _, v := range tt.rules {
				bindTo(c, v)
			}
			s := mustCompile(t, c)
			r := get(string(host), "/")
			r.Port = 80
			d := s.Listeners()[0].DecideHTTP(r)
			got := string(d.Reason)
			if d.Action != nil {
				got = d.Action.Rule.Name
			}
			if got != tt.want {
				t.Errorf("%s, want %s in\n%s", got, tt.want, s.Text())
			}
		})
	}
}

// TestGatewayRules: for random VirtualServices and requests, the rule of a
// gateway that decides is the one that a reader of Istio's code would find: of
// the VirtualServices that have a rule for the gateway and the port, those with
// the most specific host that matches, and of their rules, one after the other
// and those that match everything last, the first that matches.
func TestGatewayRules(t *testing.T) {
	hosts := []hostname.Pattern{"a.example.com", "b.example.com", "*.example.com", "*-x.example.com", "c-x.example.com"}
	asked := []string{"a.example.com", "b.example.com", "c-x.example.com", "d.example.com"}
	r := rand.New(rand.NewPCG(5, 6))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	decided := map[string]int{}
	for range 400 {
		c := served(gatewayServer("http", 80, ProtocolHTTP, nil, "*"))
		for i := range 1 + r.IntN(6) {
			v := vs(fmt.Sprint("v", i), nil, []hostname.Pattern{hosts[r.IntN(len(hosts))]})
			for j := range 1 + r.IntN(3) {
				rule := answer(fmt.Sprint("v", i, "r", j))
				for range r.IntN(3) {
					m := &HTTPMatch{Port: []uint16{0, 80, 8080}[r.IntN(3)]}
					switch r.IntN(5) {
					case 0:
						m.URI = &StringMatch{Kind: MatchPrefix, Value: pick("/", "/a")}
					case 1:
						m.URI = &StringMatch{Kind: MatchExact, Value: pick("/", "/a", "/a/b")}
					case 2:
						m.Gateways = []string{pick("default/gw", "mesh")}
					case 3:
						m.SourceLabels = map[string]string{"istio": pick("ingressgateway", "other")}
					}
					rule.Matches = append(rule.Matches, m)
				}
				v.HTTP = append(v.HTTP, rule)
			}
			bindTo(c, v)
		}
		l := mustCompile(t, c).Listeners()[0]
		for range 20 {
			req := &Request{Host: asked[r.IntN(len(asked))], Method: "GET", Path: pick("/", "/a", "/a/b", "/z"), Scheme: "http", Port: 80}
			req.Authority = req.Host
			want := foundAtGateway(c.VirtualServices, req)
			d := l.DecideHTTP(req)
			got := string(d.Reason)
			if d.Action != nil {
				got = d.Action.Rule.Name
			}
			if got != want {
				t.Fatalf("%s%s: %s, want %s in\n%s", req.Host, req.Path, got, want, mustCompile(t, c).Text())
			}
			decided[want]++
		}
	}
	if decided[string(ReasonNoRoute)] == 0 || len(decided) < 10 {
		t.Errorf("the requests do not show enough: %v", decided)
	}
}

// foundAtGateway is the name of the rule that decides at default/gw, port 80.
func foundAtGateway(all []*VirtualService, r *Request) string {
	here := func(m *HTTPMatch) bool {
		switch {
		case m.Port != 0 && m.Port != 80:
			return false
		case len(m.Gateways) > 0:
			return m.Gateways[0] == "default/gw"
		}
		return m.SourceLabels == nil || m.SourceLabels["istio"] == "ingressgateway"
	}
	type one struct {
		name string
		m    *HTTPMatch // nil: everything
	}
	rules := map[hostname.Pattern][]one{}
	for _, v := range all {
		var list []one
	rules:
		for _, rule := range v.HTTP {
			if len(rule.Matches) == 0 {
				list = append(list, one{rule.Name, nil})
				break
			}
			for _, m := range rule.Matches {
				if !here(m) {
					continue
				}
				if m.URI == nil || m.URI.Kind == MatchPrefix && m.URI.Value == "/" {
					list = append(list, one{rule.Name, nil})
					break rules
				}
				list = append(list, one{rule.Name, &HTTPMatch{URI: m.URI}})
			}
		}
		if len(list) > 0 {
			rules[v.Hosts[0]] = append(rules[v.Hosts[0]], list...)
		}
	}
	var best hostname.Pattern
	for h := range rules {
		if h.Matches(r.Host) && (best == "" || hostname.Compare(h, best) < 0) {
			best = h
		}
	}
	last := string(ReasonNoRoute)
	for _, o := range rules[best] {
		switch {
		case o.m != nil && holds(o.m, r):
			return o.name
		case o.m == nil && last == string(ReasonNoRoute):
			last = o.name
		}
	}
	return last
}
