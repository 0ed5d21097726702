// SPDX-License-Identifier: Apache-2.0

//go:build node

package nodetest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// gatewayManifest is what an operator applies after manifest, for the way in.
const gatewayManifest = "deploy/kubernetes/gateway.yaml"

const (
	istioPort = 80 // one that takes a capability
	apiPort   = 8080
	shop      = "shop.example"
)

// shopGateways lead from both kinds of Gateways to the Service server, whose port is not
// its pod's. The Gateway infra/edge is the one that gatewayManifest serves.
const shopGateways = `---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop, namespace: NAMESPACE}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: elsewhere, namespace: NAMESPACE}
spec:
  selector: {istio: another}
  servers: [{port: {number: 8081, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bad, namespace: NAMESPACE}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8082, name: http, protocol: NONSENSE}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: NAMESPACE}
spec:
  hosts: [shop.example]
  gateways: [shop, elsewhere]
  http: [{route: [{destination: {host: server.NAMESPACE.svc.cluster.local, port: {number: 80}}}]}]
---
apiVersion: v1
kind: Namespace
metadata: {name: infra}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  gatewayClassName: egressd
  addresses: [{type: IPAddress, value: "` + world.NodeV4 + `"}, {type: IPAddress, value: "` + world.NodeV6 + `"}]
  listeners: [{name: http, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: NAMESPACE}
spec:
  parentRefs: [{name: edge, namespace: infra}]
  hostnames: [shop.example]
  rules: [{backendRefs: [{name: server, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: NAMESPACE}
spec:
  parentRefs: [{name: edge, namespace: infra, sectionName: nowhere}]
  hostnames: [lost.example]
  rules: [{backendRefs: [{name: server, port: 80}]}]
`

// entrances are where somebody outside of the node reaches its Gateways.
func entrances(ports ...uint16) (out []netip.AddrPort) {
	for _, port := range ports {
		for _, node := range []string{world.NodeV4, world.NodeV6} {
			out = append(out, netip.AddrPortFrom(netip.MustParseAddr(node), port))
		}
	}
	return out
}

// visitor is a client outside of the node: whatever it asks for, it asks there.
func (n *Node) visitor(at netip.AddrPort, fresh bool) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: fresh,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return n.World.Net.Dial(ctx, network, at)
		},
	}}
}

// visit asks for a host; the error is nil if the answer has the status and, with 200,
// is the pod's.
func visit(c *http.Client, host string, want int) error { return get(c, "http://"+host+"/", want) }

func get(c *http.Client, url string, want int) error {
	res, err := c.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != want || want == http.StatusOK && strings.TrimSpace(string(body)) != "server") {
		err = fmt.Errorf("%s: %s: %q, want %d", url, res.Status, body, want)
	}
	return err
}

