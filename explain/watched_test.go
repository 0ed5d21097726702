// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/http"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

const watchedPolicy = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec: {hosts: [api.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: cart, namespace: shop}
spec: {cgroups: [cart.service]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {selector: {istio: ingressgateway}, servers: [{hosts: [shop.example.com], port: {number: 8080, name: http, protocol: HTTP}}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  accessLogging: [{providers: [{name: envoy}], filter: {expression: response.code >= 400}}]
  tracing: [{randomSamplingPercentage: 25}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: api, namespace: shop}
spec:
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: api}]
  metrics: [{overrides: [{disabled: true}]}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: edge, namespace: shop}
spec:
  targetRefs: [{group: networking.istio.io, kind: Gateway, name: edge}]
  accessLogging: [{disabled: true}]
`

// TestWatched: which Telemetry objects act on a flow, and what they say of it.
func TestWatched(t *testing.T) {
	with := func(text string) *policy.Snapshot {
		l, err := load.With([]istio.File{{Name: "policy.yaml", Data: []byte(text)}}, istio.Options{GatewaySelector: map[string]string{"istio": "ingressgateway"}})
		if err != nil {
			t.Fatal(err, l.Findings)
		}
		return l.Snapshot
	}
	s := with(watchedPolicy)
	flags := &telemetry.Defaults{OneTracer: true, Percent: 3}
	const filtered, none = "a line by provider envoy where response.code >= 400", "no line"
	for _, c := range []struct {
		q       Question
		target  string
		want    []string // the lines, and what each metric does
		objects string
	}{
		{Question{}, "http://api.example.com/", []string{filtered, "no span is sent", "none of Istio's metrics counts"}, "mesh api"},
		{Question{Workload: "shop/cart", Observed: flags}, "http://api.example.com/", []string{filtered, "a span of 25% of the requests of which the caller has not decided", "none of Istio's metrics counts"}, "mesh api"},
		{Question{}, "http://denied.example.com/", []string{filtered, "no span is sent"}, "mesh"},
		{Question{Visit: &Visit{}}, "http://shop.example.com:8080/", []string{none, "no span is sent"}, "mesh edge"},
		{Question{Visit: &Visit{}, Header: http.Header{"Host": {"shop.example.com"}}}, "http://192.0.2.1:8080/", []string{none, "no span is sent"}, "mesh edge"},
	} {
		target, err := ParseTarget(c.target)
		if err != nil {
			t.Fatal(err)
		}
		if c.q.Target, c.q.Method = target, "GET"; c.q.Header == nil {
			c.q.Header = http.Header{}
		}
		x, err := Explain(s, nil, c.q)
		if err != nil || x.Telemetry == nil {
			t.Fatalf("%s: %v, %+v", c.target, err, x)
		}
		got := append([]string{x.Telemetry.LogLine(), x.Telemetry.TraceLine()}, x.Telemetry.MetricLines()...)
		var objects []string
		for _, o := range x.Telemetry.Objects {
			objects = append(objects, o.Name)
		}
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") || strings.Join(objects, " ") != c.objects {
			t.Errorf("%s: %q by %q, want %q by %q", c.target, got, objects, c.want, c.objects)
		}
	}
	target, _ := ParseTarget("http://api.example.com/")
	bare := with(watchedPolicy[:strings.Index(watchedPolicy, "---\napiVersion: telemetry")])
	if x, err := Explain(bare, nil, Question{Target: target, Method: "GET", Header: http.Header{}}); err != nil || x.Telemetry != nil {
		t.Errorf("nothing is said of it: %v, %+v", err, x.Telemetry)
	}
}
