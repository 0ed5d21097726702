// SPDX-License-Identifier: Apache-2.0

package gwstatus

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// cluster are objects, as the policy's reader has them and as statuses are made
// of them.
type cluster struct {
	files []istio.File
	Observed
}

// parse reads documents.
func parse(t *testing.T, text string) *cluster {
	t.Helper()
	services := map[types.NamespacedName]bool{}
	c := &cluster{Observed: Observed{
		Controller: "egressd.dev/gateway", Namespaces: map[string]map[string]string{}, Findings: map[ObjectKey][]istio.Finding{},
		Service:     func(n types.NamespacedName) bool { return services[n] },
		Certificate: func(types.NamespacedName) error { return nil },
	}}
	for doc := range strings.SplitSeq(text, "\n---\n") {
		var about struct {
			APIVersion, Kind string
			Metadata         struct {
				Namespace, Name string
				Labels          map[string]string
			}
		}
		into := func(v any) {
			if err := yaml.Unmarshal([]byte(doc), v); err != nil {
				t.Fatalf("%v\n%s", err, doc)
			}
		}
		into(&about)
		kind := about.Kind
		switch kind {
		case "GatewayClass":
			c.Classes = append(c.Classes, new(gateway.GatewayClass))
			into(c.Classes[len(c.Classes)-1])
		case "Gateway":
			c.Gateways = append(c.Gateways, new(gateway.Gateway))
			into(c.Gateways[len(c.Gateways)-1])
			kind = GatewayKind
		case "ReferenceGrant":
			c.Grants = append(c.Grants, new(gateway.ReferenceGrant))
			into(c.Grants[len(c.Grants)-1])
		case "Namespace":
			c.Namespaces[about.Metadata.Name] = about.Metadata.Labels
		case "Service":
			services[types.NamespacedName{Namespace: about.Metadata.Namespace, Name: about.Metadata.Name}] = true
		case httpRoute:
			r := new(gateway.HTTPRoute)
			into(r)
			c.Routes = append(c.Routes, OfHTTP(r))
		case grpcRoute:
			r := new(gateway.GRPCRoute)
			into(r)
			c.Routes = append(c.Routes, OfGRPC(r))
		case tlsRoute:
			r := new(gateway.TLSRoute)
			into(r)
			c.Routes = append(c.Routes, OfTLS(r))
		case tcpRoute:
			r := new(gateway.TCPRoute)
			into(r)
			c.Routes = append(c.Routes, OfTCP(r))
		default:
			t.Fatalf("kind %s", kind)
		}
		c.files = append(c.files, istio.File{Name: fmt.Sprintf("kubernetes:%s/%s/%s", kind, about.Metadata.Namespace, about.Metadata.Name), Data: []byte(doc)})
	}
	return c
}

// translated is to which listeners the policy has each route attached, as
// "KIND NAMESPACE/NAME => LISTENER", and which listeners there are. A file with an
// error is left out, as the daemon does it.
func (c *cluster) translated(t *testing.T) (attached, listeners []string) {
	t.Helper()
	files := slices.Clone(c.files)
	for {
		r := istio.NewReader(istio.Options{})
		config, findings := r.Load(files)
		if config != nil {
			findings = append(findings, r.Analyze()...)
		}
		bad := map[string]bool{}
		for _, f := range findings {
			parts := strings.Split(strings.TrimPrefix(f.File, "kubernetes:"), "/")
			n := ObjectKey{parts[0], types.NamespacedName{Namespace: parts[1], Name: parts[2]}}
			if f.Severity == istio.Error || len(bad) == 0 && len(files) == len(c.files) {
				c.Findings[n] = append(c.Findings[n], f)
			}
			if f.Severity == istio.Error {
				bad[f.File] = true
			}
		}
		if len(bad) > 0 {
			files = slices.DeleteFunc(files, func(f istio.File) bool { return bad[f.Name] })
			continue
		}
		if config == nil {
			t.Fatal(findings)
		}
		return attachedIn(config), listenersIn(config)
	}
}

