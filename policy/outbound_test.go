// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"testing"
)

// TestAllowAny: what no rule names passes, what rules deny does not.
func TestAllowAny(t *testing.T) {
	c := guarded(authorize(AuthDeny, "tcp", &AuthRule{}), authorize(AuthDeny, "static", &AuthRule{}))
	c.Mesh = Mesh{Ref: Ref{Kind: "MeshConfig", Name: "mesh"}, Outbound: AllowAny, Retries: &Retries{Attempts: 7}}
	p := mustCompile(t, c).Policy(DefaultPolicy)
	if !p.AllowsUnknown() {
		t.Fatal("AllowsUnknown")
	}
	for fam, addr := range families {
		at := func(port uint16, names ...string) Flow {
			return Flow{Transport: TCP, Dst: ap(hostPort(addr, port)), Names: names}
		}
		if d := p.Decide(at(22)); d.Verdict != Direct || ruleName(d.Rule) != "mesh" || d.Host != nil {
			t.Errorf("%s: unknown: %+v", fam, d)
		}
		if d := p.Decide(at(22, "tls.example.com")); d.Verdict != Direct {
			t.Errorf("%s: unknown port: %+v", fam, d)
		}
		if d := p.Decide(at(5432, "tcp.example.com")); d.Reason != ReasonAuthorization {
			t.Errorf("%s: denied: %+v", fam, d)
		}
		if got := p.Openings("tcp.example.com", netip.MustParseAddr(addr)); len(got) != 1 || got[0].Verdict != Proxy {
			t.Errorf("%s: the kernel has no entry that keeps a denied name from passing: %v", fam, got)
		}
		if d := p.Candidates(at(5432, "tcp.example.com")); d.Verdict != Deny || d.Opaque != nil {
			t.Errorf("%s: denied candidates: %+v", fam, d)
		}
		d := p.DecideHTTP(at(80, "http.example.com"), get("who.example.org", "/"))
		if d.Verdict != Proxy || d.Upstream == nil || d.Upstream.Endpoints[0].Addr != ap(hostPort(addr, 80)) || d.Retries.Attempts != 7 {
			t.Errorf("%s: unknown Host: %+v", fam, d)
		}
		td, u := p.DecideTLS(at(443, "tls.example.com"), "who.example.org")
		if td.Verdict != Proxy || u.Endpoints[0].Addr != ap(hostPort(addr, 443)) {
			t.Errorf("%s: unknown SNI: %+v to %+v", fam, td, u)
		}
		if td, u = p.DecideTLS(at(5432, "tcp.example.com"), "who.example.org"); td.Verdict != Deny || u != nil {
			t.Errorf("%s: unknown SNI at a denied name's address: %+v to %+v", fam, td, u)
		}
	}
	for _, o := range p.Static() {
		if o.Prefix.IsSingleIP() && o.Verdict != Proxy {
			t.Errorf("a denied address is %+v in the kernel", o)
		}
	}
	for name, want := range map[string]Reason{"who.example.org": ReasonAllowed, "tls.example.com": ReasonAllowed, "tcp.example.com": ReasonAuthorization} {
		if d := p.DecideQuery(name); d.Reason != want || (d.Host != nil) != (name == "tls.example.com") {
			t.Errorf("query of %s: %+v", name, d)
		}
	}
	if d := p.Decide(Flow{Transport: 1, Dst: ap("203.0.113.1:0")}); d.Verdict != Deny {
		t.Errorf("icmp: %+v", d)
	}
	// Without a denial nothing has to be proved; with REGISTRY_ONLY it has.
	c = guarded()
	c.Mesh.Outbound = AllowAny
	if d := mustCompile(t, c).Policy(DefaultPolicy).Decide(flow443); d.Verdict != Direct {
		t.Errorf("tls under ALLOW_ANY: %+v", d)
	}
	if p := mustCompile(t, guarded()).Policy(DefaultPolicy); p.AllowsUnknown() || p.Decide(Flow{Transport: TCP, Dst: ap("203.0.113.1:22")}).Verdict != Deny {
		t.Error("REGISTRY_ONLY lets unknown destinations pass")
	}
}
