// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// productpage is the Service behind the seed's Gateway.
const productpage = `apiVersion: v1
kind: Service
metadata:
  name: productpage
spec:
  selector: {app: productpage}
  ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: Endpoints
metadata:
  name: productpage
subsets:
- addresses: [{ip: 10.96.7.80}]
  ports: [{name: http, port: 9080}]
`

// visit is curl from the internet to the node.
func (n *node) visit(t *testing.T, args ...string) answer {
	t.Helper()
	testenv.RequireTool(t, "curl")
	c := n.Net.Command(t.Context(), nil, "curl", append([]string{"-q", "-sS", "--noproxy", "*", "--max-time", "20", "-w", "\n%{http_code}"}, args...)...)
	e := finish(t, c)
	body, code := "", e.stdout
	if i := strings.LastIndexByte(e.stdout, '\n'); i >= 0 {
		body, code = e.stdout[:i], e.stdout[i+1:]
	}
	a := answer{exit: e.code, body: strings.TrimSuffix(body, "\n"), stderr: e.stderr}
	if err := json.Unmarshal([]byte(code), &a.status); err != nil {
		a.status = 0 // "000": no answer
	}
	return a
}

func TestBookinfoGateway(t *testing.T) {
	t.Parallel()
	config := seed(t, "bookinfo-gateway.yaml")
	config["productpage.yaml"] = productpage
	var origin *world.Origin
	n := start(t, config, func(w *world.World) {
		var err error
		origin, err = w.AddOrigin(world.OriginConfig{
			Names: []string{"productpage.example"}, V4: netip.MustParseAddr("10.96.7.80"), HTTP: []uint16{9080}, HTTPS: []uint16{},
		})
		if err != nil {
			t.Fatal(err)
		}
	}, "--gateway-selector", "istio=ingressgateway")
	routed := []string{"/productpage", "/static", "/static/css/x.css", "/login", "/logout", "/api/v1/products", "/api/v1/products/0/reviews"}
	unrouted := []string{"/", "/productpage/", "/productpages", "/Productpage", "/login/x", "/api/v1", "/admin", "/%2e%2e/productpage"}
	for _, node := range []string{"http://" + world.NodeV4, "http://[" + world.NodeV6 + "]"} {
		for _, path := range routed {
			a := n.visit(t, node+path)
			var e world.Echo
			if err := json.Unmarshal([]byte(a.body), &e); a.status != 200 || err != nil || e.Path != path || e.Origin != origin.Name {
				t.Errorf("%s%s: %+v, %v", node, path, a, err)
			}
		}
		before := origin.Hits()
		for _, path := range unrouted {
			if a := n.visit(t, "--path-as-is", node+path); a.status != 404 {
				t.Errorf("%s%s: %+v, want 404", node, path, a)
			}
		}
		if hits := origin.Hits() - before; hits != 0 {
			t.Errorf("%d requests without a route reached the Service", hits)
		}
	}
	// A route that is added is there at once; the others stay.
	text := seed(t, "bookinfo-gateway.yaml")["bookinfo-gateway.yaml"]
	n.write(t, "bookinfo-gateway.yaml", strings.Replace(text, "exact: /login\n", "exact: /signin\n", 1))
	eventually(t, soon, "the new route is in force", func() bool { return n.visit(t, "http://"+world.NodeV4+"/signin").status == 200 })
	for path, status := range map[string]int{"/login": 404, "/logout": 200} {
		if a := n.visit(t, "http://["+world.NodeV6+"]"+path); a.status != status {
			t.Errorf("after the change, %s: %+v, want %d", path, a, status)
		}
	}
	if s := n.status(t); len(s.Gateway) == 0 {
		t.Errorf("status shows no listener of the gateway: %+v", s)
	}
	// A Gateway opens the way in, not the way out: the workload may not use
	// its Service.
	if p := n.probe(t, n.in, "dial", "10.96.7.80:9080"); p.Error == "" {
		t.Error("the Gateway's Service is open to the workload")
	}
	if p := n.probe(t, nil, "dial", "10.96.7.80:9080"); p.Error != "" {
		t.Errorf("uncaptured: %+v", p)
	}
}