func listenersIn(c *policy.Config) (out []string) {
	for _, g := range c.Gateways {
		out = append(out, g.Ref.Namespace+"/"+g.Ref.Name+"/"+g.Listener)
	}
	slices.Sort(out)
	return out
}

func attachedIn(c *policy.Config) (out []string) {
	for _, vs := range c.VirtualServices {
		refs := []policy.Ref{vs.Ref}
		for _, rule := range vs.HTTP { // of several routes
			refs = append(refs, rule.Ref)
		}
		for _, r := range refs {
			for _, l := range vs.Gateways {
				out = append(out, fmt.Sprintf("%s %s/%s => %s", r.Kind, r.Namespace, r.Name, l))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// stated is the same by the statuses of a cluster with one route: of which
// listeners that are at work count it, and which are at work. Counts of the others
// are no matter of traffic.
func (c *cluster) stated(t *testing.T) (attached, listeners []string) {
	t.Helper()
	all := Compute(c.Observed)
	name := c.Routes[0].name()
	for g, status := range all.Gateways {
		for _, l := range status.Listeners {
			key := fmt.Sprintf("%s/%s", g, l.Name)
			if !strings.Contains(said(t, 0, l.Conditions), "Programmed=True") {
				continue
			}
			listeners = append(listeners, key)
			if l.AttachedRoutes > 0 {
				attached = append(attached, fmt.Sprintf("%s %s => %s", name.Kind, name.NamespacedName, key))
			}
		}
	}
	accepted := slices.ContainsFunc(all.Routes[name], func(p gateway.RouteParentStatus) bool {
		return strings.Contains(said(t, 0, p.Conditions), "Accepted=True")
	})
	if accepted != (len(attached) > 0) {
		t.Errorf("accepted is %t, and %d listeners have it: %+v", accepted, len(attached), all.Routes[name])
	}
	slices.Sort(attached)
	slices.Sort(listeners)
	return attached, listeners
}

const ground = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: outside}
spec: {controllerName: egressd.dev/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: theirs}
spec: {controllerName: example.com/other}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  gatewayClassName: outside
  listeners:
  - {name: shop, port: 80, protocol: HTTP, hostname: '*.shop.example', allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {edge: open}}}}}
  - {name: one, port: 80, protocol: HTTP, hostname: one.shop.example, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}}
  - {name: own, port: 80, protocol: HTTP}
  - {name: plain, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: nobody, port: 8081, protocol: HTTP, allowedRoutes: {namespaces: {from: None}}}
  - {name: names, port: 443, protocol: TLS, hostname: '*.shop.example', tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}
  - {name: ended, port: 443, protocol: HTTPS, hostname: b.shop.example, tls: {certificateRefs: [{name: x}]}, allowedRoutes: {namespaces: {from: All}}}
  - {name: bytes, port: 3306, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}
  - {name: datagrams, port: 53, protocol: UDP, allowedRoutes: {namespaces: {from: All}}}
  - {name: half, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: HTTPRoute}, {kind: TCPRoute}]}}
  - {name: clash-a, port: 82, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: clash-b, port: 82, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}
  - {name: over-a, port: 83, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}
  - {name: over-b, port: 83, protocol: HTTPS, tls: {certificateRefs: [{name: x}]}, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: default, namespace: shop}
