// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
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
	cart    = Scope{Layer: flow.Egress, Workload: "shop/cart"}
	other   = Scope{Layer: flow.Egress, Workload: "node"}
	visitor = Scope{Layer: flow.Ingress, Workload: "gateway"}
	toAPI   = Scope{Layer: flow.Kernel, Workload: "shop/cart", To: &policy.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "api"}}
)

// TestScope: which objects act, the nearest last.
func TestScope(t *testing.T) {
	to := func(kind, name string) []policy.TelemetryTarget {
		return []policy.TelemetryTarget{{Kind: kind, Name: name}}
	}
	b := book(t, nil,
		&policy.Telemetry{Ref: at("istio-system", "mesh")},
		&policy.Telemetry{Ref: at("istio-system", "younger")},
		// In Istio, too, a selector in the root namespace selects what is in it.
		&policy.Telemetry{Ref: at("istio-system", "all-carts"), Selector: map[string]string{"app": "cart"}},
		&policy.Telemetry{Ref: at("istio-system", "gateway"), Selector: map[string]string{"istio": "ingressgateway"}},
		&policy.Telemetry{Ref: at("shop", "api"), Targets: to("ServiceEntry", "api")},
		&policy.Telemetry{Ref: at("shop", "ns")},
		&policy.Telemetry{Ref: at("shop", "ns-younger")},
		&policy.Telemetry{Ref: at("shop", "carts"), Selector: map[string]string{"app": "cart"}},
		&policy.Telemetry{Ref: at("shop", "carts-younger"), Selector: map[string]string{"app": "cart"}},
		&policy.Telemetry{Ref: at("shop", "wares"), Selector: map[string]string{"app": "wares"}},
		&policy.Telemetry{Ref: at("shop", "service"), Targets: to("Service", "api")},
		&policy.Telemetry{Ref: at("default", "ns")},
		&policy.Telemetry{Ref: at("default", "elsewhere"), Targets: to("ServiceEntry", "api")},
	)
	for _, c := range []struct {
		f    Scope
		want []string
	}{
		{cart, []string{"mesh", "ns", "carts", "carts-younger"}},
		{toAPI, []string{"mesh", "ns", "carts", "carts-younger", "api"}},
		{Scope{Layer: flow.Egress, Workload: "shop/cart", To: &policy.Ref{Kind: "Service", Namespace: "shop", Name: "api"}}, []string{"mesh", "ns", "carts", "carts-younger", "service"}},
		{visitor, []string{"mesh", "gateway"}},
		{other, []string{"mesh", "ns"}}, // of the namespace default
	} {
		var got []string
		first, again := b.Rules(c.f), b.Rules(c.f)
		for _, o := range first.Objects {
			got = append(got, o.Name)
		}
		if !slices.Equal(got, c.want) || first != again {
			t.Errorf("%+v: %q, want %q", c.f, got, c.want)
		}
	}
	if book(t, nil) != nil {
		t.Error("without objects there is a book")
	}
}

