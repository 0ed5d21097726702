// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// sidecar is one of namespace shop with listeners.
func sidecar(egress ...SidecarEgress) []*Sidecar {
	return []*Sidecar{{Ref: Ref{Kind: "Sidecar", Namespace: "shop", Name: "s"}, Egress: egress}}
}

func listener(port uint16, hosts ...SidecarHost) SidecarEgress {
	return SidecarEgress{Port: port, Hosts: hosts}
}

// goal is where a request of a workload is led: "host:port namespace" of the
// upstream, "denied", "unknown", or the reason of a denial.
func goal(p *Policy, host string, port uint16) string {
	r := get(host, "/")
	r.Port = port
	d := p.DecideHTTP(Flow{Transport: TCP, Dst: ap(fmt.Sprintf("203.0.113.1:%d", port)), Names: []string{host}}, r)
	u := d.Upstream
	if d.Action != nil {
		to := d.Action.Pick(0)
		switch {
		case to == nil:
			return d.Action.Rule.Name
		case to.Denied:
			return "denied"
		case to.Upstream == nil:
			return "unknown"
		}
		u = to.Upstream
	}
	if d.Verdict == Deny {
		return string(d.Reason)
	}
	return fmt.Sprintf("%s:%d %s", u.Host, u.Port, u.Rule.Namespace)
}

// TestSidecarDestinations: where the rules that a Sidecar imports lead to is
// imported, too, for them alone: the destination itself is no more open than
// without them.
func TestSidecarDestinations(t *testing.T) {
	const a, b = hostname.Pattern("a.example.com"), hostname.Pattern("b.example.net")
	shown, all := SidecarHost{Namespace: "shop", Host: "a.example.com"}, SidecarHost{Namespace: "*", Host: "*"}
	behind := func(ns string) *Service {
		return with(se("b", ResolutionDNS, b), svcPort(80, ProtocolHTTP), svcPort(8080, ProtocolHTTP), svcNamespace(ns))
	}
	hidden := behind("other")
	hidden.Export = Visibility{Limited: true, Namespaces: []string{"other"}}
	old := behind("zoo")
	old.Created = 1
	never := &AuthorizationPolicy{Ref: Ref{Kind: "AuthorizationPolicy", Namespace: "other", Name: "never"}, Action: AuthDeny,
		Targets: []AuthTarget{{Kind: "ServiceEntry", Name: "b"}}, Rules: []*AuthRule{{}}}
	rules := func(port uint16) *VirtualService {
		return with(vs("v", mesh, names(a), to("v", string(b), port)), vsNamespace("shop"))
	}
	for _, tt := range []struct {
		name     string
		services []*Service
		egress   []SidecarEgress
		rules    *VirtualService
		auth     *AuthorizationPolicy
		port     uint16 // that is asked for
		want     string
	}{
		{"no limit", []*Service{behind("other")}, []SidecarEgress{listener(0, all)}, rules(8080), nil, 80, "b.example.net:8080 other"},
		{"not named", []*Service{behind("other")}, []SidecarEgress{listener(0, shown)}, rules(8080), nil, 80, "b.example.net:8080 other"},
		{"the port of the request", []*Service{behind("other")}, []SidecarEgress{listener(0, shown)}, rules(0), nil, 80, "b.example.net:80 other"},
		{"nobody declares it", nil, []SidecarEgress{listener(0, shown)}, rules(8080), nil, 80, "unknown"},
		{"no such port", []*Service{behind("other")}, []SidecarEgress{listener(0, shown)}, rules(81), nil, 80, "unknown"},
		{"not exported", []*Service{hidden}, []SidecarEgress{listener(0, shown)}, rules(8080), nil, 80, "unknown"},
		{"taken out", []*Service{behind("other")}, []SidecarEgress{listener(0, shown, SidecarHost{Namespace: "other", Host: "*", Not: true})}, rules(8080), nil, 80, "unknown"},
		{"taken out by another listener", []*Service{behind("other")}, []SidecarEgress{listener(443, shown, SidecarHost{Namespace: "other", Host: "*", Not: true}), listener(0, shown)}, rules(8080), nil, 80, "b.example.net:8080 other"},
		{"the own namespace's first", []*Service{old, behind("other"), behind("shop")}, []SidecarEgress{listener(0, shown)}, rules(8080), nil, 80, "b.example.net:8080 shop"},
		{"else the oldest", []*Service{behind("other"), old}, []SidecarEgress{listener(0, shown)}, rules(8080), nil, 80, "b.example.net:8080 zoo"},
		{"what is named comes before", []*Service{behind("shop"), old}, []SidecarEgress{listener(0, shown, SidecarHost{Namespace: "zoo", Host: b})}, rules(8080), nil, 80, "b.example.net:8080 zoo"},
		{"and has no more ports for it", []*Service{behind("shop"), with(se("b", ResolutionDNS, b), svcPort(80, ProtocolHTTP), svcNamespace("zoo"))},
			[]SidecarEgress{listener(0, shown, SidecarHost{Namespace: "zoo", Host: b})}, rules(8080), nil, 80, "unknown"},
		{"guarded", []*Service{behind("other")}, []SidecarEgress{listener(0, shown)}, rules(8080), never, 80, string(ReasonAuthorization)},
		{"the listener's port alone", []*Service{behind("other")}, []SidecarEgress{listener(80, shown)}, rules(80), nil, 80, "b.example.net:80 other"},
		{"another port than the listener's", []*Service{behind("other")}, []SidecarEgress{listener(80, shown)}, rules(8080), nil, 80, "unknown"},
		{"another listener imports it", []*Service{behind("other")}, []SidecarEgress{listener(80, shown), listener(0, shown)}, rules(8080), nil, 80, "b.example.net:8080 other"},
		{"ports that are not shown are added", []*Service{behind("other")}, []SidecarEgress{listener(80, shown, all), listener(0, shown)}, rules(8080), nil, 80, "b.example.net:8080 other"},
		{"rules that are for another listener", []*Service{behind("other")}, []SidecarEgress{listener(8080, shown), listener(0, SidecarHost{Namespace: "shop", Host: "z.example.com"})}, rules(8080), nil, 8080, "b.example.net:8080 other"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Config{
				Workloads:       workloads("shop"),
				Services:        append([]*Service{with(se("a", ResolutionDNS, a), svcPort(80, ProtocolHTTP), svcPort(8080, ProtocolHTTP), svcNamespace("shop"))}, tt.services...),
				VirtualServices: []*VirtualService{tt.rules},
				Sidecars:        sidecar(tt.egress...),
			}
			if tt.auth != nil {
				c.Authorizations = []*AuthorizationPolicy{tt.auth}
			}
			p := policyFor(t, c, "shop")
			if got := goal(p, string(a), tt.port); got != tt.want {
				t.Errorf("%s, want %s in\n%s", got, tt.want, mustCompile(t, c).Text())
			}
			c.VirtualServices = nil
			without := policyFor(t, c, "shop")
			if x, y := hostText(p.Lookup(string(b))), hostText(without.Lookup(string(b))); x != y {
				t.Errorf("without the rules %s is\n%s, with them\n%s", b, y, x)
			}
		})
	}
}

