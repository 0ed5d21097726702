// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

const visitable = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: app, namespace: shop}
spec:
  hosts: [app.internal]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.0.0.1}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*.example.com"]}
  - {port: {number: 443, name: open, protocol: HTTPS}, name: open, hosts: ["*.example.com"], tls: {mode: SIMPLE, credentialName: a}}
  - {port: {number: 443, name: shut, protocol: HTTPS}, name: shut, hosts: ["shut.example.com"], tls: {mode: MUTUAL, credentialName: b}}
  - {port: {number: 443, name: pass, protocol: TLS}, hosts: ["pass.example.org"], tls: {mode: PASSTHROUGH}}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app, namespace: shop}
spec:
  hosts: ["*.example.com", pass.example.org]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /app}}]
    timeout: 7s
    route: [{destination: {host: app.internal, port: {number: 80}}}]
  tls:
  - match: [{sniHosts: [pass.example.org]}]
    route: [{destination: {host: app.internal, port: {number: 81}}}]
  tcp:
  - match: [{port: 9000}]
    route: [{destination: {host: app.internal, port: {number: 81}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none, namespace: shop}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: DENY
  rules:
  - {from: [{source: {ipBlocks: [203.0.113.0/24, "2001:db8:1::/48"]}}]}
  - {from: [{source: {principals: [cluster.local/ns/shop/sa/bad]}}]}
`

// TestVisit: what is said of visitors is what the gateway decides, with the reason in
// words.
func TestVisit(t *testing.T) {
	l, err := load.With([]istio.File{{Name: "g.yaml", Data: []byte(visitable)}}, istio.Options{GatewaySelector: map[string]string{"istio": "ingressgateway"}})
	if err != nil {
		t.Fatal(err, l.Findings)
	}
	for _, c := range []struct {
		target, gateway, from, principal, host string
		verdict                                policy.Verdict
		reason                                 policy.Reason
		says                                   string
	}{
		{"http://a.example.com/app/x", "", "192.0.2.1", "", "", policy.Proxy, policy.ReasonAllowed, "timeout 7s"},
		{"http://a.example.com/app/x", "", "", "", "", policy.Deny, policy.ReasonAuthorization, "--from says one"},
		{"http://a.example.com/other", "shop/edge", "192.0.2.1", "", "", policy.Deny, policy.ReasonNoRoute, "answered with 404"},
		{"http://a.example.com/app", "", "203.0.113.7", "", "", policy.Deny, policy.ReasonAuthorization, "answered with 403"},
		{"http://a.example.com/app", "", "2001:db8:1::7", "", "", policy.Deny, policy.ReasonAuthorization, "answered with 403"},
		{"http://a.example.com/app", "", "2001:db8:2::7", "", "", policy.Proxy, policy.ReasonAllowed, "route to app.internal port 80"},
		{"https://a.example.com/app", "", "192.0.2.1", "", "", policy.Proxy, policy.ReasonAllowed, `chooses server "open"`},
		{"https://shut.example.com/app", "", "192.0.2.1", "", "", policy.Proxy, policy.ReasonAllowed, "a client without a certificate"},
		{"https://shut.example.com/app", "", "192.0.2.1", "spiffe://cluster.local/ns/shop/sa/bad", "", policy.Deny, policy.ReasonAuthorization, "403"},
		{"https://a.example.com/app", "", "192.0.2.1", "", "shut.example.com", policy.Deny, policy.ReasonMisdirected, "answered with 421"},
		{"https://else.example.org/app", "", "192.0.2.1", "", "", policy.Deny, policy.ReasonName, "is refused"},
		// Nobody knows whose certificate is within.
		{"https://pass.example.org/", "", "192.0.2.1", "", "", policy.Deny, policy.ReasonAuthorization, "the SNI pass.example.org is refused"},
		{"a.example.com:9000", "", "192.0.2.1", "", "", policy.Proxy, policy.ReasonAllowed, "goes on to app.internal port 81"},
		{"https://a.example.com:80/", "", "192.0.2.1", "", "", policy.Deny, policy.ReasonNotHTTP, "TLS comes"},
		{"http://a.example.com:443/", "", "192.0.2.1", "", "", policy.Deny, policy.ReasonNotTLS, "plain text comes"},
		{"http://a.example.com:81/", "", "192.0.2.1", "", "", policy.Deny, policy.ReasonNoRule, "open are 80 (shop/edge)"},
		{"http://a.example.com/", "shop/none", "192.0.2.1", "", "", policy.Deny, policy.ReasonNoRule, "nothing listens there"},
	} {
		target, err := ParseTarget(c.target)
		if err != nil {
			t.Fatal(err)
		}
		v, err := NewVisit(c.gateway, c.from, c.principal)
		if err != nil {
			t.Fatal(err)
		}
		q := url.Values{}
		v.Query(q)
		if v, err = ParseVisit(q); err != nil { // as the daemon reads it
			t.Fatal(err)
		}
		header := http.Header{}
		if c.host != "" {
			header.Set("Host", c.host)
		}
		x, err := Explain(l.Snapshot, nil, Question{Target: target, Method: "GET", Header: header, Visit: v, Mode: policy.Audit})
		if err != nil {
			t.Fatal(err)
		}
		if x.Verdict != c.verdict || x.Reason != c.reason || !strings.Contains(strings.Join(x.Steps, "\n"), c.says) || x.Suggestion != "" || x.Passes != x.Allowed {
			t.Errorf("%s from %s: %+v, want %v %s with %q", c.target, c.from, x, c.verdict, c.reason, c.says)
		}
	}
	if _, err := NewVisit("", "nowhere", ""); err == nil {
		t.Error("an address that is none is taken")
	}
}