// shopWithGateways is the node with the way in, the shop's pod and its Gateways. At the
// end of the test nobody listens for Gateways any more.
func shopWithGateways(t *testing.T) (n *Node, ns string) {
	t.Helper()
	n = withEgressd(t)
	ns = n.Namespace(t, "enforce")
	t.Cleanup(func() {
		n.MustKubectl(t, "delete", "namespace", "infra", "--ignore-not-found", "--timeout=90s")
		if err := n.deploy(manifest); err != nil {
			t.Fatal(err)
		}
		n.MustKubectl(t, "delete", "gatewayclass", "egressd", "--ignore-not-found")
		for _, at := range entrances(istioPort, apiPort) {
			Eventually(t, 30*time.Second, func() error { return n.nobodyListens(t, at) })
		}
	})
	n.Apply(t, strings.ReplaceAll(server+shopGateways, "NAMESPACE", ns)+
		Pod{Namespace: ns, Name: "server", Command: []string{"serve", ":8080"}}.YAML())
	n.WaitReady(t, ns, "server")
	// The twin: the node itself serves nobody.
	for _, at := range entrances(istioPort, apiPort) {
		if err := n.nobodyListens(t, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.deploy(gatewayManifest); err != nil {
		t.Fatal(err)
	}
	for _, at := range entrances(istioPort, apiPort) {
		Eventually(t, 30*time.Second, func() error { return visit(n.visitor(at, true), shop, http.StatusOK) })
	}
	return n, ns
}

// nobodyListens is nil if the node refuses a connection.
func (n *Node) nobodyListens(t *testing.T, at netip.AddrPort) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // also when the test ends
	defer cancel()
	conn, err := n.World.Net.Dial(ctx, "tcp", at)
	if err == nil {
		conn.Close()
		return fmt.Errorf("somebody listens at %s", at)
	}
	if !strings.Contains(err.Error(), "refused") {
		return err
	}
	return nil
}

// TestGateways: the node's ports lead to a Service for Istio's Gateways by their labels
// and for the Gateway API's by their class; what no route is for gets 404, and Gateways of
// others get no port. The statuses say so.
func TestGateways(t *testing.T) {
	n, ns := shopWithGateways(t)
	for _, at := range entrances(istioPort, apiPort) {
		for _, host := range []string{"unknown.example", "lost.example"} {
			if err := visit(n.visitor(at, true), host, http.StatusNotFound); err != nil {
				t.Errorf("%s: %v", at, err)
			}
		}
	}
	for _, at := range entrances(8081, 8082) {
		if err := n.nobodyListens(t, at); err != nil {
			t.Error(err)
		}
	}
	const (
		edge       = "gateways.gateway.networking.k8s.io/edge"
		conditions = "{range .status.conditions[*]}{.type}={.status} {end}"
		parents    = "{range .status.parents[*].conditions[*]}{.type}={.status} {end}"
	)
	for _, tt := range []struct{ namespace, object, path, want string }{
		{"", "gatewayclass/egressd", conditions, "Accepted=True"},
		{"infra", edge, conditions, "Accepted=True Programmed=True ResolvedRefs=True"},
		{"infra", edge, "{.status.addresses[*].value}", world.NodeV4 + " " + world.NodeV6},
		{"infra", edge, "{.status.listeners[*].name} {.status.listeners[*].attachedRoutes}", "http 1"},
		{ns, "httproute/shop", parents, "Accepted=True ResolvedRefs=True"},
		{ns, "httproute/lost", parents, "Accepted=False ResolvedRefs=True"},
		{ns, "gateways.networking.istio.io/shop", "{.status.conditions}", ""},
		{ns, "gateways.networking.istio.io/bad", conditions, "egressd.dev/Accepted=False"},
	} {
		Eventually(t, 60*time.Second, func() error {
			args := []string{"get", tt.object, "-o", "jsonpath=" + tt.path}
			if tt.namespace != "" {
				args = append(args, "-n", tt.namespace)
			}
			got, err := n.Kubectl("", args...)
			if got = strings.TrimSpace(got); err == nil && got != tt.want {
				err = fmt.Errorf("%s: %s is %q, want %q", tt.object, tt.path, got, tt.want)
			}
			return err
		})
	}
	n.mayAll(t)
}

// TestGatewaysRolledUnderLoad: the DaemonSet is rolled without one request from outside
// that fails, by connections that are kept and by new ones. The twin is a daemon that is
// killed: until the kubelet has started another one, requests fail.
func TestGatewaysRolledUnderLoad(t *testing.T) {
	n, _ := shopWithGateways(t)
	rolled := n.visited(t, func() {
		before := n.process(t)
		n.MustKubectl(t, "-n", system, "rollout", "restart", "daemonset")
		if err := n.rollout(); err != nil {
			t.Error(err)
		}
		if after := n.process(t); after == before {
			t.Error("the daemon is the one of before")
		}
		// The one of before has drained.
		Eventually(t, 60*time.Second, func() error {
			running, err := n.egressds()
			if err == nil && len(running) != 1 {
				err = fmt.Errorf("%d processes of egressd run", len(running))
			}
			return err
		})
	})
	// The container of before does not take over back, which would end the new one. Its
	// pod may be there for a moment after its process.
	if out := n.MustKubectl(t, "-n", system, "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); strings.Trim(out, "0 ") != "" || out == "" {
		t.Errorf("containers of egressd were started again: %s", out)
	}
	for _, v := range rolled {
		if len(v.failed) > 0 {
			t.Errorf("%s: of %d requests %d failed, first %s, last %s", v.at, v.ok+len(v.failed), len(v.failed), v.failed[0], v.failed[len(v.failed)-1])
		}
	}
	for _, v := range n.visited(t, func() { n.killEgressd(t) }) {
		if len(v.failed) == 0 {
			t.Errorf("%s: the daemon was killed, and none of %d requests failed", v.at, v.ok)
		}
	}
}

// visited runs f while clients outside of the node ask for the shop at all entrances, and
// then until each has got one more answer.
func (n *Node) visited(t *testing.T, f func()) (all []*visits) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var visitors sync.WaitGroup
	defer visitors.Wait()
	defer stop()
	goesOn := func() {
		for _, v := range all {
			before := v.answers()
			Eventually(t, 60*time.Second, func() error { return more(v.answers(), before) })
		}
	}
	for _, at := range entrances(istioPort, apiPort) {
		for _, fresh := range []bool{false, true} {
			v := &visits{at: fmt.Sprintf("%s (new connections: %t)", at, fresh), client: n.visitor(at, fresh)}
			all = append(all, v)
			visitors.Go(func() { v.run(ctx) })
		}
	}
	goesOn()
	f()
	goesOn()
	return all
}

// process is that of the daemon.
func (n *Node) process(t *testing.T) string {
	t.Helper()
	pid, err := n.egressd()
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// visits asks for the shop again and again.
type visits struct {
	at     string
	client *http.Client

	mu     sync.Mutex
	ok     int
	failed []string // read when run has ended
}

func (v *visits) run(ctx context.Context) {
	defer v.client.CloseIdleConnections()
	for pause := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; {
		err := visit(v.client, shop, http.StatusOK)
		v.mu.Lock()
		if err == nil {
			v.ok++
		} else {
			v.failed = append(v.failed, time.Now().UTC().Format("15:04:05.000 ")+err.Error())
		}
		v.mu.Unlock()
		select {
		case <-ctx.Done():
			pause.Stop()
		case <-pause.C:
		}
	}
}

// answers counts those that did not fail.
func (v *visits) answers() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ok
}