// TestSidecarDestinationsL4: the same for rules for TLS and TCP.
func TestSidecarDestinationsL4(t *testing.T) {
	const a, b = hostname.Pattern("a.example.com"), hostname.Pattern("b.example.net")
	c := &Config{
		Workloads: workloads("shop"),
		Services: []*Service{
			with(se("a", ResolutionDNS, a), svcPort(443, ProtocolTLS), svcPort(3306, ProtocolTCP), svcNamespace("shop")),
			with(se("b", ResolutionDNS, b), svcPort(443, ProtocolTLS), svcPort(3306, ProtocolTCP), svcNamespace("other")),
		},
		VirtualServices: []*VirtualService{with(vs("v", mesh, names(a)), vsTLS(string(b), L4Match{SNIHosts: names(a)}), vsTCP(string(b)), vsNamespace("rules"))},
	}
	own, theirs := SidecarHost{Namespace: "shop", Host: "*"}, SidecarHost{Namespace: "rules", Host: "*"}
	for _, tt := range []struct {
		egress   []SidecarEgress
		tls, tcp string
	}{
		{[]SidecarEgress{listener(0, own, theirs)}, "b.example.net:443", "b.example.net:3306"},
		{[]SidecarEgress{listener(0, own)}, "a.example.com:443", "a.example.com:3306"},
		{[]SidecarEgress{listener(0, own, theirs, SidecarHost{Namespace: "other", Host: "*", Not: true})}, string(ReasonNoRoute), string(ReasonNoRoute)},
		{[]SidecarEgress{listener(443, own, theirs)}, "b.example.net:443", string(ReasonPort)},
		{[]SidecarEgress{listener(443, own, theirs), listener(0, own)}, "b.example.net:443", "a.example.com:3306"},
		{[]SidecarEgress{listener(443, own), listener(0, own, theirs)}, "a.example.com:443", "b.example.net:3306"},
	} {
		c.Sidecars = sidecar(tt.egress...)
		p := policyFor(t, c, "shop")
		for how, want := range map[string]string{"tls port": tt.tls, "tcp port": tt.tcp} {
			f := Flow{Transport: TCP, Dst: ap("203.0.113.1:443"), Names: []string{string(a)}}
			if how == "tcp port" {
				f.Dst = ap("203.0.113.1:3306")
			}
			if got := landing(p, f, how); got != want {
				t.Errorf("%v: %s: %s, want %s in\n%s", tt.egress, how, got, want, mustCompile(t, c).Text())
			}
		}
	}
}

