// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// TestSidecar: a rule leads to a host that the Sidecar does not show, and
// nothing else does: neither its name nor its address is open by it, over
// either family. What the Sidecar takes out no rule leads to.
func TestSidecar(t *testing.T) {
	t.Parallel()
	const rules = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: behind}
spec:
  hosts: [` + world.API + `]
  http:
  - route: [{destination: {host: ` + world.API2 + `, port: {number: 80}}}]
---
`
	sidecar := func(hosts string) string {
		return "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default}\nspec:\n  egress: [{hosts: [" + hosts + "]}]\n"
	}
	behind := strings.Replace(hosts("behind", world.API2), "name: behind", "name: behind\n  namespace: other", 1)
	n := start(t, map[string]string{"policy.yaml": hosts("shown", world.API) + behind + rules, "sidecar.yaml": sidecar(`"./*"`)}, nil)
	for _, family := range []string{"-4", "-6"} {
		if a := n.curl(t, n.in, family, "http://"+world.API+"/x"); a.status != 200 || !strings.Contains(a.body, `"origin":"api2.example.com"`) {
			t.Errorf("%s by the rule: %+v", family, a)
		}
		addr := world.API2 + ":80:" + n.API2.V4.String()
		if family == "-6" {
			addr = world.API2 + ":80:[" + n.API2.V6.String() + "]"
		}
		for what, args := range map[string][]string{"by name": {family}, "by address": {"--resolve", addr}} {
			args = append(args, "http://"+world.API2+"/x")
			if a := n.curl(t, n.in, args...); a.status != 0 {
				t.Errorf("%s the destination %s: %+v, want nothing", family, what, a)
			}
			if a := n.curl(t, nil, args...); a.status != 200 {
				t.Errorf("%s uncaptured, the destination %s: %+v", family, what, a)
			}
		}
	}
	n.reload(t, "sidecar.yaml", sidecar(`"./*", "~other/*"`))
	n.noWire(t, func() {
		if a := n.curl(t, n.in, "http://"+world.API+"/x"); a.status != 503 {
			t.Errorf("by the rule, taken out: %+v, want 503", a)
		}
	}, n.API2.V4.String(), n.API2.V6.String())
	n.reload(t, "sidecar.yaml", sidecar(`"./*", "other/*"`))
	if a := n.curl(t, n.in, "http://"+world.API2+"/x"); a.status != 200 {
		t.Errorf("shown: %+v", a)
	}
}
