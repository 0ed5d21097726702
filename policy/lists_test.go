// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// vsTLS adds a rule for TLS.
func vsTLS(to string, m L4Match) func(*VirtualService) {
	return func(v *VirtualService) {
		v.TLS = append(v.TLS, &TLSRule{Ref: v.Ref, Matches: []*L4Match{&m}, Route: toL4(to, 0)})
	}
}

// vsTCP adds a rule for TCP.
func vsTCP(to string, m ...*L4Match) func(*VirtualService) {
	return func(v *VirtualService) {
		v.TCP = append(v.TCP, &TCPRule{Ref: v.Ref, Matches: m, Route: toL4(to, 0)})
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

// TestSidecarImports: rules of a namespace that the workload's Sidecar does
// not import do not apply, in whatever list they are.
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
				Workloads: workloads("shop"),
				Services: []*Service{
					with(se("s", ResolutionDNS, host), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolTLS), svcPort(3306, ProtocolTCP), svcNamespace("shop")),
					with(se("t", ResolutionDNS, "theirs"), svcPort(443, ProtocolTLS), svcPort(3306, ProtocolTCP), svcNamespace("shop")),
				},
				VirtualServices: []*VirtualService{
					with(vs("v", mesh, names(host), answer("theirs")), vsTLS("theirs", L4Match{SNIHosts: names(host)}), vsTCP("theirs"), vsNamespace("other")),
				},
				Sidecars: []*Sidecar{{Ref: Ref{Kind: "Sidecar", Namespace: "shop", Name: "s"}, Egress: []SidecarEgress{{Hosts: tt.hosts}}}},
			}, "shop")
			for how, dst := range map[string]string{"http": "203.0.113.1:80", "tls": "203.0.113.1:443", "tcp": "203.0.113.1:3306"} {
				if got := landing(p, Flow{Transport: TCP, Dst: ap(dst), Names: []string{string(host)}}, how); got != tt.want {
					t.Errorf("%s: %s, want %s", how, got, tt.want)
				}
			}
		})
	}
}
