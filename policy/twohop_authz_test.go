// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
	"time"
)

// TestTwoHopAuthorization: who guards the gateway guards what goes on as it.
func TestTwoHopAuthorization(t *testing.T) {
	guarded := func(c *Config, a *AuthorizationPolicy) *Policy {
		a.Ref = Ref{Kind: "AuthorizationPolicy", Namespace: "istio-system", Name: "guard"}
		a.Targets, a.Selector = nil, map[string]string{"istio": "egressgateway"}
		c.Authorizations = []*AuthorizationPolicy{a}
		return mustCompile(t, c).Policy(DefaultPolicy)
	}
	get := func(path string) *Request { return get("edition.cnn.com", path) }
	f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
	closed := &AuthRule{To: []*AuthOperation{{Paths: paths("/closed")}}}
	for _, make := range []func() *Config{twoHopHTTP, func() *Config { return onKubernetes(twoHopHTTP()) }} {
		p := guarded(make(), &AuthorizationPolicy{Action: AuthDeny, Rules: []*AuthRule{closed}})
		if d := p.DecideHTTP(f, get("/open")); d.Verdict != Proxy {
			t.Errorf("what the guard does not deny: %+v", d.Decision)
		}
		if d := p.DecideHTTP(f, get("/closed")); d.Reason != ReasonAuthorization {
			t.Errorf("what the guard denies: %+v", d.Decision)
		}
	}
	f.Dst = ap("192.0.2.1:443")
	p := guarded(twoHopTLS(), &AuthorizationPolicy{Action: AuthAllow, Rules: []*AuthRule{{To: []*AuthOperation{{Hosts: values("www.cnn.com")}}}}})
	if _, hp := p.LookupPort("edition.cnn.com", TCP, 443); hp.Verdict != Proxy {
		t.Errorf("a guarded gateway is %v", hp.Verdict)
	}
	if d, _ := p.DecideTLS(f, "edition.cnn.com"); d.Reason != ReasonNoAllow {
		t.Errorf("what the guard does not allow: %+v", d)
	}
	p = guarded(twoHopTLS(), &AuthorizationPolicy{Action: AuthAllow, Rules: []*AuthRule{{To: []*AuthOperation{{Hosts: values("edition.cnn.com")}}}}})
	if d, u := p.DecideTLS(f, "edition.cnn.com"); d.Verdict == Deny || u.Host != "edition.cnn.com" {
		t.Errorf("what the guard allows: %+v", d)
	}
}

// guardGateway adds a policy that selects the egress gateway's labels.
func guardGateway(c *Config, action AuthAction, rules ...*AuthRule) *Config {
	c.Authorizations = append(c.Authorizations, &AuthorizationPolicy{
		Ref:    Ref{Kind: "AuthorizationPolicy", Namespace: "istio-system", Name: "guard", File: "guard.yaml", Line: 1},
		Action: action, Selector: map[string]string{"istio": "egressgateway"}, Rules: rules,
	})
	return c
}

// TestTwoHopIdentity: a gateway's policy tells workloads apart, for requests
// and for TLS, with a Kubernetes Service for the gateway and without. TLS of
// those that it allows whatever comes goes straight.
func TestTwoHopIdentity(t *testing.T) {
	rules := map[string]*AuthRule{
		"principal": from(&AuthSource{Principals: values("cluster.local/ns/prod/sa/crawler")}),
		"namespace": from(&AuthSource{Namespaces: values("prod")}),
	}
	workloads := []*Workload{
		{Identity: Identity{Name: "in", Namespace: "prod", ServiceAccount: "crawler"}},
		{Identity: Identity{Name: "out", Namespace: "test", ServiceAccount: "crawler"}},
	}
	for name, rule := range rules {
		for _, kubernetes := range []bool{false, true} {
			config := func(make func() *Config) *Snapshot {
				c := guardGateway(make(), AuthAllow, rule)
				if c.Workloads = workloads; kubernetes {
					onKubernetes(c)
				}
				return mustCompile(t, c)
			}
			http, tls := config(twoHopHTTP), config(twoHopTLS)
			for i, want := range []struct {
				reason Reason
				way    Verdict
			}{{ReasonAllowed, Inspect}, {ReasonNoAllow, Proxy}} {
				f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
				if d := http.Policy(http.Workloads()[i].Policy).DecideHTTP(f, get("edition.cnn.com", "/")); d.Reason != want.reason {
					t.Errorf("%s: http of %s: %v, want %v", name, workloads[i].Name, d.Reason, want.reason)
				}
				p := tls.Policy(tls.Workloads()[i].Policy)
				f.Dst = ap("192.0.2.1:443")
				if d, _ := p.DecideTLS(f, "edition.cnn.com"); d.Reason != want.reason {
					t.Errorf("%s: tls of %s: %v, want %v", name, workloads[i].Name, d.Reason, want.reason)
				}
				if d := p.Decide(f); d.Verdict != want.way {
					t.Errorf("%s: the kernel's verdict for %s is %v, want %v", name, workloads[i].Name, d.Verdict, want.way)
				}
			}
		}
	}
}

