// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// hosts is a ServiceEntry for plain HTTP and HTTPS to hosts.
func hosts(name string, hosts ...string) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: %s
spec:
  hosts: [%s]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: https, protocol: HTTPS}
  resolution: DNS
---
`, name, strings.Join(hosts, ", "))
}

// rules is a VirtualService on www.googleapis.com.
func rules(http string) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: rules
spec:
  hosts: [%s]
  http:
%s---
`, world.GoogleAPIs, http)
}

// TestTimeout counts the seed's timeout, written as a bare 10, from the request.
func TestTimeout(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	var slow, quick answer
	var both sync.WaitGroup
	both.Go(func() { slow = n.curl(t, n.in, "http://"+world.GoogleAPIs+"/slow?d=30s") })
	both.Go(func() { quick = n.curl(t, n.in, "http://"+world.GoogleAPIs+"/slow?d=1s") })
	both.Wait()
	if slow.status != 504 || slow.took < 9900*time.Millisecond || slow.took > 12*time.Second {
		t.Errorf("an origin that takes 30 s: %+v, want 504 after 10 s", slow)
	}
	if quick.status != 200 || quick.took < time.Second {
		t.Errorf("an origin that takes 1 s: %+v", quick)
	}
	// Over HTTPS requests can't be seen, so the connection outlives them.
	if a := n.curl(t, n.in, "https://"+world.GoogleAPIs+"/slow?d=1s"); a.status != 200 {
		t.Errorf("HTTPS: %+v", a)
	}
}