// TestGateways: a Gateway that is named is found by where a visitor came to and what it
// asked for.
func TestGateways(t *testing.T) {
	gateway := func(name string, servers ...policy.GatewayServer) *policy.Gateway {
		ref := policy.Ref{Kind: "Gateway", Namespace: "shop", Name: name}
		for i := range servers {
			servers[i].Ref, servers[i].HostNamespaces = ref, slices.Repeat([]string{"*"}, len(servers[i].Hosts))
		}
		return &policy.Gateway{Ref: ref, Selector: map[string]string{"istio": "ingressgateway"}, Servers: servers}
	}
	http := func(port uint16, hosts ...hostname.Pattern) policy.GatewayServer {
		return policy.GatewayServer{Port: port, Protocol: policy.ProtocolHTTP, Hosts: hosts}
	}
	named := func(name string) *policy.Telemetry {
		return &policy.Telemetry{Ref: at("shop", name), Targets: []policy.TelemetryTarget{{Kind: "Gateway", Name: name}}}
	}
	s, err := policy.Compile(&policy.Config{
		GatewaySelector: map[string]string{"istio": "ingressgateway"},
		Gateways: []*policy.Gateway{
			gateway("wild", http(80, "*.example")), gateway("exact", http(80, "shop.example")), gateway("other", http(8080, "*")),
			gateway("socket", policy.GatewayServer{Unix: "/run/web.sock", Protocol: policy.ProtocolHTTP, Hosts: []hostname.Pattern{"*"}}),
		},
		Telemetries: []*policy.Telemetry{{Ref: at("istio-system", "mesh")}, named("wild"), named("exact"), named("socket")},
	})
	if err != nil {
		t.Fatal(err)
	}
	b := New(s, Defaults{}, func(string) (policy.Identity, bool) { return policy.Identity{}, false })
	for _, c := range []struct{ at, socket, host, want string }{
		{"192.0.2.1:80", "", "shop.example", "exact"},
		{"[2001:db8::1]:80", "", "SHOP.example:80", "exact"},
		{"192.0.2.1:80", "", "a.example", "wild"},
		{"192.0.2.1:80", "", "elsewhere.test", "wild"}, // nobody's: the first on the port
		{"192.0.2.1:8080", "", "shop.example", ""},
		{"", "/run/web.sock", "shop.example", "socket"},
	} {
		f := Scope{Layer: flow.Ingress, Workload: "gateway", Socket: c.socket, Host: c.host}
		if c.at != "" {
			f.At = netip.MustParseAddrPort(c.at)
		}
		objects := b.Rules(f).Objects
		if got := objects[len(objects)-1].Name; got != c.want && (c.want != "" || len(objects) != 1) {
			t.Errorf("%+v: %v, want %q", c, objects, c.want)
		}
		f.Layer = flow.Egress
		if n := len(b.Rules(f).Objects); n != 1 {
			t.Errorf("%+v: %d objects act on what goes out", c, n)
		}
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
		{"nothing nearby keeps the filter", nil, []*policy.Telemetry{mesh(log{Providers: envoy, Filter: filter}), near(log{})}, [2]bool{false, true}},
		{"named nearby without the filter", nil, []*policy.Telemetry{mesh(log{Providers: envoy, Filter: filter}), near(log{Providers: envoy})}, [2]bool{true, true}},
		{"the last item of one object", nil, []*policy.Telemetry{mesh(log{Providers: envoy}, log{Providers: envoy, Filter: filter})}, [2]bool{false, true}},
		{"disabled by another item", nil, []*policy.Telemetry{mesh(log{Providers: envoy}, log{Disabled: true})}, [2]bool{false, false}},
		{"one of two disabled", nil, []*policy.Telemetry{mesh(log{Providers: []string{"envoy", "otel"}}, log{Providers: envoy, Disabled: true})}, [2]bool{true, true}},
		{"a default in the place of which another is named", []string{"envoy", "otel"}, []*policy.Telemetry{mesh(log{Providers: envoy, Disabled: true})}, [2]bool{false, false}},
		{"enabled of no provider", nil, []*policy.Telemetry{mesh(log{})}, [2]bool{false, false}},
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
		&policy.Telemetry{Ref: at("istio-system", "mesh"), Traces: []policy.TelemetryTrace{{Provider: "a", Sampling: &ten, Disabled: &yes, NoContext: &yes, Tags: map[string]policy.TelemetryTag{"a": {Value: "b"}}}}},
		&policy.Telemetry{Ref: at("shop", "near"), Traces: []policy.TelemetryTrace{{Disabled: &no, Tags: map[string]policy.TelemetryTag{"c": {Header: "x-team"}}}, {NoContext: &no}}},
		&policy.Telemetry{Ref: at("shop", "nearest"), Selector: map[string]string{"app": "cart"}, Traces: []policy.TelemetryTrace{{Provider: "b"}, {}}},
		&policy.Telemetry{Ref: at("default", "bare"), Traces: []policy.TelemetryTrace{{Tags: map[string]policy.TelemetryTag{}}}},
	)
	if r := b.Rules(cart).Trace; r.Provider != "b" || *r.Percent != 10 || r.Disabled || r.NoContext || len(r.Tags) != 1 || r.Tags["c"].Header != "x-team" {
		t.Errorf("nearby: %+v", r)
	}
	if r := b.Rules(other).Trace; r.Provider != "a" || *r.Percent != 10 || !r.Disabled || !r.NoContext || len(r.Tags) != 0 {
		t.Errorf("elsewhere: %+v", r)
	}
	if r := b.Rules(visitor).Trace; r.Tags["a"].Value != "b" {
		t.Errorf("of the mesh: %+v", r)
	}
}

