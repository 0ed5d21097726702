// SPDX-License-Identifier: Apache-2.0

package otlptest

import (
	"context"
	"iter"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/zipkinreceiver"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// patience bounds one wait of a test, on a machine that has much to do.
const patience = time.Minute

// collector is a receiver of OTLP, and what it took.
type collector struct {
	logs   consumertest.LogsSink
	traces consumertest.TracesSink
	grpc   string // where it listens on the machine's loopback
	http   string
}

// free is an address of loopback where nobody listens.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// receive starts a receiver, configured as people write it.
func receive(t *testing.T) *collector {
	t.Helper()
	c := &collector{grpc: free(t), http: free(t)}
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	written := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{
		"grpc": map[string]any{"endpoint": c.grpc}, "http": map[string]any{"endpoint": c.http},
	}})
	if err := written.Unmarshal(config); err != nil {
		t.Fatal(err)
	}
	settings := receivertest.NewNopSettings(factory.Type())
	logs, err := factory.CreateLogs(t.Context(), settings, config, &c.logs)
	if err != nil {
		t.Fatal(err)
	}
	traces, err := factory.CreateTraces(t.Context(), settings, config, &c.traces)
	if err != nil {
		t.Fatal(err)
	}
	run(t, logs)
	run(t, traces)
	return c
}

// receiveZipkin starts a receiver of Zipkin's format, which http then is of.
func receiveZipkin(t *testing.T) *collector {
	t.Helper()
	c := &collector{http: free(t)}
	factory := zipkinreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{"endpoint": c.http}).Unmarshal(config); err != nil {
		t.Fatal(err)
	}
	r, err := factory.CreateTraces(t.Context(), receivertest.NewNopSettings(factory.Type()), config, &c.traces)
	if err != nil {
		t.Fatal(err)
	}
	run(t, r)
	return c
}