// TestVirtualService has one rule for each thing that a VirtualService can do
// to an external host, told apart by path.
func TestVirtualService(t *testing.T) {
	t.Parallel()
	config := hosts("sites", world.GoogleAPIs, world.API, world.API2) + rules(`
  - match: [{uri: {exact: /slow}}]
    timeout: 1s
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {exact: /flaky}}]
    retries: {attempts: 3, perTryTimeout: 2s, retryOn: 5xx}
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {prefix: /delayed}}]
    fault: {delay: {fixedDelay: 700ms, percentage: {value: 100}}}
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {prefix: /undelayed}}]
    fault: {delay: {fixedDelay: 20s}}
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {prefix: /abort}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {prefix: /moved}}]
    redirect: {uri: /new, authority: api.example.com}
  - match: [{uri: {prefix: /split}}]
    route:
    - {destination: {host: api.example.com}, weight: 80}
    - {destination: {host: api2.example.com}, weight: 20}
  - match: [{uri: {prefix: /elsewhere}}]
    route: [{destination: {host: stranger.example}}]
  - match: [{uri: {prefix: /inside}}]
    route: [{destination: {host: inside}}]
  - match: [{uri: {prefix: /rewritten}}]
    rewrite: {uri: /plain, authority: api.example.com}
    route: [{destination: {host: api.example.com}}]
  - match: [{headers: {x-version: {exact: "2"}}}]
    route: [{destination: {host: api2.example.com}}]
    headers: {request: {set: {x-added: "yes"}}}
  - match: [{uri: {prefix: /default}}]
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
	url := func(path string) string { return "http://" + world.GoogleAPIs + path }
	t.Run("timeout", func(t *testing.T) {
		if a := n.curl(t, n.in, url("/slow?d=30s")); a.status != 504 || a.took < 950*time.Millisecond || a.took > 3*time.Second {
			t.Errorf("%+v, want 504 after 1 s", a)
		}
	})
	t.Run("retries", func(t *testing.T) { retries(t, n, url) })
	t.Run("fault", func(t *testing.T) { fault(t, n, url) })
	t.Run("redirect", func(t *testing.T) {
		before := n.GoogleAPIs.Hits()
		if a := n.curl(t, n.in, url("/moved")); a.status != 301 || a.location != "http://"+world.API+"/new" {
			t.Errorf("%+v", a)
		}
		if n.GoogleAPIs.Hits() != before {
			t.Error("the request reached the origin")
		}
		if a := n.curl(t, n.in, "-L", url("/moved")); a.status != 200 || !strings.Contains(a.body, `"path":"/new"`) {
			t.Errorf("followed: %+v", a)
		}
	})
	t.Run("weights", func(t *testing.T) { weights(t, n, url) })
	t.Run("routes", func(t *testing.T) { routes(t, n, url) })
}

func retries(t *testing.T, n *node, url func(string) string) {
	before := n.GoogleAPIs.Hits()
	if a := n.curl(t, n.in, url("/flaky?key=a&n=2")); a.status != 200 {
		t.Errorf("GET that fails twice: %+v", a)
	}
	if hits := n.GoogleAPIs.Hits() - before; hits != 3 {
		t.Errorf("%d requests reached the origin, want 3", hits)
	}
	before = n.GoogleAPIs.Hits()
	if a := n.curl(t, n.in, url("/flaky?key=b&n=9")); a.status != 503 {
		t.Errorf("GET that always fails: %+v", a)
	}
	if hits := n.GoogleAPIs.Hits() - before; hits != 4 {
		t.Errorf("%d requests reached the origin, want 1 and 3 attempts", hits)
	}
	// The twin: without egressd the client sees the first failure.
	if a := n.curl(t, nil, url("/flaky?key=c&n=1")); a.status != 503 {
		t.Errorf("uncaptured: %+v", a)
	}
}

func fault(t *testing.T, n *node, url func(string) string) {
	if a := n.curl(t, n.in, url("/delayed")); a.status != 200 || a.took < 700*time.Millisecond {
		t.Errorf("delay: %+v", a)
	}
	if a := n.curl(t, n.in, url("/undelayed")); a.status != 200 || a.took > 5*time.Second {
		t.Errorf("delay without a percentage: %+v", a)
	}
	before := n.GoogleAPIs.Hits()
	if a := n.curl(t, n.in, url("/abort")); a.status != 418 {
		t.Errorf("abort: %+v", a)
	}
	if n.GoogleAPIs.Hits() != before {
		t.Error("an aborted request reached the origin")
	}
	if a := n.curl(t, nil, url("/abort")); a.status != 200 {
		t.Errorf("uncaptured: %+v", a)
	}
}

// weights asks 200 times for 80 to 20. The bounds are five standard
// deviations (5.7) wide: a right implementation fails once in two million runs.
func weights(t *testing.T, n *node, url func(string) string) {
	const total, low, high = 200, 132, 188
	api, api2, google := n.API.Hits(), n.API2.Hits(), n.GoogleAPIs.Hits()
	// One curl, one connection: each request is drawn for itself.
	a := n.curl(t, n.in, "-o", "/dev/null", url(fmt.Sprintf("/split?[1-%d]", total)))
	if a.exit != 0 {
		t.Fatalf("%+v", a)
	}
	api, api2, google = n.API.Hits()-api, n.API2.Hits()-api2, n.GoogleAPIs.Hits()-google
	if api+api2 != total || google != 0 || api < low || api > high {
		t.Errorf("%d to %s, %d to %s, %d to %s; want about 160, 40, 0", api, world.API, api2, world.API2, google, world.GoogleAPIs)
	}
}

func routes(t *testing.T, n *node, url func(string) string) {
	tests := []struct {
		args   []string
		status int
		body   string
	}{
		{[]string{url("/default")}, 200, `"origin":"www.googleapis.com"`},
		{[]string{url("/rewritten/x")}, 200, `"host":"api.example.com","path":"/plain/x"`},
		{[]string{"-H", "x-version: 2", url("/y")}, 200, `"origin":"api2.example.com"`},
		{[]string{"-H", "x-version: 2", url("/y")}, 200, `"X-Added":["yes"]`},
		{[]string{url("/nothing-matches")}, 404, ""},
		{[]string{"-H", "Host: " + world.API, url("/x")}, 200, `"origin":"api.example.com"`},
	}
	for _, tt := range tests {
		if a := n.curl(t, n.in, tt.args...); a.status != tt.status || !strings.Contains(a.body, tt.body) {
			t.Errorf("%v: %+v, want %d with %s", tt.args, a, tt.status, tt.body)
		}
	}
	// A destination that nobody declared, and one that is declared but not
	// allowed: a Service of the cluster is no ServiceEntry.
	n.noWire(t, func() {
		if a := n.curl(t, n.in, url("/elsewhere")); a.status != 503 {
			t.Errorf("a destination that nobody declared: %+v, want 503", a)
		}
		if a := n.curl(t, n.in, url("/inside")); a.status != 502 {
			t.Errorf("a destination that is not allowed: %+v, want 502", a)
		}
	}, world.StrangerV4, world.StrangerV6)
	if asked := n.DNS.Asked(world.Stranger); asked != 0 {
		t.Errorf("%d questions about a destination that is not allowed", asked)
	}
	e := n.event(t, "denial of /inside", func(e flow.Event) bool { return !e.Allowed && e.Path == "/inside" })
	if e.Reason != policy.ReasonName || e.Status != 502 {
		t.Errorf("event %+v", e)
	}
}