// TestTwoHopSees: a gateway's policy is asked of what arrives there: on its
// own port, as the workload's rule has rewritten it, from an address of which
// nothing is known that the workload dialled.
func TestTwoHopSees(t *testing.T) {
	rewritten := func() *Config {
		c := twoHopHTTP()
		c.VirtualServices[0].HTTP[0].Rewrite = &Rewrite{URI: "/inner"}
		return c
	}
	for name, c := range map[string]struct {
		make   func() *Config
		action AuthAction
		rule   *AuthRule
		dst    string
		want   Reason
	}{
		"the gateway's port":     {twoHopTCP, AuthAllow, on(&AuthOperation{Ports: []uint16{7777}}), "240.1.1.1:27017", ReasonAllowed},
		"the port that is asked": {twoHopTCP, AuthAllow, on(&AuthOperation{Ports: []uint16{27017}}), "240.1.1.1:27017", ReasonNoAllow},
		"denied on its port":     {twoHopTCP, AuthDeny, when("destination.port", "7777"), "240.1.1.1:27017", ReasonAuthorization},
		"an address":             {twoHopTCP, AuthAllow, when("destination.ip", "240.1.1.1"), "240.1.1.1:27017", ReasonNoAllow},
		"rewritten path":         {rewritten, AuthDeny, on(&AuthOperation{Paths: paths("/inner*")}), "192.0.2.1:80", ReasonAuthorization},
		"path before":            {rewritten, AuthAllow, on(&AuthOperation{Paths: paths("/a")}), "192.0.2.1:80", ReasonNoAllow},
		"SNI of the mesh":        {twoHopOrigination, AuthAllow, when("connection.sni", "edition.cnn.com"), "192.0.2.1:80", ReasonNoAllow},
		"SNI, passed through":    {twoHopTLS, AuthAllow, when("connection.sni", "edition.cnn.com"), "192.0.2.1:443", ReasonAllowed},
	} {
		p := mustCompile(t, guardGateway(c.make(), c.action, c.rule)).Policy(DefaultPolicy)
		f := Flow{Transport: TCP, Dst: ap(c.dst), Names: []string{"edition.cnn.com"}}
		var d Decision
		switch f.Dst.Port() {
		case 80:
			d = p.DecideHTTP(f, get("edition.cnn.com", "/a")).Decision
		case 443:
			d, _ = p.DecideTLS(f, "edition.cnn.com")
		default:
			d = p.Candidates(f).Decision
		}
		if d.Reason != c.want {
			t.Errorf("%s: %v, want %v", name, d.Reason, c.want)
		}
	}
}

// TestTwoHopMarks: AUDIT and dry-run policies of the gateway mark what goes on
// as it, and TLS that they mark passes the forwarding core.
func TestTwoHopMarks(t *testing.T) {
	for _, dry := range []bool{false, true} {
		guard := func(make func() *Config) *Policy {
			c := guardGateway(make(), AuthAudit, &AuthRule{})
			if a := c.Authorizations[0]; dry {
				a.Action, a.DryRun = AuthDeny, true
			}
			return mustCompile(t, c).Policy(DefaultPolicy)
		}
		marked := func(d Decision) bool {
			if dry {
				return d.Verdict == Proxy && d.Audited == nil && d.DryRun != nil
			}
			return d.Verdict == Proxy && d.Audited != nil && d.DryRun == nil
		}
		f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
		if d := guard(twoHopHTTP).DecideHTTP(f, get("edition.cnn.com", "/")); !marked(d.Decision) {
			t.Errorf("http: %+v", d.Decision)
		}
		f.Dst = ap("192.0.2.1:443")
		p := guard(twoHopTLS)
		if d, _ := p.DecideTLS(f, "edition.cnn.com"); !marked(d) || p.Decide(f).Verdict != Proxy {
			t.Errorf("tls: %+v", d)
		}
	}
}

