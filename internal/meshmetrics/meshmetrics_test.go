// SPDX-License-Identifier: Apache-2.0

package meshmetrics

import (
	"bytes"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func request(workload, host string, status int) *flow.Observation {
	return &flow.Observation{
		Event: flow.Event{Time: noon, Kind: flow.Request, Layer: flow.Egress, Transport: policy.TCP, Workload: workload, Proto: "http", Verdict: policy.Proxy,
			Allowed: true, Reason: policy.ReasonAllowed, Status: status, BytesSent: 3, BytesReceived: 700, Duration: 7 * time.Millisecond},
		To: &policy.Upstream{Host: host, Port: 80, Rule: &policy.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "a"}},
	}
}

func page(t *testing.T, m *Metrics) string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(m)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// value is that of the series that has all of the labels; "": there is none.
func value(page, name string, labels ...string) string {
	for line := range strings.Lines(page) {
		found := strings.HasPrefix(line, name+"{")
		for _, l := range labels {
			found = found && strings.Contains(line, l)
		}
		if found {
			return strings.TrimSpace(line[strings.LastIndex(line, " "):])
		}
	}
	return ""
}

func identity(workload string) (policy.Identity, bool) {
	return policy.Identity{Name: "web", Namespace: "shop", Labels: map[string]string{"app": "front", "version": "v2"}}, workload == "shop/web"
}

// TestStandardMetrics: requests, connections of every verdict and what was denied are
// counted under Istio's names.
func TestStandardMetrics(t *testing.T) {
	m := New(Options{Identity: func(w string) (policy.Identity, bool) {
		if id, ok := identity(w); ok {
			return id, true
		}
		return policy.Identity{}, false
	}})
	m.Observe(request("shop/web", "a.example", 200))
	m.Observe(request("shop/web", "a.example", 200))
	grpc := request("default/api", "g.example", 200)
	grpc.Request = field.List{{Name: "content-type", Value: "application/grpc+proto"}}
	grpc.Trailer = field.List{{Name: "grpc-status", Value: "14"}}
	m.Observe(grpc)
	refused := request("shop/web", "", 502)
	refused.To, refused.Allowed, refused.Verdict, refused.Reason = nil, false, policy.Deny, policy.ReasonName
	m.Observe(refused)
	for _, kind := range []flow.Moment{flow.Decision, flow.Close} {
		c := request("node", "", 0)
		c.Kind, c.Layer, c.Proto, c.To, c.Begun = kind, flow.Kernel, "tcp", nil, kind == flow.Decision
		c.Verdict, c.Host = policy.Inspect, &policy.Host{Pattern: "*.b.example", Rule: &policy.Ref{Kind: "ServiceEntry", Namespace: "net"}}
		m.Observe(c)
	}
	cut := request("node", "", 0)
	cut.Kind, cut.To, cut.Allowed, cut.ResponseFlags, cut.BytesSent, cut.BytesReceived = flow.Decision, nil, false, "UH", 0, 0
	m.Observe(cut)
	udp := request("node", "c.example", 0)
	udp.Kind, udp.Transport = flow.Close, policy.UDP
	m.Observe(udp)

	got := page(t, m)
	of := []string{`reporter="source"`, `source_workload="web"`, `source_workload_namespace="shop"`, `source_app="front"`, `source_version="v2"`, `source_canonical_service="front"`,
		`destination_service="a.example"`, `destination_service_name="a.example"`, `destination_service_namespace="shop"`, `destination_workload="unknown"`,
		`request_protocol="http"`, `response_code="200"`, `response_flags="-"`, `connection_security_policy="unknown"`, `grpc_response_status=""`}
	for _, c := range []struct {
		name   string
		labels []string
		want   string
	}{
		{"istio_requests_total", of, "2"},
		{"istio_request_duration_milliseconds_bucket", append(of, `le="5"`), "0"},
		{"istio_request_duration_milliseconds_bucket", append(of, `le="10"`), "2"},
		{"istio_request_bytes_sum", of, "6"},
		{"istio_response_bytes_sum", of, "1400"},
		{"istio_requests_total", []string{`request_protocol="grpc"`, `grpc_response_status="14"`, `source_workload="api"`, `source_workload_namespace="default"`}, "1"},
		{"istio_requests_total", []string{`response_code="502"`, `destination_service_name="BlackHoleCluster"`, `destination_service="unknown"`}, "1"},
		{"istio_tcp_connections_opened_total", []string{`destination_service="*.b.example"`, `destination_service_namespace="net"`, `source_workload="node"`, `request_protocol="tcp"`}, "1"},
		{"istio_tcp_connections_closed_total", []string{`destination_service="*.b.example"`}, "1"},
		{"istio_tcp_sent_bytes_total", []string{`destination_service="*.b.example"`}, "700"},
		{"istio_tcp_received_bytes_total", []string{`destination_service="*.b.example"`}, "3"},
		{"istio_tcp_connections_closed_total", []string{`destination_service_name="BlackHoleCluster"`, `response_flags="UH"`}, "1"},
		{"istio_tcp_connections_closed_total", []string{`destination_service="c.example"`}, ""},
	} {
		if v := value(got, c.name, c.labels...); v != c.want {
			t.Errorf("%s %v is %q, want %q", c.name, c.labels, v, c.want)
		}
	}
	checkMetrics(t, got)
}

