// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"fmt"
	"strings"
	"testing"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy/istio"
)

// gatewayObjectsOf are a Gateway with routes of all kinds, in a namespace.
const gatewayObjectsOf = `
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: %[1]s}, spec: {controllerName: egressd.dev/gateway}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: %[1]s}, spec: {gatewayClassName: %[1]s, listeners: [
  {name: http, port: 80, protocol: HTTP}, {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}},
  {name: tls, port: 8443, protocol: TLS, hostname: '*.example.com', tls: {mode: Passthrough}}, {name: tcp, port: 3306, protocol: TCP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: %[1]s}, spec: {
  parentRefs: [{name: gw}, {group: networking.istio.io, kind: ServiceEntry, name: api}], rules: [{backendRefs: [{name: none, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: web, namespace: %[1]s}, spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: none, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: web, namespace: %[1]s}, spec: {
  parentRefs: [{name: gw}], hostnames: [web.example.com], rules: [{backendRefs: [{name: none, port: 443}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: else, namespace: %[1]s}, spec: {
  parentRefs: [{name: gw}], hostnames: [web.example.org], rules: [{backendRefs: [{name: none, port: 443}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: web, namespace: %[1]s}, spec: {parentRefs: [{name: gw, sectionName: tcp}], rules: [{backendRefs: [{name: none, port: 3306}]}]}}`

// conditionsOf writes the conditions of an object, of its listeners, and of its
// parents.
func conditionsOf(o *unstructured.Unstructured) string {
	out := ""
	parents, _, _ := unstructured.NestedSlice(o.Object, "status", "parents")
	listeners, _, _ := unstructured.NestedSlice(o.Object, "status", "listeners")
	for _, e := range append([]any{o.Object["status"]}, append(listeners, parents...)...) {
		m, _ := e.(map[string]any)
		list, _ := m["conditions"].([]any)
		if len(list) == 0 {
			continue
		}
		switch {
		case m["controllerName"] != nil:
			out += fmt.Sprintf("%s:", m["controllerName"])
		case m["name"] != nil:
			out += fmt.Sprintf("%s has %v:", m["name"], m["attachedRoutes"])
		}
		for _, c := range list {
			m, _ := c.(map[string]any)
			out += fmt.Sprintf(" %s=%s(%s)", m["type"], m["status"], m["reason"])
		}
		out += "\n"
	}
	return out
}

