// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// tls adds a rule for TLS.
func (v *VirtualService) tls(to string, m L4Match) *VirtualService {
	v.TLS = append(v.TLS, &TLSRule{Ref: v.Ref, Matches: []*L4Match{&m}, Route: toL4(to, 0)})
	return v
}

// tcp adds a rule for TCP.
func (v *VirtualService) tcp(to string, m ...*L4Match) *VirtualService {
	v.TCP = append(v.TCP, &TCPRule{Ref: v.Ref, Matches: m, Route: toL4(to, 0)})
	return v
}

// TestLists: the rules for TLS and TCP come from every VirtualService with a
// host that matches, the HTTP rules from the first that has one for the
// workload and the port.
func TestLists(t *testing.T) {
	a, b, wild := hostname.Pattern("a.example.com"), hostname.Pattern("b.example.com"), hostname.Pattern("*.example.com")
	services := []*Service{
		se("s", ResolutionDNS, a, b).port(80, ProtocolHTTP).port(443, ProtocolTLS).port(8443, ProtocolTLS).port(3306, ProtocolTCP).port(9000, ProtocolUnset),
		se("other", ResolutionDNS, "other.example.net").port(80, ProtocolHTTP).port(443, ProtocolTLS).port(8443, ProtocolTLS).port(3306, ProtocolTCP).port(9000, ProtocolUnset),
	}
	services = append(services,
		se("one", ResolutionDNS, "one.example.net").port(7, ProtocolTCP),
		se("two", ResolutionDNS, "two.example.net").port(7, ProtocolTCP).port(8, ProtocolTCP),
		se("secure", ResolutionDNS, "secure.example.net").port(443, ProtocolTLS))
	const other = "other.example.net"
	sni := func(h ...hostname.Pattern) L4Match { return L4Match{SNIHosts: h} }
	plain := func() *VirtualService { return vs("plain", mesh, names(a), answer("plain")) }
	here, there := map[string]string{"app": "shop"}, map[string]string{"app": "other"}
	for _, tt := range []struct {
		name  string
		rules []*VirtualService
		// what is asked: "http", "tls" or "tcp" of a host on a port
		ask, host string
		port      uint16
		want      string // host of the upstream, name of the HTTP rule, or a reason
	}{
		{"an older one with HTTP rules alone", []*VirtualService{plain(), vs("v", mesh, names(a)).tls(other, sni(a))}, "tls", "a.example.com", 443, other},
		{"and its HTTP rules", []*VirtualService{plain(), vs("v", mesh, names(a), answer("young")).tls(other, sni(a))}, "http", "a.example.com", 80, "plain"},
		{"an older one with rules for TLS alone", []*VirtualService{vs("v", mesh, names(a)).tls(other, sni(a)), plain()}, "http", "a.example.com", 80, "plain"},
		{"a wildcard under an exact one", []*VirtualService{plain(), vs("v", mesh, names(wild)).tls(other, sni(wild))}, "tls", "a.example.com", 443, other},
		{"the exact one comes first", []*VirtualService{vs("v", mesh, names(wild)).tls(other, sni(wild)), vs("w", mesh, names(a)).tls("b.example.com", sni(a))}, "tls", "a.example.com", 443, "b.example.com"},
		{"tcp rules of several", []*VirtualService{plain(), vs("v", mesh, names(wild)).tcp(other)}, "tcp", "a.example.com", 3306, other},

		{"tls rules are complete: another SNI", []*VirtualService{vs("v", mesh, names(a, b)).tls(other, sni(b))}, "tls", "a.example.com", 443, string(ReasonNoRoute)},
		{"tls rules are complete: another subnet", []*VirtualService{vs("v", mesh, names(a)).tls(other, L4Match{SNIHosts: names(a), Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})}, "tls", "a.example.com", 443, string(ReasonNoRoute)},
		{"for their ports", []*VirtualService{vs("v", mesh, names(a)).tls(other, L4Match{SNIHosts: names(b), Port: 8443})}, "tls", "a.example.com", 443, "a.example.com"},
		{"for their workloads", []*VirtualService{vs("v", mesh, names(a)).tls(other, L4Match{SNIHosts: names(b), SourceLabels: there})}, "tls", "a.example.com", 443, "a.example.com"},

		{"tcp rules are not for TLS", []*VirtualService{vs("v", mesh, names(a)).tcp(other)}, "tls", "a.example.com", 443, "a.example.com"},
		{"nor for HTTP", []*VirtualService{vs("v", mesh, names(a)).tcp(other)}, "http", "a.example.com", 80, "a.example.com"},
		{"they are for what has no protocol", []*VirtualService{vs("v", mesh, names(a)).tcp(other)}, "tcp", "a.example.com", 9000, other},
		{"also when it turns out to be TLS", []*VirtualService{vs("v", mesh, names(a)).tcp(other)}, "tls", "a.example.com", 9000, other},
		{"unless there are rules for TLS", []*VirtualService{vs("v", mesh, names(a)).tcp(other).tls("b.example.com", sni(a))}, "tls", "a.example.com", 9000, "b.example.com"},

		{"a destination without a port: the one that was dialled", []*VirtualService{vs("v", mesh, names(a)).tls(other, sni(a))}, "tls port", "a.example.com", 8443, other + ":8443"},
		{"for TCP", []*VirtualService{vs("v", mesh, names(a)).tcp(other)}, "tcp port", "a.example.com", 3306, other + ":3306"},
		{"the port of the match", []*VirtualService{vs("v", mesh, names(a)).tls(other, L4Match{SNIHosts: names(a), Port: 8443})}, "tls port", "a.example.com", 8443, other + ":8443"},
		{"the only port", []*VirtualService{vs("v", mesh, names(a)).tcp("one.example.net")}, "tcp port", "a.example.com", 3306, "one.example.net:7"},
		{"none of several", []*VirtualService{vs("v", mesh, names(a)).tcp("two.example.net")}, "tcp port", "a.example.com", 3306, string(ReasonNoRoute)},
		{"HTTP to a port for TLS", []*VirtualService{vs("v", mesh, names(a), to("secure", "secure.example.net", 0))}, "http", "a.example.com", 80, "secure unknown"},
		{"HTTP to a port for HTTP", []*VirtualService{vs("v", mesh, names(a), to("clear", other, 0))}, "http", "a.example.com", 80, "clear"},

		{"for another workload: the next one", []*VirtualService{vs("v", mesh, names(a), answer("theirs", &HTTPMatch{SourceLabels: there})), plain()}, "http", "a.example.com", 80, "plain"},
		{"for this workload", []*VirtualService{vs("v", mesh, names(a), answer("ours", &HTTPMatch{SourceLabels: here})), plain()}, "http", "a.example.com", 80, "ours"},
		{"for another workload: the service", []*VirtualService{vs("v", mesh, names(a), answer("theirs", &HTTPMatch{SourceLabels: there}))}, "http", "a.example.com", 80, "a.example.com"},
		{"for another port: the service", []*VirtualService{vs("v", mesh, names(a), answer("8080", &HTTPMatch{Port: 8080}))}, "http", "a.example.com", 80, "a.example.com"},
		{"for another port: the wildcard", []*VirtualService{vs("v", mesh, names(a), answer("8080", &HTTPMatch{Port: 8080})), vs("w", mesh, names(wild), answer("wild"))}, "http", "a.example.com", 80, "wild"},
		{"for a gateway: the service", []*VirtualService{vs("v", []string{"mesh", "default/gw"}, names(a), answer("gw", &HTTPMatch{Gateways: []string{"default/gw"}}))}, "http", "a.example.com", 80, "a.example.com"},
		{"rules for the port of which none matches", []*VirtualService{vs("v", mesh, names(a), answer("x", uri(MatchExact, "/x"))), plain()}, "http", "a.example.com", 80, string(ReasonNoRoute)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := workloads("default")
			w[0].Labels = here
			s := mustCompile(t, &Config{Services: services, VirtualServices: tt.rules, Workloads: w})
			p := s.Policy(s.Workloads()[0].Policy)
			f := Flow{Transport: TCP, Dst: ap(fmt.Sprintf("203.0.113.1:%d", tt.port)), Names: []string{tt.host}}
			if got := landing(p, f, tt.ask); got != tt.want {
				t.Errorf("%s, want %s in\n%s", got, tt.want, s.Text())
			}
		})
	}
}