// TestTracer: whose collector takes the spans of a provider.
func TestTracer(t *testing.T) {
	flag := Defaults{OneTracer: true, Tracers: []string{"a"}}
	mesh := DefaultsOf(policy.MeshTelemetry{TraceProviders: []policy.TraceProvider{{Name: "a"}, {Name: "b"}}, DefaultTrace: "b"})
	zipkin := DefaultsOf(policy.MeshTelemetry{Zipkin: "z:9411"})
	for _, c := range []struct {
		d              Defaults
		provider, want string
		ok             bool
	}{
		{flag, "a", "", true}, {flag, "", "", true},
		{mesh, "a", "a", true}, {mesh, "", "b", true}, {mesh, "otel", "", false},
		{zipkin, "", "", true}, {zipkin, "zipkin", "", true},
		{DefaultsOf(policy.MeshTelemetry{}), "", "", false},
	} {
		if got, ok := c.d.Tracer(c.provider); got != c.want || ok != c.ok {
			t.Errorf("%+v %q: %q %t", c.d, c.provider, got, ok)
		}
	}
}

// TestMetricsOff: all metrics are off until something is said of one of them, and what is
// off by its name stays so, as in Istio.
func TestMetricsOff(t *testing.T) {
	yes, no := true, false
	type metric = policy.TelemetryMetric
	all := metric{Disabled: &yes}
	for _, c := range []struct {
		name       string
		mesh, near []metric
		want       [2]bool // requests, and their sizes
	}{
		{"all", []metric{all}, nil, [2]bool{false, false}},
		{"nothing nearby", []metric{all}, []metric{}, [2]bool{false, false}},
		{"on again nearby", []metric{all}, []metric{{Disabled: &no}}, [2]bool{true, true}},
		{"something of all nearby", []metric{all}, []metric{{}}, [2]bool{true, true}},
		{"something of one nearby", []metric{all}, []metric{{Name: "REQUEST_COUNT", Tags: map[string]string{"a": "'b'"}}}, [2]bool{true, true}},
		{"one off", []metric{{Name: "REQUEST_SIZE", Disabled: &yes}}, nil, [2]bool{true, false}},
		{"one off, then all, then something of all", []metric{{Name: "REQUEST_SIZE", Disabled: &yes}, all}, []metric{{}}, [2]bool{true, false}},
		{"one off, then all, then on", []metric{{Name: "REQUEST_SIZE", Disabled: &yes}, all}, []metric{{Disabled: &no}}, [2]bool{true, true}},
		{"one off nearby", nil, []metric{{Name: "REQUEST_SIZE", Disabled: &yes}}, [2]bool{true, false}},
		{"one on nearby", []metric{{Name: "REQUEST_SIZE", Disabled: &yes}}, []metric{{Name: "REQUEST_SIZE", Disabled: &no}}, [2]bool{true, true}},
		{"all nearby", []metric{{Tags: map[string]string{"a": "'b'"}}}, []metric{all}, [2]bool{false, false}},
	} {
		r := book(t, nil, &policy.Telemetry{Ref: at("istio-system", "mesh"), Metrics: c.mesh}, &policy.Telemetry{Ref: at("shop", "near"), Metrics: c.near}).Rules(cart)
		if got := [2]bool{r.Counted("REQUEST_COUNT", answer(200), nil, nil), r.Counted("REQUEST_SIZE", answer(200), nil, nil)}; got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
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
