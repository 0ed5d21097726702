// SPDX-License-Identifier: Apache-2.0

package policy

import "testing"

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