spec: {gatewayClassName: egressd, listeners: [{name: http, port: 80, protocol: HTTP}, {name: odd, port: 81, protocol: example.com/x}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: shop}
spec: {gatewayClassName: theirs, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: broken, namespace: shop}
spec: {gatewayClassName: egressd, listeners: [{name: http, port: 80, protocol: HTTP}, {name: odd, port: 81, protocol: HTTP, hostname: "*"}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {edge: open}}
---
apiVersion: v1
kind: Namespace
metadata: {name: closed}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: infra}
spec: {clusterIP: 10.96.0.21, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: closed}
spec: {clusterIP: 10.96.0.22, ports: [{name: http, port: 80}]}
`

// TestAgreement: what statuses say of what is attached, and of what listens, is what
// the policy does.
func TestAgreement(t *testing.T) {
	working := []string{
		"infra/edge/bytes", "infra/edge/ended", "infra/edge/half", "infra/edge/names", "infra/edge/nobody", "infra/edge/one", "infra/edge/own", "infra/edge/plain", "infra/edge/shop", "shop/default/http",
	}
	attachedTo := map[string]bool{} // kinds and listeners
	for _, kind := range []string{httpRoute, grpcRoute, tlsRoute, tcpRoute} {
		for _, namespace := range []string{"infra", "shop", "closed", "unknown"} {
			for _, spec := range []string{
				"parentRefs: [{name: edge, namespace: infra}]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: shop}]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: shop}, {name: edge, namespace: infra, sectionName: bytes}]",
				"parentRefs: [{name: edge, namespace: infra, port: 80}]",
				"parentRefs: [{name: edge, namespace: infra, port: 8080, sectionName: own}]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: own}], hostnames: [a.shop.example]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: own}], hostnames: [a.shop.example, b.example]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: own}], hostnames: ['*.example']",
				"parentRefs: [{name: edge, namespace: infra, sectionName: own}], hostnames: ['*.shop.example']",
				"parentRefs: [{name: edge, namespace: infra, sectionName: shop}], hostnames: [one.shop.example]",
				"parentRefs: [{name: edge, namespace: infra, port: 80}], hostnames: [one.shop.example]",
				"parentRefs: [{name: edge, namespace: infra}], hostnames: [a.shop.example]",
				"parentRefs: [{name: edge, namespace: infra}], hostnames: [shop.example]",
				"parentRefs: [{name: edge, namespace: infra, port: 443}], hostnames: [b.shop.example]", // another listener has it for itself
				"parentRefs: [{name: edge, namespace: infra, port: 443}], hostnames: [else.example]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: nobody}]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: ended}]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: datagrams}]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: half}]",
				"parentRefs: [{name: edge, namespace: infra, port: 82}]",
				"parentRefs: [{name: edge, namespace: infra, port: 83}]",
				"parentRefs: [{name: edge, namespace: infra, sectionName: none}]",
				"parentRefs: [{name: edge, namespace: infra}, {name: edge, namespace: infra}]", // an error
				"parentRefs: [{name: edge}]",
				"parentRefs: [{name: default, namespace: shop}]",
				"parentRefs: [{name: other, namespace: shop}]",
				"parentRefs: [{name: broken, namespace: shop}]",
				"parentRefs: [{name: broken, namespace: shop}, {name: edge, namespace: infra, sectionName: plain}]",
			} {
				c := parse(t, fmt.Sprintf(`%s---
apiVersion: gateway.networking.k8s.io/v1
kind: %s
metadata: {name: web, namespace: %s}
spec: {%s, rules: [{backendRefs: [{name: web, port: 80}]}]}`, ground, kind, namespace, spec))
				does, listens := c.translated(t)
				says, works := c.stated(t)
				if !slices.Equal(does, says) || t.Failed() {
					t.Errorf("%s of %s: %s\nattached to %q\nstatuses say  %q", kind, namespace, spec, does, says)
				}
				if !slices.Equal(listens, working) || !slices.Equal(works, working) {
					t.Fatalf("there are listeners\n%q, statuses say\n%q, want\n%q", listens, works, working)
				}
				for _, a := range does {
					what, to, _ := strings.Cut(a, " => ")
					attachedTo[strings.Fields(what)[0]+" "+to] = true
				}
			}
		}
	}
	for _, want := range []string{
		"HTTPRoute infra/edge/own", "HTTPRoute infra/edge/shop", "GRPCRoute infra/edge/one", "GRPCRoute infra/edge/plain", "HTTPRoute infra/edge/half",
		"TLSRoute infra/edge/names", "TCPRoute infra/edge/bytes", "GRPCRoute shop/default/http",
	} {
		if !attachedTo[want] {
			t.Errorf("no case has a %s", want)
		}
	}
}
