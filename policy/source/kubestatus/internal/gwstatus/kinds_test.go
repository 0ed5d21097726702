// SPDX-License-Identifier: Apache-2.0

package gwstatus

import (
	"fmt"
	"strings"
	"testing"
)

// TestKinds: routes of each kind are judged by what they refer to, and grants are
// for the kind that they name.
func TestKinds(t *testing.T) {
	const objects = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: egressd
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}
  - {name: tcp, port: 3306, protocol: TCP}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: other}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: other}
spec: {from: [{group: gateway.networking.k8s.io, kind: %s, namespace: shop}], to: [{group: '', kind: Service}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: %s
metadata: {name: r, namespace: shop}
spec: {parentRefs: [%s], rules: [{backendRefs: [{name: web, port: 80}, %s]}]}`
	const edge, entry = "{name: edge}", "{group: networking.istio.io, kind: ServiceEntry, name: api}"
	const mirror = "{name: web, port: 80, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: none, port: 80}}}]}"
	const good = "Accepted=True, ResolvedRefs=True"
	all := []string{httpRoute, grpcRoute, tlsRoute, tcpRoute}
	for name, c := range map[string]struct {
		kinds                   []string
		grant, parent, to, want string
	}{
		"all is well":       {all, "Other", edge, "{name: web, port: 80}", good},
		"no such Service":   {all, "Other", edge, "{name: none, port: 80}", "Accepted=True, ResolvedRefs=False BackendNotFound"},
		"another kind":      {all, "Other", edge, "{kind: Bucket, name: x, port: 80}", "Accepted=True, ResolvedRefs=False InvalidKind"},
		"granted":           {all, "%s", edge, "{name: web, namespace: other, port: 80}", good},
		"granted to others": {all, "UDPRoute", edge, "{name: web, namespace: other, port: 80}", "Accepted=True, ResolvedRefs=False RefNotPermitted"},
		"a mirror":          {all[:2], "Other", edge, mirror, "Accepted=True, ResolvedRefs=False BackendNotFound"},
		"a ServiceEntry":    {all[1:], "Other", entry, "{name: web, port: 80}", "Accepted=False UnsupportedValue, ResolvedRefs=True"},
	} {
		for _, kind := range c.kinds {
			t.Run(name+"/"+kind, func(t *testing.T) {
				grant := strings.ReplaceAll(c.grant, "%s", kind)
				o := parse(t, fmt.Sprintf(objects, grant, kind, c.parent, c.to)).Observed
				parents := Compute(o).Routes[o.Routes[0].name()]
				if len(parents) != 1 {
					t.Fatalf("%+v", parents)
				}
				if got := said(t, 0, parents[0].Conditions); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			})
		}
	}
}
