// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// apiGateway is the same entrance as the seed's Gateway in the Gateway API.
const apiGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  gatewayClassName: egressd
  listeners:
  - {name: web, port: 80, protocol: HTTP, hostname: '*.shop.example', allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {edge: open}}}}}
  - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {edge: open}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: books}
spec:
  parentRefs: [{name: edge, namespace: infra}]
  hostnames: [books.shop.example]
  rules:
  - matches: [{path: {type: PathPrefix, value: /api}}]
    backendRefs: [{name: productpage, port: 9080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: books}
spec:
  parentRefs: [{name: edge, namespace: infra}]
  hostnames: [productpage.example]
  rules: [{backendRefs: [{name: productpage, port: 9443}]}]
`

func TestGatewayAPI(t *testing.T) {
	t.Parallel()
	service := strings.ReplaceAll(productpage, "[{name: http, port: 9080}]", "[{name: http, port: 9080}, {name: tls, port: 9443}]")
	config := map[string]string{"gateway.yaml": apiGateway, "productpage.yaml": service}
	n := start(t, config, func(w *world.World) {
		if _, err := w.AddOrigin(world.OriginConfig{
			Names: []string{"productpage.example"}, V4: netip.MustParseAddr("10.96.7.80"), HTTP: []uint16{9080}, HTTPS: []uint16{9443},
		}); err != nil {
			t.Fatal(err)
		}
	}, "--gateway-selector", "gateway.networking.k8s.io/gateway-name=edge,egressd.dev/gateway-namespace=infra")
	nodes := []string{world.NodeV4, "[" + world.NodeV6 + "]"}
	for _, node := range nodes {
		a := n.visit(t, "-H", "Host: books.shop.example", "http://"+node+"/api/x")
		var e world.Echo
		if err := json.Unmarshal([]byte(a.body), &e); a.status != 200 || err != nil || e.Path != "/api/x" {
			t.Errorf("%s: %+v, %v", node, a, err)
		}
		for _, request := range [][]string{{"books.shop.example", "/apis"}, {"other.shop.example", "/api"}, {"books.example", "/api"}} {
			if a := n.visit(t, "-H", "Host: "+request[0], "http://"+node+request[1]); a.status != 404 {
				t.Errorf("%s %v: %+v, want 404", node, request, a)
			}
		}
		a = n.visit(t, "-k", "--connect-to", "productpage.example:443:"+node+":443", "https://productpage.example/")
		if a.status != 200 {
			t.Errorf("%s: TLS that is passed through: %+v", node, a)
		}
		if a := n.visit(t, "-k", "--connect-to", "other.example:443:"+node+":443", "https://other.example/"); a.status != 0 {
			t.Errorf("%s: TLS for a name without a route: %+v", node, a)
		}
	}
	// The label of a namespace opens the listener, and closes it again.
	n.write(t, "gateway.yaml", strings.Replace(apiGateway, "{edge: open}}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute",
		"{edge: shut}}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute", 1))
	for _, node := range nodes {
		eventually(t, soon, "the namespace's route is detached", func() bool {
			return n.visit(t, "-H", "Host: books.shop.example", "http://"+node+"/api").status == 404
		})
	}
}