// landing is the host of the upstream that a flow comes to, the name of the
// HTTP rule that answers, or the reason why it is denied.
func landing(p *Policy, f Flow, how string) string {
	host := f.Names[0]
	var d Decision
	var u *Upstream
	how, port := strings.CutSuffix(how, " port") // whose port is told as well
	switch how {
	case "tls":
		d, u = p.DecideTLS(f, host)
	case "tcp":
		c := p.Candidates(f)
		d, u = c.Decision, c.Opaque
	default:
		r := get(host, "/")
		r.Port = f.Dst.Port()
		h := p.DecideHTTP(f, r)
		if d, u = h.Decision, h.Upstream; h.Action != nil {
			if to := h.Action.Pick(0); to != nil && to.Upstream == nil {
				return h.Action.Rule.Name + " unknown"
			}
			return h.Action.Rule.Name
		}
	}
	if d.Verdict == Deny {
		return string(d.Reason)
	}
	if port {
		return fmt.Sprintf("%s:%d", u.Host, u.Port)
	}
	return u.Host
}

// TestGatewayPrecedence: on a gateway, too, VirtualServices of its own
// namespace come before those that others export, whatever their age.
func TestGatewayPrecedence(t *testing.T) {
	ours, theirs := vs("ours", nil, names("x.example.com")), vs("theirs", nil, names("x.example.com")).in("other")
	ours.Export = Visibility{Limited: true, Namespaces: []string{"default"}}
	for _, older := range []*VirtualService{ours, theirs} {
		t.Run(older.Ref.Name, func(t *testing.T) {
			c := served(
				gatewayServer("pass", 443, ProtocolTLS, &ServerTLS{}, "*.example.com"),
				gatewayServer("http", 80, ProtocolHTTP, nil, "*.example.com"),
				gatewayServer("tcp", 9000, ProtocolTCP, nil, "*"),
			)
			list := []*VirtualService{ours, theirs}
			if older == theirs {
				list = []*VirtualService{theirs, ours}
			}
			for _, v := range list {
				v := vs(v.Ref.Name, nil, v.Hosts, answer(v.Ref.Name)).in(v.Ref.Namespace)
				v.Export = map[string]Visibility{"ours": ours.Export}[v.Ref.Name]
				to := map[string]string{"ours": "a", "theirs": "b"}[v.Ref.Name]
				v.TCP = []*TCPRule{{Ref: v.Ref, Route: in(to)}}
				c.bind(v).sni(to, 0, "x.example.com")
			}
			for _, l := range mustCompile(t, c).Listeners() {
				switch l.Port {
				case 80:
					r := get("x.example.com", "/")
					r.Port = 80
					if d := l.DecideHTTP(r); d.Action == nil || d.Action.Rule.Name != "ours" {
						t.Errorf("http: %+v", d)
					}
				case 443:
					if d := l.DecideTLS("x.example.com", 0); d.Upstream == nil || d.Upstream.Host[0] != 'a' {
						t.Errorf("tls: %+v", d)
					}
				default:
					if d, u := l.DecideTCP(0); u == nil || u.Host[0] != 'a' {
						t.Errorf("tcp: %+v", d)
					}
				}
			}
		})
	}
}

