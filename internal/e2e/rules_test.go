// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// TestMirrorCORSAndRetries: one rule with all three, and what curl and the origins
// see of it.
func TestMirrorCORSAndRetries(t *testing.T) {
	t.Parallel()
	config := hosts("sites", world.GoogleAPIs, world.API) + rules(`
  - match: [{uri: {prefix: /shop/, }}]
    rewrite: {uri: /}
    retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}
    mirrors:
    - destination: {host: api.example.com}
    - {destination: {host: inside}, percentage: {value: 100}}
    corsPolicy:
      allowOrigins: [{exact: "https://shop.example"}]
      allowMethods: [GET, PUT]
      exposeHeaders: [x-seen]
      maxAge: 60s
    route: [{destination: {host: www.googleapis.com}}]
`) + `apiVersion: v1
kind: Service
metadata: {name: inside}
spec:
  clusterIP: None
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: inside}
subsets:
- addresses: [{ip: ` + world.StrangerV4 + `}]
  ports: [{name: http, port: 80}]
`
	n := start(t, map[string]string{"policy.yaml": config}, nil)
	url := "http://" + world.GoogleAPIs + "/shop/flaky?key=m&n=2"
	origin := []string{"-i", "-H", "Origin: https://shop.example"}
	n.noWire(t, func() {
		hits, copies := n.GoogleAPIs.Hits(), n.API.Hits()
		a := n.curl(t, n.in, append(origin, "-d", "a body", url)...)
		if a.status != 200 || !strings.Contains(a.body, "Access-Control-Allow-Origin: https://shop.example\r\n") ||
			!strings.Contains(a.body, "Access-Control-Expose-Headers: x-seen\r\n") || strings.Contains(a.body, "Server: egressd") {
			t.Errorf("%+v", a)
		}
		if got := n.GoogleAPIs.Hits() - hits; got != 3 {
			t.Errorf("%d requests reached the origin, want 3", got)
		}
		eventually(t, 10*time.Second, "one copy", func() bool { return n.API.Hits() == copies+1 })
		e := n.event(t, "the copy", func(e flow.Event) bool { return e.Kind == flow.Mirror && e.Name == world.API && e.Status != 0 })
		if e.Path != "/shop/flaky" || e.BytesSent != int64(len("a body")) || !e.Allowed || e.Reason != policy.ReasonAllowed {
			t.Errorf("event %+v", e)
		}
		e = n.event(t, "the copy that is denied", func(e flow.Event) bool { return e.Kind == flow.Mirror && !e.Allowed })
		if e.Reason != policy.ReasonName {
			t.Errorf("event %+v", e)
		}
		// A preflight reaches no origin.
		hits, copies = n.GoogleAPIs.Hits(), n.API.Hits()
		a = n.curl(t, n.in, append(origin, "-X", "OPTIONS", "-H", "Access-Control-Request-Method: PUT", url)...)
		if a.status != 200 || !strings.Contains(a.body, "Access-Control-Allow-Methods: GET,PUT\r\n") ||
			!strings.Contains(a.body, "Access-Control-Max-Age: 60\r\n") || !strings.Contains(a.body, "Server: egressd\r\n") {
			t.Errorf("preflight: %+v", a)
		}
		if n.GoogleAPIs.Hits() != hits || n.API.Hits() != copies {
			t.Error("the preflight reached an origin")
		}
	}, world.StrangerV4, world.StrangerV6)
	// What fails for good says so.
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs+"/shop/flaky?key=n&n=9"); a.status != 503 {
		t.Errorf("%+v", a)
	}
	if e := n.event(t, "the retries that ran out", func(e flow.Event) bool { return e.Kind == flow.Request && e.Status == 503 }); e.ResponseFlags != "URX" || e.Retries != 3 {
		t.Errorf("event %+v", e)
	}
	// The twin: without egressd the origin's answers are all there is.
	copies := n.API.Hits()
	if a := n.curl(t, nil, append(origin, "http://"+world.GoogleAPIs+"/flaky?key=o&n=1")...); a.status != 503 || strings.Contains(a.body, "Access-Control") {
		t.Errorf("uncaptured: %+v", a)
	}
	if n.API.Hits() != copies {
		t.Error("a copy of what is not captured")
	}
}
