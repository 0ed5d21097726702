// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/load"
)

const forProd = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: for-prod, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  action: ALLOW
  rules: [{from: [{source: {namespaces: [prod]}}]}]
`

const anything = `
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "outboundTrafficPolicy: {mode: ALLOW_ANY}"}
`

const closed = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed}
spec:
  targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: news}]
  action: DENY
  rules: [{}]
`

const tunnel = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: tunnel, namespace: istio-system}
spec:
  host: news.example.com
  trafficPolicy: {tunnel: {protocol: POST, targetHost: news.example.com, targetPort: 443}}
`

// TestExplainForwardingCore: what the kernel leaves to the forwarding core is
// explained by what that decides, for gateways' policies, DestinationRules and
// names that no rule has.
func TestExplainForwardingCore(t *testing.T) {
	for _, c := range []struct{ name, example, more, target, want, step, nearest string }{
		{"gateway, tls", "https", forProd, "https://news.example.com/", "deny authorization-no-allow", "proxy: refused (authorization-no-allow)", "AuthorizationPolicy istio-system/for-prod"},
		{"gateway, http", "http", forProd, "http://news.example.com/", "deny authorization-no-allow", "http: GET / is refused", "AuthorizationPolicy istio-system/for-prod"},
		{"gateway, tls, none", "https", "", "https://news.example.com/", "inspect allowed", "its SNI must be news.example.com", ""},
		{"TLS is originated", "tls-origination", "", "http://news.example.com/", "proxy allowed", "http: route to news.example.com port 443", ""},
		{"not done", "http", tunnel, "http://news.example.com/", "deny not-supported", "is refused (not-supported)", "DestinationRule istio-system/tunnel"},
		{"no port left", "https", closed, "https://news.example.com/", "deny authorization-denied", "dns: no port of news.example.com may be reached", "AuthorizationPolicy default/closed"},
		{"unknown name", "https", anything, "https://www.example.org/", "direct allowed", "outboundTrafficPolicy ALLOW_ANY allows it", ""},
		{"unknown address", "https", anything, "192.0.2.1:22", "direct allowed", "connect: verdict direct", ""},
	} {
		more := filepath.Join(t.TempDir(), "more.yaml")
		if err := os.WriteFile(more, []byte(c.more), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := load.Paths([]string{"../examples/istio/egress-gateway-" + c.example + ".yaml", more}, nil)
		if err != nil {
			t.Fatal(err, l.Findings)
		}
		tg, err := ParseTarget(c.target)
		if err != nil {
			t.Fatal(err)
		}
		x, err := Explain(l.Snapshot, nil, Question{Target: tg, Method: "GET"})
		if err != nil {
			t.Fatal(err)
		}
		steps, near := strings.Join(x.Steps, "\n"), ""
		if x.Nearest != nil {
			near = x.Nearest.Rule.String()
		}
		if got := x.Verdict.String() + " " + string(x.Reason); got != c.want || x.Allowed != strings.HasSuffix(c.want, " allowed") {
			t.Errorf("%s: %s, want %s\n%s", c.name, got, c.want, steps)
		}
		if !strings.Contains(steps, c.step) || !strings.HasPrefix(near, c.nearest) || c.nearest == "" && near != "" {
			t.Errorf("%s: nearest %q\n%s", c.name, near, steps)
		}
	}
}