// checkMetrics has promtool look at a page. Milliseconds are Istio's choice.
func checkMetrics(t *testing.T, page string) {
	t.Helper()
	testenv.RequireTool(t, "promtool")
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(page)
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		if !bytes.HasPrefix(line, []byte("istio_request_duration_milliseconds ")) {
			t.Errorf("promtool: %s", line)
		}
	}
}

// TestPromtoolSees: what is wrong with a page is found.
func TestPromtoolSees(t *testing.T) {
	testenv.RequireTool(t, "promtool")
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader("# TYPE a_count counter\na_count 1\n")
	if out, err := cmd.CombinedOutput(); err == nil || len(out) == 0 {
		t.Errorf("%v, %s", err, out)
	}
}

// TestBound: series are bounded, what has no room is counted together and said so, no
// workload takes the room of others, and what is old makes room.
func TestBound(t *testing.T) {
	m := New(Options{Series: 16})
	for n := range 100 {
		m.Observe(request("loud", fmt.Sprintf("h%d.example", n), 200))
	}
	m.Observe(request("quiet", "q.example", 200))
	got := page(t, m)
	if v := value(got, "istio_requests_total", `source_workload="quiet"`, `destination_service="q.example"`); v != "1" {
		t.Errorf("the quiet one has %q", v)
	}
	if v := value(got, "istio_requests_total", `source_workload="other"`, `destination_service="other"`, `response_code="other"`); v != "92" {
		t.Errorf("counted together: %q", v)
	}
	for _, want := range []string{"egressd_mesh_series 9\n", "egressd_mesh_series_max 16\n", "egressd_mesh_series_overflow_total 92\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q", want)
		}
	}
	late := request("loud", "late.example", 200)
	late.Time = noon.Add(2 * forgetAfter)
	m.Observe(late)
	got = page(t, m)
	if v := value(got, "istio_requests_total", `destination_service="late.example"`); v != "1" {
		t.Errorf("the late one has %q", v)
	}
	if v := value(got, "istio_requests_total", `destination_service="h0.example"`); v != "" {
		t.Errorf("the old one has %q", v)
	}
	checkMetrics(t, got)
}

// TestObserveAllocations: what has a series costs no allocation.
func TestObserveAllocations(t *testing.T) {
	m := New(Options{})
	o := request("shop/web", "a.example", 200)
	m.Observe(o)
	if n := testing.AllocsPerRun(100, func() { m.Observe(o) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := New(Options{})
	o := request("shop/web", "a.example", 200)
	b.ReportAllocs()
	for b.Loop() {
		m.Observe(o)
	}
}

// TestTelemetry: objects take labels away and make some, one metric is not counted, and
// what Telemetry makes of labels is bounded as all series are.
func TestTelemetry(t *testing.T) {
	yes := true
	s, err := policy.Compile(&policy.Config{Telemetries: []*policy.Telemetry{{
		Ref: policy.Ref{Kind: "Telemetry", Namespace: "shop", Name: "a"},
		Metrics: []policy.TelemetryMetric{
			{Tags: map[string]string{"response_code": "", "path": "request.url_path"}},
			{Name: "REQUEST_SIZE", Disabled: &yes},
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	of := func(w string) (policy.Identity, bool) {
		if id, ok := identity(w); ok {
			return id, true
		}
		return policy.Identity{}, false
	}
	m := New(Options{Series: 6, Identity: of})
	m.Follow(telemetry.New(s, telemetry.Defaults{}, of))
	for i := range 10 {
		o := request("shop/web", "a.example", 200+i)
		o.Target = fmt.Sprintf("/%d", i/2)
		m.Observe(o)
	}
	m.Observe(request("node", "a.example", 200)) // none of the objects is for it
	got := page(t, m)
	for _, c := range []struct {
		name   string
		labels []string
		want   string
	}{
		{"istio_requests_total", []string{`path="/0"`, `response_code=""`, `source_workload="web"`}, "2"},
		{"istio_request_duration_milliseconds_count", []string{`path="/2"`, `response_code=""`}, "2"},
		{"istio_request_bytes_count", []string{`path="/0"`}, ""},
		{"istio_requests_total", []string{`path="other"`}, "4"},
		{"istio_requests_total", []string{`path=""`, `response_code="200"`, `source_workload="node"`}, "1"},
		{"istio_request_bytes_count", []string{`source_workload="node"`}, "1"},
	} {
		if v := value(got, c.name, c.labels...); v != c.want {
			t.Errorf("%s %v is %q, want %q", c.name, c.labels, v, c.want)
		}
	}
	if !strings.Contains(got, "\negressd_mesh_series_overflow_total 4\n") {
		t.Error("what is beyond the bound is not counted")
	}
	m.Follow(nil)
	m.Observe(request("shop/web", "a.example", 200))
	if got = page(t, m); strings.Contains(got, "path=") || value(got, "istio_request_bytes_count", `source_workload="web"`) != "1" {
		t.Errorf("without objects:\n%s", got)
	}
}
