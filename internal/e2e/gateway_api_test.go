// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// istioExample is a file of examples/istio.
func istioExample(t *testing.T, name string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../examples/istio", name))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{name: string(b)}
}

// TestHTTPRouteTimeout is the Gateway API's form of Istio's egress task.
func TestHTTPRouteTimeout(t *testing.T) {
	t.Parallel()
	n := start(t, istioExample(t, "gateway-api-timeout.yaml"), nil)
	url := "http://" + world.API + "/slow?d="
	if a := n.curl(t, n.in, url+"5s"); a.status != 504 || a.took < 2900*time.Millisecond || a.took > 4900*time.Millisecond {
		t.Errorf("an origin that takes 5 s: %+v, want 504 after 3 s", a)
	}
	if a := n.curl(t, n.in, url+"100ms"); a.status != 200 {
		t.Errorf("an origin that takes 100 ms: %+v", a)
	}
	// The twin: without egressd the origin has its time.
	if a := n.curl(t, nil, url+"5s"); a.status != 200 || a.took < 5*time.Second {
		t.Errorf("uncaptured: %+v", a)
	}
}

// TestWaypoint has the shape of ambient mode's egress gateway.
func TestWaypoint(t *testing.T) {
	t.Parallel()
	n := start(t, istioExample(t, "gateway-api-waypoint.yaml"), nil)
	url := "http://" + world.API
	for _, c := range []struct {
		args   []string
		status int
		body   string
	}{
		{[]string{url + "/v1/x"}, 200, `"X-Egress":["node"]`},
		{[]string{url + "/v1"}, 200, `"X-Egress":["node"]`},
		{[]string{url + "/v10"}, 404, ""},
		{[]string{"-X", "POST", url + "/v1/x"}, 403, "RBAC: access denied"},
	} {
		if a := n.curl(t, n.in, c.args...); a.status != c.status || !strings.Contains(a.body, c.body) {
			t.Errorf("%v: %+v, want %d with %s", c.args, a, c.status, c.body)
		}
		if a := n.curl(t, nil, c.args...); a.status != 200 {
			t.Errorf("uncaptured %v: %+v", c.args, a)
		}
	}
}

// TestHTTPRoute has a rule for each thing that an HTTPRoute does otherwise than
// a VirtualService, written in another order than that of their precedence.
func TestHTTPRoute(t *testing.T) {
	t.Parallel()
	const to = `{kind: Hostname, group: networking.istio.io, port: 80, name: `
	n := start(t, map[string]string{"policy.yaml": hosts("sites", world.GoogleAPIs, world.API, world.API2) + `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routes}
spec:
  parentRefs:
  - {kind: ServiceEntry, group: networking.istio.io, name: sites}
  hostnames: [` + world.GoogleAPIs + `]
  rules:
  - matches: [{path: {value: /a}}]
    backendRefs: [` + to + world.API + `}]
  - matches: [{path: {value: /a/b}}]
    backendRefs: [` + to + world.API2 + `}]
  - matches: [{path: {value: /moved}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {hostname: ` + world.API + `, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
  - matches: [{path: {value: /rewritten}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: ` + world.API + `, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    backendRefs: [` + to + world.API + `}]
  - matches: [{path: {value: /split}}]
    backendRefs:
    - ` + to + world.API + `, weight: 4}
    - ` + to + world.API2 + `}
  - matches: [{path: {value: /nobody}}]
    backendRefs: [` + to + world.Stranger + `}]
  - matches: [{path: {value: /none}}]
`}, nil)
	url := func(path string) string { return "http://" + world.GoogleAPIs + path }
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/a/x", 200, `"origin":"api.example.com"`},
		{"/a/b/x", 200, `"origin":"api2.example.com"`},
		{"/ab", 404, ""},
		{"/rewritten/x", 200, `"host":"api.example.com","path":"/x"`},
		{"/none", 500, ""},
	} {
		if a := n.curl(t, n.in, url(c.path)); a.status != c.status || !strings.Contains(a.body, c.body) {
			t.Errorf("%s: %+v, want %d with %s", c.path, a, c.status, c.body)
		}
		if a := n.curl(t, nil, url(c.path)); a.status != 200 || !strings.Contains(a.body, `"origin":"www.googleapis.com"`) {
			t.Errorf("uncaptured %s: %+v", c.path, a)
		}
	}
	if a := n.curl(t, n.in, url("/moved/x")); a.status != 302 || a.location != "http://"+world.API+"/new/x" {
		t.Errorf("redirect: %+v", a)
	}
	n.noWire(t, func() {
		if a := n.curl(t, n.in, url("/nobody")); a.status != 500 {
			t.Errorf("a backend that nobody declares: %+v, want 500", a)
		}
	}, world.StrangerV4, world.StrangerV6)
	// The hosts of the ServiceEntry that the route does not name have no rules.
	if a := n.curl(t, n.in, "http://"+world.API+"/ab"); a.status != 200 {
		t.Errorf("a host without a route: %+v", a)
	}
	t.Run("weights", func(t *testing.T) { weights(t, n, url) })
}
