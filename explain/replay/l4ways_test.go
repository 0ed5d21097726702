// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// l4Host is a host for TLS and TCP.
const l4Host = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %[1]s}
spec:
  hosts: [%[1]s.example.com]
  ports: [{number: 5432, name: tcp, protocol: TCP}, {number: 443, name: tls, protocol: TLS}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: 192.0.2.1, labels: {version: v1}}, {address: "2001:db8::1", labels: {version: v2}}]
---
`

// l4Policy has hosts for TLS and for TCP, with what decides where connections to them go:
// the rules of the one for TLS and of the one for TCP, and settings of the destinations.
const l4Policy = `apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec: {selector: {istio: egressgateway}, ports: [{name: tls, port: 443}, {name: tcp, port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: way-out}
spec:
  selector: {istio: egressgateway}
  servers:
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [login.example.com], tls: {mode: PASSTHROUGH}}
  - {port: {number: 5432, name: tcp, protocol: TCP}, hosts: [db.example.com]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %[3]s-rule}
spec:
  host: "%[3]s.example.com"
  trafficPolicy: {connectionPool: {tcp: {%[4]s}}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db.example.com]
  gateways: [mesh, way-out]
  tcp:
%[1]s---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: login}
spec:
  hosts: [login.example.com]
  gateways: [mesh, way-out]
  tls:
%[2]s`

// TestL4Ways: a connection whose bytes are not read is told when it goes to another
// destination, subset or egress gateway, or gets another timeout, for TCP and for TLS.
func TestL4Ways(t *testing.T) {
	ref := &policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "db"}
	rule := func(tls bool, to string) string {
		if tls {
			return "  - match: [{gateways: [mesh], port: 443, sniHosts: [login.example.com]}]\n    route: [" + to + "]\n"
		}
		return "  - match: [{gateways: [mesh], port: 5432}]\n    route: [" + to + "]\n"
	}
	out := func(tls bool, to string) string { // what the egress gateway does with what it gets
		if tls {
			return "  - match: [{gateways: [way-out], port: 443, sniHosts: [login.example.com]}]\n    route: [" + to + "]\n"
		}
		return "  - match: [{gateways: [way-out], port: 5432}]\n    route: [" + to + "]\n"
	}
	dest := func(host, more string) string { return "{destination: {host: " + host + more + "}}" }
	hosts := fmt.Sprintf(l4Host, "db") + fmt.Sprintf(l4Host, "other") + fmt.Sprintf(l4Host, "login")
	const gateway = "istio-egressgateway.istio-system.svc.cluster.local"
	for _, c := range []struct {
		name, to string // the rule of the mesh; HOST stands for the host that was asked for
		pool     string
		was      func(*flow.Event)
		want     string
	}{
		{"as it was", dest("HOST", ", subset: v1"), "idleTimeout: 60s", func(*flow.Event) {}, ""},
		{"one of two ways", "{destination: {host: HOST, subset: v1}, weight: 1}, {destination: {host: other.example.com}, weight: 1}", "idleTimeout: 60s", func(*flow.Event) {}, ""},
		{"nothing is recorded", dest("other.example.com", ""), "idleTimeout: 60s", func(e *flow.Event) { e.Destination, e.Subset, e.Route, e.IdleTimeout = "", "", nil, 0 }, ""},
		{"another destination", dest("other.example.com", ""), "idleTimeout: 60s", func(*flow.Event) {}, "but to other.example.com, where it went to HOST (subset v1); with the node's idle timeout, where it had idle timeout 1m0s"},
		{"another subset", dest("HOST", ", subset: v2"), "idleTimeout: 60s", func(*flow.Event) {}, "but to HOST (subset v2), where it went to HOST (subset v1)"},
		{"another idle timeout", dest("HOST", ", subset: v1"), "idleTimeout: 5s", func(*flow.Event) {}, "but with idle timeout 5s, where it had idle timeout 1m0s"},
		{"no idle timeout", dest("HOST", ", subset: v1"), "connectTimeout: 5s", func(*flow.Event) {}, "but with the node's idle timeout, where it had idle timeout 1m0s"},
		{"an age", dest("HOST", ", subset: v1"), "idleTimeout: 60s, maxConnectionDuration: 10m", func(*flow.Event) {}, "but for 10m0s at most, where it was for any time"},
		{"an egress gateway", dest(gateway, ""), "idleTimeout: 60s", func(*flow.Event) {}, "but through the egress gateway default/way-out, where it went through no egress gateway"},
		{"an egress gateway, as it was", dest(gateway, ""), "idleTimeout: 60s", func(e *flow.Event) { e.Gateway = "default/way-out" }, ""},
		{"no egress gateway any more", dest("HOST", ", subset: v1"), "idleTimeout: 60s", func(e *flow.Event) { e.Gateway = "default/way-out" }, "but through no egress gateway, where it went through the egress gateway default/way-out"},
		{"it was direct", dest("other.example.com", ""), "idleTimeout: 60s", func(e *flow.Event) {
			e.Layer, e.Destination, e.Subset, e.Route, e.IdleTimeout = flow.Kernel, "", "", nil, 0
			e.Verdict = policy.Direct
		}, "to other.example.com by VirtualService default/RULE"},
	} {
		for _, tls := range []bool{false, true} {
			host, name, at, proto := "db.example.com", "db", "192.0.2.1:5432", "tcp"
			if tls {
				host, name, at, proto = "login.example.com", "login", "[2001:db8::1]:443", "tls"
			}
			own := *ref
			own.Name = name
			e := with(allowed(at, host, proto, policy.Proxy), func(e *flow.Event) {
				e.Layer, e.Route, e.Destination, e.Subset, e.IdleTimeout = flow.Egress, &own, host, "v1", time.Minute
				c.was(e)
			})
			to := strings.ReplaceAll(c.to, "HOST", host)
			rules := [2]string{rule(false, dest("db.example.com", "")), rule(true, dest("login.example.com", ""))}
			i := 0
			if tls {
				i = 1
			}
			rules[i] = rule(tls, to)
			if strings.Contains(c.to, gateway) {
				rules[i] += out(tls, dest(host, ", subset: v1"))
			}
			var f Flows
			f.Add(&e)
			got := f.Run(snapshot(t, hosts+fmt.Sprintf(l4Policy, rules[0], rules[1], name, c.pool)))
			says := ""
			if len(got.Changes) == 1 && got.Changes[0].Kind == Otherwise {
				says = got.Changes[0].Says
			}
			want := strings.NewReplacer("HOST", host, "RULE", name).Replace(c.want)
			if got.Flows != 1 || (want == "") != (len(got.Changes) == 0) || !strings.Contains(says, want) {
				t.Errorf("%s, %s: %q, want %q: %+v", c.name, proto, says, want, got)
			}
		}
	}
}