// TestGatewayStatus: with the rights of the documented role a class, a Gateway and
// routes of all kinds say what is served, beside what another controller says.
func TestGatewayStatus(t *testing.T) {
	s := newSite(t)
	s.InstallGatewayAPI(t)
	s.entry(t, "api")
	s.Apply(t, fmt.Sprintf(gatewayObjectsOf, s.ns))
	admin, err := dynamic.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	o := s.object(t, "httproute", "web")
	o.Object["status"] = map[string]any{"parents": []any{map[string]any{
		"controllerName": "istio.io/mesh-controller", "parentRef": map[string]any{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "api"},
		"conditions": []any{map[string]any{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}},
	}}}
	httpRoutes := schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}
	if _, err := admin.Resource(httpRoutes).Namespace(s.ns).UpdateStatus(t.Context(), o, meta.UpdateOptions{FieldManager: "istiod"}); err != nil {
		t.Fatal(err)
	}
	p := s.run(t, node{})
	s.Kubectl(t, "wait", "gatewayclass/"+s.ns, "--for=condition=Accepted", "--timeout=30s")
	if got := s.Kubectl(t, "get", "gatewayclass/"+s.ns, "-o", "jsonpath={.status.supportedFeatures[*].name}"); !strings.HasPrefix(got, "GRPCRoute ") || !strings.HasSuffix(got, " TLSRouteModeTerminate") {
		t.Errorf("the class says that it has the features %q", got)
	}
	s.Kubectl(t, "wait", "-n", s.ns, "gateway/gw", "--for=condition=Accepted", "--timeout=30s")
	says := func(kind, name, want string) {
		t.Helper()
		var got string
		defer func() {
			if got != want {
				t.Logf("%s %s says\n%s\nwant\n%s", kind, name, got, want)
			}
		}()
		testenv.Until(t, "the API server has it", func() bool { got = conditionsOf(s.object(t, kind, name)); return got == want })
	}
	says("gateway", "gw", ` Accepted=True(Accepted) Programmed=False(AddressNotAssigned) ResolvedRefs=False(ListenersNotResolved)
http has 2: Accepted=True(Accepted) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs) Conflicted=False(NoConflicts)
https has 2: Accepted=True(Accepted) Programmed=False(Invalid) ResolvedRefs=False(InvalidCertificateRef) Conflicted=False(NoConflicts)
tls has 1: Accepted=True(Accepted) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs) Conflicted=False(NoConflicts)
tcp has 1: Accepted=True(Accepted) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs) Conflicted=False(NoConflicts)
`)
	const dangles = "egressd.dev/gateway: Accepted=True(Accepted) ResolvedRefs=False(BackendNotFound)\n"
	const good = "egressd.dev/gateway: Accepted=True(Accepted) ResolvedRefs=True(ResolvedRefs)\n"
	const mesh = "istio.io/mesh-controller: Accepted=True(Accepted)\n"
	says("httproute", "web", mesh+dangles+good)
	for _, kind := range []string{"grpcroute", "tlsroute", "tcproute"} {
		says(kind, "web", dangles)
	}
	says("tlsroute", "else", "egressd.dev/gateway: Accepted=False(NoMatchingListenerHostname) ResolvedRefs=False(BackendNotFound)\n")
	version := func() string {
		return s.object(t, "gatewayclass", s.ns).GetResourceVersion() + s.object(t, "httproute", "web").GetResourceVersion() + s.object(t, "tcproute", "web").GetResourceVersion() + s.object(t, "gateway", "gw").GetResourceVersion()
	}
	was := version()
	s.rounds(t, 3)
	if now := version(); now != was {
		t.Errorf("statuses are written again: %+v", p.Stats())
	}
	// A Service that comes is noticed, an address that is written, a route that the
	// policy's reader refuses, and a parent that goes.
	s.Apply(t, fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: none, namespace: %s}, spec: {ports: [{port: 80}]}}`, s.ns))
	says("httproute", "web", mesh+good+good)
	says("tcproute", "web", good)
	s.Kubectl(t, "patch", "-n", s.ns, "gateway", "gw", "--type=merge", "-p", `{"spec":{"addresses":[{"value":"192.0.2.1"}]}}`)
	s.Kubectl(t, "wait", "-n", s.ns, "gateway/gw", "--for=condition=Programmed", "--timeout=30s")
	s.Kubectl(t, "wait", "-n", s.ns, "gateway/gw", "--for=jsonpath={.status.addresses[0].value}=192.0.2.1", "--timeout=30s")
	s.set(finding(istio.Error, "GRPCRoute/"+s.ns+"/web", "EGD0955", "e"))
	says("grpcroute", "web", "egressd.dev/gateway: Accepted=False(UnsupportedValue) ResolvedRefs=True(ResolvedRefs)\n")
	testenv.Until(t, "the API server has it", func() bool { return strings.Contains(conditionsOf(s.object(t, "gateway", "gw")), "http has 1:") })
	says("tlsroute", "web", good)
	s.Kubectl(t, "patch", "-n", s.ns, "httproute", "web", "--type=json", "-p", `[{"op":"remove","path":"/spec/parentRefs/0"}]`)
	says("httproute", "web", mesh+good)
}

// TestGatewayWithoutClass: a Gateway of the class egressd is served though nobody
// has made that class.
func TestGatewayWithoutClass(t *testing.T) {
	s := newSite(t)
	s.InstallGatewayAPI(t)
	s.Apply(t, fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: %s}, spec: {gatewayClassName: egressd, listeners: [{name: http, port: 80, protocol: HTTP}]}}`, s.ns))
	s.run(t, node{})
	s.Kubectl(t, "wait", "-n", s.ns, "gateway/gw", "--for=condition=Accepted", "--timeout=30s")
	message := s.Kubectl(t, "get", "-n", s.ns, "gateway/gw", "-o", `jsonpath={.status.conditions[?(@.type=="Programmed")].message}`)
	if want := "--gateway-selector gateway.networking.k8s.io/gateway-name=gw,egressd.dev/gateway-namespace=" + s.ns; !strings.Contains(message, want) {
		t.Errorf("%q does not have %q", message, want)
	}
}
