// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// book is of objects in the order of their age. The cart of shop has labels.
func book(t *testing.T, logs []string, objects ...*policy.Telemetry) *Rulebook {
	t.Helper()
	s, err := policy.Compile(&policy.Config{Telemetries: objects, GatewaySelector: map[string]string{"istio": "ingressgateway"}})
	if err != nil {
		t.Fatal(err)
	}
	return New(s, Defaults{Logs: logs}, func(name string) (policy.Identity, bool) {
		id := policy.Identity{Name: "cart", Namespace: "shop", Labels: map[string]string{"app": "cart"}}
		return id, name == id.Key()
	})
}

func at(namespace, name string) policy.Ref {
	return policy.Ref{Kind: "Telemetry", Namespace: namespace, Name: name}
}

var (
	cart    = Subject{Layer: flow.Egress, Workload: "shop/cart"}
	other   = Subject{Layer: flow.Egress, Workload: "node"}
	visitor = Subject{Layer: flow.Ingress, Workload: "gateway"}
	toAPI   = Subject{Layer: flow.Kernel, Workload: "shop/cart", To: &policy.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "api"}}
)

// TestScope: which objects act, the nearest last.
func TestScope(t *testing.T) {
	b := book(t, nil,
		&policy.Telemetry{Ref: at("istio-system", "mesh")},
		&policy.Telemetry{Ref: at("istio-system", "younger")},
		&policy.Telemetry{Ref: at("istio-system", "all-carts"), Selector: map[string]string{"app": "cart"}},
		&policy.Telemetry{Ref: at("istio-system", "gateway"), Selector: map[string]string{"istio": "ingressgateway"}},
		&policy.Telemetry{Ref: at("shop", "ns")},
		&policy.Telemetry{Ref: at("shop", "carts"), Selector: map[string]string{"app": "cart"}},
		&policy.Telemetry{Ref: at("shop", "carts-younger"), Selector: map[string]string{"app": "cart"}},
		&policy.Telemetry{Ref: at("shop", "api"), ServiceEntries: []string{"api"}},
		&policy.Telemetry{Ref: at("default", "ns")},
	)
	for _, c := range []struct {
		f    Subject
		want []string
	}{
		{cart, []string{"mesh", "ns", "carts"}},
		{toAPI, []string{"mesh", "ns", "carts", "api"}},
		{visitor, []string{"mesh", "gateway"}},
		{other, []string{"mesh", "ns"}}, // of the namespace default
	} {
		var got []string
		first := b.Rules(c.f)
		for _, o := range first.Objects {
			got = append(got, o.Name)
		}
		if !slices.Equal(got, c.want) || b.Rules(c.f) != first {
			t.Errorf("%+v: %q, want %q", c.f, got, c.want)
		}
	}
	if book(t, nil) != nil {
		t.Error("without objects there is a book")
	}
}

func answer(status int) *flow.Observation {
	return &flow.Observation{
		Event: flow.Event{Time: time.Now(), Kind: flow.Request, Layer: flow.Egress, Workload: "shop/cart", Method: "GET", Status: status, Allowed: true, Reason: policy.ReasonAllowed,
			Dst: netip.MustParseAddrPort("[2001:db8::1]:80"), Verdict: policy.Proxy},
		Target: "/v1?token=x", Authority: "a.example", Major: 1, Minor: 1,
		Request: field.List{{Name: "X-Team", Value: "shop"}, {Name: "Authorization", Value: "Bearer s3cret"}},
	}
}

