// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// TestMirrorIsGateway: copies for an egress gateway reach what its rules lead them
// to, in both families, and nothing of them leaves the node where the gateway's guard
// denies them.
func TestMirrorIsGateway(t *testing.T) {
	t.Parallel()
	const service = "istio-egressgateway.istio-system.svc.cluster.local"
	var copies [2]*world.Origin
	addrs := [2]string{"198.18.7.4", "2001:db8:7::4"}
	families := [2]string{"/four", "/six"}
	config := hosts("sites", world.GoogleAPIs, "copies4.example", "copies6.example", "closed.example") + `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress}
spec:
  selector: {istio: egressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [` + world.GoogleAPIs + `]}
---
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  ports: [{name: http, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  action: DENY
  rules: [{to: [{operation: {paths: [/closed]}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: via}
spec:
  hosts: [` + world.GoogleAPIs + `]
  gateways: [mesh, egress]
  http:
  - match: [{gateways: [mesh], uri: {exact: /plain}}]
    route: [{destination: {host: ` + world.GoogleAPIs + `}}]
  - match: [{gateways: [mesh]}]
    route: [{destination: {host: ` + world.GoogleAPIs + `}}]
    mirrors: [{destination: {host: ` + service + `, port: {number: 80}}}]
  - match: [{gateways: [egress], uri: {exact: /four}}]
    route: [{destination: {host: copies4.example}}]
  - match: [{gateways: [egress], uri: {exact: /six}}]
    route: [{destination: {host: copies6.example}}]
  - match: [{gateways: [egress]}]
    route: [{destination: {host: closed.example}}]
---
`
	n := start(t, map[string]string{"policy.yaml": config}, func(w *world.World) {
		for i, c := range []world.OriginConfig{
			{Names: []string{"copies4.example"}, V4: netip.MustParseAddr(addrs[0])},
			{Names: []string{"copies6.example"}, V6: netip.MustParseAddr(addrs[1])},
			{Names: []string{"closed.example"}, V4: netip.MustParseAddr("198.18.7.5"), V6: netip.MustParseAddr("2001:db8:7::5")},
		} {
			o, err := w.AddOrigin(c)
			if err != nil {
				t.Fatal(err)
			}
			if i < len(copies) {
				copies[i] = o
			}
		}
	})
	url := "http://" + world.GoogleAPIs
	get := func(path string) {
		t.Helper()
		if a := n.curl(t, n.in, url+path); a.status != 200 {
			t.Errorf("%s: %+v", path, a)
		}
	}
	n.noWire(t, func() {
		get("/closed")
		e := n.event(t, "the copy that is denied", func(e flow.Event) bool { return e.Kind == flow.Mirror && e.Path == "/closed" })
		if e.Allowed || e.Reason != policy.ReasonAuthorization || e.Name != service {
			t.Errorf("event %+v", e)
		}
		// The twin: a rule without a mirror copies nothing.
		get("/plain")
		n.event(t, "the request without a mirror", func(e flow.Event) bool { return e.Kind == flow.Request && e.Path == "/plain" })
	}, addrs[0], addrs[1], "198.18.7.5", "2001:db8:7::5")
	for i, path := range families {
		get(path)
		eventually(t, 10*time.Second, "one copy", func() bool { return copies[i].Hits() == 1 })
		e := n.event(t, "the copy", func(e flow.Event) bool { return e.Kind == flow.Mirror && e.Path == path })
		if !e.Allowed || e.Status != 200 || e.Gateway != "default/egress" || e.Upstream.Addr() != netip.MustParseAddr(addrs[i]) {
			t.Errorf("event %+v", e)
		}
	}
}
