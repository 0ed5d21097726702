// SPDX-License-Identifier: Apache-2.0

package otlptest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

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
	for _, r := range []component.Component{logs, traces} {
		if err := r.Start(context.Background(), componenttest.NewNopHost()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	return c
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
	for _, l := range c.traces.AllTraces() {
		for _, r := range l.ResourceSpans().All() {
			for _, s := range r.ScopeSpans().All() {
				for _, one := range s.Spans().All() {
					line := service(r.Resource()) + " " + one.TraceID().String() + " " + one.Name()
					for key, v := range one.Attributes().All() {
						line += " " + key + "=" + v.AsString()
					}
					all = append(all, line)
				}
			}
		}
	}
	return all
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

// TestCollector: access logs, flow logs and spans come to a collector, by gRPC and by HTTP,
// over IPv4 and IPv6, of what is allowed and of what is denied.
func TestCollector(t *testing.T) {
	for _, c := range []struct{ name, scheme, at string }{
		{"grpc over IPv4", "grpc", world.StrangerV4},
		{"http over IPv6", "http", world.StrangerV6},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.RequireCgroup2(t)
			testenv.RequireBPF(t)
			testenv.RequireTool(t, "curl")
			w := testenv.World(t)
			took := receive(t)
			at, to := netip.AddrPortFrom(netip.MustParseAddr(c.at), 4317).String(), took.grpc
			if c.scheme == "http" {
				to = took.http
			}
			lead(t, w, at, to)
			url := c.scheme + "://" + at
			policy, err := os.ReadFile("../../examples/seed/googleapis.yaml")
			if err != nil {
				t.Fatal(err)
			}
			d, err := w.NewDaemon(egressd, map[string][]byte{"policy.yaml": policy}, "--volatile-pins",
				"--access-log", url, "--access-log-format", "line of %REQ(:PATH)% %RESPONSE_CODE%", "--flow-log", url, "--otlp-endpoint", url, "--trace-sampling", "100")
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
			curl := func(url, want string) {
				t.Helper()
				out, _ := w.Client(t.Context(), in, "curl", "-q", "-s", "--noproxy", "*", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", url).Output()
				if string(out) != want {
					t.Errorf("%s: %s, want %s", url, out, want)
				}
			}
			curl("http://"+world.GoogleAPIs+"/hello", "200")
			curl("http://"+net.JoinHostPort(c.at, "80")+"/", "000")
			has(t, took.bodies, "egressd line of /hello 200")
			has(t, took.bodies, "egressd ", `"verdict":"proxy"`, `/hello`)
			has(t, took.bodies, "egressd ", `"verdict":"deny"`, c.at)
			has(t, took.spans, "egressd ", world.GoogleAPIs, "/hello", "200")
		})
	}
}