// TestSidecarListenersL4: of two VirtualServices the younger one acts where the
// listener imports it alone.
func TestSidecarListenersL4(t *testing.T) {
	const a = hostname.Pattern("a.example.com")
	name := func(ns string) SidecarHost { return SidecarHost{Namespace: ns, Host: "*"} }
	s := func(host hostname.Pattern) *Service {
		return with(se(string(host), ResolutionDNS, host), svcPort(443, ProtocolTLS), svcPort(3306, ProtocolTCP), svcNamespace("shop"))
	}
	p := policyFor(t, &Config{
		Workloads: workloads("shop"),
		Services:  []*Service{s(a), s("old.example.net"), s("young.example.net")},
		VirtualServices: []*VirtualService{
			with(vs("v", mesh, names(a)), vsTLS("old.example.net", L4Match{SNIHosts: names(a)}), vsTCP("old.example.net"), vsNamespace("old")),
			with(vs("v", mesh, names(a)), vsTLS("young.example.net", L4Match{SNIHosts: names(a)}), vsTCP("young.example.net"), vsNamespace("young")),
		},
		Sidecars: sidecar(listener(443, name("shop"), name("old"), name("young")), listener(0, name("shop"), name("young"))),
	}, "shop")
	for how, want := range map[string]string{"tls": "old.example.net", "tcp": "young.example.net"} {
		f := Flow{Transport: TCP, Dst: ap("203.0.113.1:443"), Names: []string{string(a)}}
		if how == "tcp" {
			f.Dst = ap("203.0.113.1:3306")
		}
		if got := landing(p, f, how); got != want {
			t.Errorf("%s: %s, want %s", how, got, want)
		}
	}
}

// TestSidecarListeners: rules act on the ports of the listeners that import
// them; an HTTPRoute must lie within what a listener names, the host of a
// VirtualService may also lie around it.
func TestSidecarListeners(t *testing.T) {
	const a, wild = hostname.Pattern("a.example.com"), hostname.Pattern("*.example.com")
	own, theirs := SidecarHost{Namespace: "shop", Host: "*"}, SidecarHost{Namespace: "other", Host: "*"}
	for _, tt := range []struct {
		name         string
		kind         string
		host         hostname.Pattern
		egress       []SidecarEgress
		http, others string // what answers on port 80 and on 8080
	}{
		{"for all ports", "VirtualService", a, []SidecarEgress{listener(0, own, theirs)}, "theirs", "theirs"},
		{"for one port", "VirtualService", a, []SidecarEgress{listener(80, own, theirs), listener(0, own)}, "theirs", "a.example.com:8080 shop"},
		{"for all but one", "VirtualService", a, []SidecarEgress{listener(80, own), listener(0, own, theirs)}, "a.example.com:80 shop", "theirs"},
		{"around what is named", "VirtualService", wild, []SidecarEgress{listener(0, own, SidecarHost{Namespace: "other", Host: a})}, "theirs", "theirs"},
		{"around what is named: HTTPRoute", "HTTPRoute", wild, []SidecarEgress{listener(0, own, SidecarHost{Namespace: "other", Host: a})}, "a.example.com:80 shop", "a.example.com:8080 shop"},
		{"within what is named: HTTPRoute", "HTTPRoute", a, []SidecarEgress{listener(0, own, SidecarHost{Namespace: "other", Host: wild})}, "theirs", "theirs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := with(vs("v", mesh, names(tt.host), answer("theirs")), vsNamespace("other"))
			v.Ref.Kind = tt.kind
			p := policyFor(t, &Config{
				Workloads:       workloads("shop"),
				Services:        []*Service{with(se("a", ResolutionDNS, a), svcPort(80, ProtocolHTTP), svcPort(8080, ProtocolHTTP), svcNamespace("shop"))},
				VirtualServices: []*VirtualService{v},
				Sidecars:        sidecar(tt.egress...),
			}, "shop")
			if got := goal(p, string(a), 80); got != tt.http {
				t.Errorf("port 80: %s, want %s", got, tt.http)
			}
			if got := goal(p, string(a), 8080); got != tt.others {
				t.Errorf("port 8080: %s, want %s", got, tt.others)
			}
		})
	}
}