// TestLogs: Istio's rules of inheritance for providers, disabled and filter.
func TestLogs(t *testing.T) {
	const filter = "response.code >= 400"
	mesh := func(l ...policy.TelemetryLog) *policy.Telemetry {
		return &policy.Telemetry{Ref: at("istio-system", "mesh"), Logs: l}
	}
	near := func(l ...policy.TelemetryLog) *policy.Telemetry {
		return &policy.Telemetry{Ref: at("shop", "near"), Logs: l}
	}
	type log = policy.TelemetryLog
	envoy := []string{"envoy"}
	for _, c := range []struct {
		name     string
		defaults []string
		objects  []*policy.Telemetry
		want     [2]bool // of an answer 200, and 503
	}{
		{"nothing is said of logs", envoy, []*policy.Telemetry{mesh()}, [2]bool{true, true}},
		{"and there is none", nil, []*policy.Telemetry{mesh()}, [2]bool{false, false}},
		{"disabled", envoy, []*policy.Telemetry{mesh(log{Disabled: true})}, [2]bool{false, false}},
		{"disabled nearby", envoy, []*policy.Telemetry{mesh(log{Providers: envoy}), near(log{Disabled: true})}, [2]bool{false, false}},
		{"enabled nearby", envoy, []*policy.Telemetry{mesh(log{Disabled: true}), near(log{Providers: envoy})}, [2]bool{true, true}},
		{"turned on by name", nil, []*policy.Telemetry{mesh(log{Providers: envoy})}, [2]bool{true, true}},
		{"a filter", envoy, []*policy.Telemetry{mesh(log{Filter: filter})}, [2]bool{false, true}},
		{"a filter of the provider above", nil, []*policy.Telemetry{mesh(log{Providers: envoy}), near(log{Filter: filter})}, [2]bool{false, true}},
		{"another provider in place of it", envoy, []*policy.Telemetry{mesh(log{Providers: envoy, Filter: filter}), near(log{Providers: []string{"otel"}})}, [2]bool{true, true}},
		{"two, one of them with a filter", nil, []*policy.Telemetry{mesh(log{Providers: envoy, Filter: filter}, log{Providers: []string{"otel"}})}, [2]bool{true, true}},
	} {
		r := book(t, c.defaults, c.objects...).Rules(cart)
		if got := [2]bool{r.Logged(answer(200)), r.Logged(answer(503))}; got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestTraces: what is nearer replaces what it says, and nothing else.
func TestTraces(t *testing.T) {
	ten, yes, no := 10.0, true, false
	b := book(t, nil,
		&policy.Telemetry{Ref: at("istio-system", "mesh"), Traces: []policy.TelemetryTrace{{Sampling: &ten, Disabled: &yes, Tags: map[string]policy.TelemetryTag{"a": {Value: "b"}}}}},
		&policy.Telemetry{Ref: at("shop", "near"), Traces: []policy.TelemetryTrace{{Disabled: &no, Tags: map[string]policy.TelemetryTag{"c": {Header: "x-team"}}}}},
	)
	if r := b.Rules(cart).Trace; *r.Percent != 10 || r.Disabled || len(r.Tags) != 1 || r.Tags["c"].Header != "x-team" {
		t.Errorf("nearby: %+v", r)
	}
	if r := b.Rules(other).Trace; *r.Percent != 10 || !r.Disabled || r.Tags["a"].Value != "b" {
		t.Errorf("elsewhere: %+v", r)
	}
}

// TestMetrics: labels are taken away and made, for one metric or all, and no expression
// sees a credential.
func TestMetrics(t *testing.T) {
	yes := true
	b := book(t, nil,
		&policy.Telemetry{Ref: at("istio-system", "mesh"), Metrics: []policy.TelemetryMetric{
			{Tags: map[string]string{"response_code": "", "team": "request.headers['x-team']", "lost": "request.referer"}},
			{Name: "REQUEST_SIZE", Disabled: &yes},
			{Name: "REQUEST_COUNT", Tags: map[string]string{"response_code": "string(response.code / 100) + 'xx'", "token": "request.headers['authorization']"}},
		}},
	)
	names := []string{"response_code", "team", "lost", "token"}
	for metric, want := range map[string][]string{
		"REQUEST_COUNT":    {"5xx", "shop", "unknown", "unknown"},
		"REQUEST_DURATION": {"", "shop", "unknown", "is"},
		"REQUEST_SIZE":     nil,
	} {
		values := []string{"503", "is", "is", "is"}
		counted := b.Rules(cart).Counted(metric, answer(503), names, values)
		if counted != (want != nil) || counted && !slices.Equal(values, want) {
			t.Errorf("%s: %t %q, want %q", metric, counted, values, want)
		}
	}
	if got := b.Labels(); !slices.Equal(got, []string{"lost", "response_code", "team", "token"}) {
		t.Errorf("labels %q", got)
	}
}