// TestSidecarImports: rules of a namespace that the workload's Sidecar does
// not import do not apply.
func TestSidecarImports(t *testing.T) {
	host := hostname.Pattern("a.example.com")
	for _, tt := range []struct {
		name  string
		hosts []SidecarHost
		want  string
	}{
		{"all", []SidecarHost{{Namespace: "*", Host: "*"}}, "theirs"},
		{"its namespace", []SidecarHost{{Namespace: "shop", Host: "*"}, {Namespace: "other", Host: "*"}}, "theirs"},
		{"the host there", []SidecarHost{{Namespace: "shop", Host: "*"}, {Namespace: "other", Host: host}}, "theirs"},
		{"another host there", []SidecarHost{{Namespace: "shop", Host: "*"}, {Namespace: "other", Host: "b.example.com"}}, string(host)},
		{"another namespace", []SidecarHost{{Namespace: "shop", Host: "*"}}, string(host)},
		{"all but its namespace", []SidecarHost{{Namespace: "*", Host: "*"}, {Namespace: "other", Host: "*", Not: true}}, string(host)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := policyFor(t, &Config{
				Workloads:       workloads("shop"),
				Services:        []*Service{se("s", ResolutionDNS, host).port(80, ProtocolHTTP).in("shop")},
				VirtualServices: []*VirtualService{vs("v", mesh, names(host), answer("theirs")).in("other")},
				Sidecars:        []*Sidecar{{Ref: Ref{Kind: "Sidecar", Namespace: "shop", Name: "s"}, Egress: []SidecarEgress{{Hosts: tt.hosts}}}},
			}, "shop")
			if got := landing(p, Flow{Transport: TCP, Dst: ap("203.0.113.1:80"), Names: []string{string(host)}}, "http"); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}