// TestTwoHopLastGuard: the guard of the ServiceEntry at the end is asked of
// the request as it comes there.
func TestTwoHopLastGuard(t *testing.T) {
	for path, want := range map[string]Reason{"/a": ReasonAllowed, "/b": ReasonAuthorization} {
		c := twoHopHTTP()
		c.VirtualServices[0].HTTP[0].Rewrite = &Rewrite{URI: path}
		c.Authorizations = []*AuthorizationPolicy{authorize(AuthDeny, "cnn", on(&AuthOperation{Paths: paths("/b")}))}
		f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
		if d := mustCompile(t, c).Policy(DefaultPolicy).DecideHTTP(f, get("edition.cnn.com", "/")); d.Reason != want {
			t.Errorf("%s: %v, want %v", path, d.Reason, want)
		}
	}
}

// TestTwoHopDestinationRules: on the way out of a gateway the DestinationRules
// count that its namespace sees, not those of the workload's.
func TestTwoHopDestinationRules(t *testing.T) {
	originate := func(namespace string, to ...string) *DestinationRule {
		d := dr(namespace, "originate", "edition.cnn.com", time.Second)
		d.Traffic.Ports = map[uint16]*TrafficPolicy{443: {TLS: &ClientTLS{Mode: TLSSimple}}}
		d.Export = Visibility{Limited: len(to) > 0, Namespaces: to}
		return d
	}
	for name, c := range map[string]struct {
		rule *DestinationRule
		want Reason
	}{
		"none":                   {dr("default", "pool", "edition.cnn.com", time.Second), ReasonAllowed},
		"the gateway's":          {originate("istio-system", "istio-system"), ReasonNotSupported},
		"the service's":          {originate("default"), ReasonNotSupported},
		"the workload's, hidden": {originate("default", "default"), ReasonAllowed},
	} {
		config := func(make func() *Config) *Policy {
			x := make()
			x.DestinationRules = []*DestinationRule{c.rule}
			return mustCompile(t, x).Policy(DefaultPolicy)
		}
		f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
		if d := config(twoHopOrigination).DecideHTTP(f, get("edition.cnn.com", "/")); d.Reason != c.want {
			t.Errorf("%s: http: %v, want %v", name, d.Reason, c.want)
		}
		f.Dst = ap("192.0.2.1:443")
		p := config(twoHopTLS)
		if d, _ := p.DecideTLS(f, "edition.cnn.com"); d.Reason != c.want {
			t.Errorf("%s: tls: %v, want %v", name, d.Reason, c.want)
		}
		if _, hp := p.LookupPort("edition.cnn.com", TCP, 443); hp.Verdict == Direct || c.want != ReasonAllowed && hp.Verdict != Proxy {
			t.Errorf("%s: the kernel's verdict is %v", name, hp.Verdict)
		}
	}
}

// TestTwoHopUnknown: where unknown names pass, the kernel lets no TLS pass
// unread as long as a gateway's policy denies some.
func TestTwoHopUnknown(t *testing.T) {
	c := guardGateway(twoHopTLS(), AuthDeny, &AuthRule{})
	c.Mesh.Outbound = AllowAny
	c.Services = append(c.Services, se("other", ResolutionDNS, "other.example.com").port(443, ProtocolTLS))
	p := mustCompile(t, c).Policy(DefaultPolicy)
	f := Flow{Transport: TCP, Dst: ap("192.0.2.1:443"), Names: []string{"other.example.com"}}
	if d := p.Decide(f); d.Verdict != Proxy {
		t.Errorf("%v, and a denied name could be shown there", d.Verdict)
	}
	if d, _ := p.DecideTLS(f, "edition.cnn.com"); d.Reason != ReasonAuthorization {
		t.Errorf("the denied name: %v", d.Reason)
	}
	if d, _ := p.DecideTLS(f, "other.example.com"); d.Verdict == Deny {
		t.Errorf("the other name: %v", d.Reason)
	}
}

// TestRequestOnTCP: a port for TCP goes by the rules for TCP, and past what
// guards these lead to, also for bytes that look like a request.
func TestRequestOnTCP(t *testing.T) {
	f := Flow{Transport: TCP, Dst: ap("240.1.1.1:27017")}
	r := get("mongo.example.com", "/")
	for want, c := range map[Reason]*Config{
		ReasonAllowed:       guardGateway(twoHopTCP(), AuthAllow, &AuthRule{}),
		ReasonAuthorization: guardGateway(twoHopTCP(), AuthDeny, &AuthRule{}),
	} {
		d := mustCompile(t, c).Policy(DefaultPolicy).DecideHTTP(f, r)
		if d.Reason != want || want == ReasonAllowed && (d.Upstream == nil || d.Upstream.Host != "mongo.example.com") {
			t.Errorf("%v, want %v: %+v", d.Reason, want, d.Upstream)
		}
	}
}