// TestSidecarOfRoot: "." in the Sidecar of the root namespace is the namespace
// of each workload.
func TestSidecarOfRoot(t *testing.T) {
	service := func(ns string) *Service {
		return with(se(ns, ResolutionDNS, hostname.Pattern(ns+".example.com")), svcPort(443, ProtocolTLS), svcNamespace(ns))
	}
	c := &Config{
		Workloads: workloads("shop", "other"),
		Services:  []*Service{service("shop"), service("other"), service("istio-system")},
		Sidecars: []*Sidecar{{Ref: Ref{Kind: "Sidecar", Namespace: "istio-system", Name: "default"},
			Egress: []SidecarEgress{listener(0, SidecarHost{Namespace: ".", Host: "*"}, SidecarHost{Namespace: "istio-system", Host: "*"})}}},
	}
	s := mustCompile(t, c)
	next := *c
	next.Services = append([]*Service{service("late")}, c.Services...)
	updated, err := s.Update(&next)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Snapshot{s, updated} {
		for _, w := range s.Workloads() {
			p := s.Policy(w.Policy)
			for _, ns := range []string{"shop", "other", "istio-system", "late"} {
				want := ns == w.Namespace || ns == "istio-system"
				if got := p.Lookup(ns+".example.com") != nil; got != want {
					t.Errorf("workload of %s: host of %s is open: %v, want %v", w.Namespace, ns, got, want)
				}
			}
		}
	}
	if x, y := s.Policy(s.Workloads()[0].Policy).class.sidecar, updated.Policy(updated.Workloads()[0].Policy).class.sidecar; x != y {
		t.Error("the Sidecar is another one after an update that left it alone")
	}
}

// TestSidecarListenersTLS: rules that are for another listener neither let the
// kernel send a port home nor open the names in their sniHosts there.
func TestSidecarListenersTLS(t *testing.T) {
	const a, wild = hostname.Pattern("a.example.com"), hostname.Pattern("*.example.com")
	name := func(ns string) SidecarHost { return SidecarHost{Namespace: ns, Host: "*"} }
	s := func(host hostname.Pattern) *Service {
		return with(se(string(host), ResolutionDNS, host), svcPort(443, ProtocolTLS), svcPort(8443, ProtocolTLS), svcNamespace("shop"))
	}
	p := policyFor(t, &Config{
		Workloads: workloads("shop"),
		Services:  []*Service{s(a), s("elsewhere.example.net")},
		VirtualServices: []*VirtualService{
			with(vs("v", mesh, names(a)), vsTLS(string(a), L4Match{SNIHosts: names(a)}), vsNamespace("old")),
			with(vs("v", mesh, names(a)), vsTLS("elsewhere.example.net", L4Match{SNIHosts: names(a)}), vsNamespace("young")),
			with(vs("w", mesh, names(wild)), vsTLS(string(a), L4Match{SNIHosts: names(wild)}), vsNamespace("old")),
		},
		Sidecars: sidecar(listener(443, name("shop"), name("old"), name("young")), listener(0, name("shop"), name("young"))),
	}, "shop")
	for port, want := range map[uint16]string{443: string(a), 8443: "elsewhere.example.net"} {
		f := Flow{Transport: TCP, Dst: ap(fmt.Sprintf("203.0.113.1:%d", port)), Names: []string{string(a)}}
		if got := landing(p, f, "tls"); got != want {
			t.Errorf("port %d: %s, want %s", port, got, want)
		}
		if _, hp := p.LookupPort("x.example.com", TCP, port); (hp != nil) != (port == 443) {
			t.Errorf("port %d of a name that only the rules for 443 open: %v", port, hp)
		}
	}
}