// run has a receiver listen until the end of the test.
func run(t *testing.T, r component.Component) {
	t.Helper()
	if err := r.Start(context.Background(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// lead leads from an address of the little internet to the receiver.
func lead(t *testing.T, w *world.World, from, to string) {
	t.Helper()
	ln, err := w.Net.Listen(netip.MustParseAddrPort(from))
	if err != nil {
		t.Fatal(err)
	}
	testenv.Lead(t, ln, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", to) })
}

// bodies are the lines that came with an attribute, and text what all have.
func (c *collector) bodies() (all []string) {
	for _, l := range c.logs.AllLogs() {
		for _, r := range l.ResourceLogs().All() {
			for _, s := range r.ScopeLogs().All() {
				for _, one := range s.LogRecords().All() {
					all = append(all, service(r.Resource())+" "+one.Body().AsString())
				}
			}
		}
	}
	return all
}

// spans are the names of spans and their attributes.
func (c *collector) spans() (all []string) {
	for one, r := range c.each() {
		line := service(r) + " " + one.TraceID().String() + " " + one.Name()
		for key, v := range one.Attributes().All() {
			line += " " + key + "=" + v.AsString()
		}
		all = append(all, line)
	}
	return all
}

// each are all spans that came, and whose they are.
func (c *collector) each() iter.Seq2[ptrace.Span, pcommon.Resource] {
	return func(yield func(ptrace.Span, pcommon.Resource) bool) {
		for _, l := range c.traces.AllTraces() {
			for _, r := range l.ResourceSpans().All() {
				for _, s := range r.ScopeSpans().All() {
					for _, one := range s.Spans().All() {
						if !yield(one, r.Resource()) {
							return
						}
					}
				}
			}
		}
	}
}

func service(r pcommon.Resource) string {
	name, _ := r.Attributes().Get("service.name")
	return name.AsString()
}

// has waits until one of what list says has all words.
func has(t *testing.T, list func() []string, words ...string) {
	t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if slices.ContainsFunc(list(), func(line string) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
		}) {
			return
		}
		select {
		case <-limit:
			t.Fatalf("nothing came with %q; what came:\n%s", words, strings.Join(list(), "\n"))
		case <-tick.C:
		}
	}
}

// client is a captured workload that asks by curl.
type client struct {
	t  *testing.T
	w  *world.World
	in *cgroup.Cgroup
}

// start starts the daemon with the seed's policy and more arguments.
func start(t *testing.T, w *world.World, args ...string) *client {
	t.Helper()
	return startWith(t, w, map[string][]byte{}, args...)
}

// startWith starts it with more files of policy as well.
func startWith(t *testing.T, w *world.World, files map[string][]byte, args ...string) *client {
	t.Helper()
	policy, err := os.ReadFile("../../examples/seed/googleapis.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files["policy.yaml"] = policy
	d, err := w.NewDaemon(egressd, files, append([]string{"--volatile-pins"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.Log())
		}
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, err := d.Root.Child("workload")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	return &client{t, w, in}
}

// curl asks, and wants a status; 000: no answer.
func (c *client) curl(want string, args ...string) {
	c.t.Helper()
	args = append([]string{"-q", "-s", "--noproxy", "*", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}"}, args...)
	out, _ := c.w.Client(c.t.Context(), c.in, "curl", args...).Output()
	if string(out) != want {
		c.t.Errorf("%q: %s, want %s", args, out, want)
	}
}

// require says what all tests need.
func require(t *testing.T) *world.World {
	t.Helper()
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	testenv.RequireTool(t, "curl")
	return testenv.World(t)
}

// TestCollector: access logs, flow logs and spans come to a collector, by gRPC and by HTTP,
// over IPv4 and IPv6, of what is allowed and of what is denied.
func TestCollector(t *testing.T) {
	for _, c := range []struct{ name, scheme, at string }{
		{"grpc over IPv4", "grpc", world.StrangerV4},
		{"http over IPv6", "http", world.StrangerV6},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := require(t)
			took := receive(t)
			at, to := netip.AddrPortFrom(netip.MustParseAddr(c.at), 4317).String(), took.grpc
			if c.scheme == "http" {
				to = took.http
			}
			lead(t, w, at, to)
			url := c.scheme + "://" + at
			n := start(t, w, "--access-log", url, "--access-log-format", "line of %REQ(:PATH)% %RESPONSE_CODE%", "--flow-log", url, "--otlp-endpoint", url, "--trace-sampling", "100")
			n.curl("200", "http://"+world.GoogleAPIs+"/hello")
			n.curl("000", "http://"+net.JoinHostPort(c.at, "80")+"/")
			has(t, took.bodies, "egressd line of /hello 200")
			has(t, took.bodies, "egressd ", `"verdict":"proxy"`, `/hello`)
			has(t, took.bodies, "egressd ", `"verdict":"deny"`, c.at)
			has(t, took.spans, "egressd ", world.GoogleAPIs, "/hello", "200")
		})
	}
}

// The context of a caller in the tests of Zipkin.
const (
	callersTrace = "80f198ee56343ba864fe8b2a57d3eff7"
	callersSpan  = "05e3ac9a4f6e3b90"
)

// TestZipkin: the collector's receiver of Zipkin's format takes the spans, over IPv4 and
// IPv6: who asked, how it ended, and whose child a span is; one of which the caller said
// that it is not sampled does not come.
func TestZipkin(t *testing.T) {
	for _, at := range []string{world.StrangerV4, world.StrangerV6} {
		t.Run(at, func(t *testing.T) {
			w := require(t)
			took := receiveZipkin(t)
			to := netip.AddrPortFrom(netip.MustParseAddr(at), 9411).String()
			lead(t, w, to, took.http)
			n := start(t, w, "--zipkin-address", to, "--trace-sampling", "100", "--trace-service", "gateway")
			const host = "http://" + world.GoogleAPIs
			n.curl("200", "-H", "b3: "+callersTrace+"-"+callersSpan+"-0", host+"/unsampled")
			n.curl("200", "-H", "b3: "+callersTrace+"-"+callersSpan+"-1", host+"/child?token=s3cret")
			n.curl("502", "-H", "Host: evil.example", "-H", "x-request-id: mine", host+"/denied")
			has(t, took.spans, "gateway "+callersTrace, "url.path=/child", "http.response.status_code=200", "guid:x-request-id=")
			has(t, took.spans, "gateway ", "url.path=/denied", "http.response.status_code=502", "guid:x-request-id=mine", "egressd.verdict=deny")
			for one := range took.each() {
				path, _ := one.Attributes().Get("url.path")
				if strings.Contains(strings.Join(took.spans(), "\n"), "s3cret") || path.AsString() == "/unsampled" {
					t.Errorf("%s came:\n%s", path.AsString(), strings.Join(took.spans(), "\n"))
				}
				if one.Kind() != ptrace.SpanKindClient || one.SpanID().IsEmpty() || !one.EndTimestamp().AsTime().After(one.StartTimestamp().AsTime()) {
					t.Errorf("%s: kind %s, id %s, from %s to %s", path.AsString(), one.Kind(), one.SpanID(), one.StartTimestamp(), one.EndTimestamp())
				}
				if child := path.AsString() == "/child"; child != (one.ParentSpanID().String() == callersSpan) || child == (one.Status().Code() == ptrace.StatusCodeError) {
					t.Errorf("%s: parent %q, status %s", path.AsString(), one.ParentSpanID(), one.Status().Code())
				}
			}
		})
	}
}
