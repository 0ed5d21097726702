// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const patience = 10 * time.Second

// got is a span as a collector has it.
type got struct{ path, service, trace, parent, id, name, method, status string }

// receiver is a collector of OTLP over HTTP and gRPC, and of Zipkin's format.
type receiver struct {
	*httptest.Server
	spans chan got
	tags  chan map[string]string // of spans in Zipkin's format
	code  int                    // of its answers; 0: 200
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{spans: make(chan got, 64), tags: make(chan map[string]string, 64)}
	r.Server = httptest.NewUnstartedServer(r)
	r.Config.Protocols = new(http.Protocols)
	r.Config.Protocols.SetHTTP1(true)
	r.Config.Protocols.SetUnencryptedHTTP2(true)
	r.Start()
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	kind := req.Header.Get("Content-Type")
	if r.code != 0 {
		w.WriteHeader(r.code)
		return
	}
	switch kind {
	case "application/grpc":
		if req.ProtoMajor != 2 || len(body) < 5 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		body = body[5:]
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Trailer", "Grpc-Status")
		defer func() {
			_, _ = w.Write(make([]byte, 5))
			w.Header().Set("Grpc-Status", "0")
		}()
		r.otlp(req.URL.Path, body)
	case "application/x-protobuf":
		r.otlp(req.URL.Path, body)
	case "application/json":
		var list []zipkinSpan
		if json.Unmarshal(body, &list) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, s := range list {
			r.spans <- got{req.URL.Path, s.Local["serviceName"], s.TraceID, s.ParentID, s.ID, s.Name, s.Tags["http.request.method"], s.Tags["http.response.status_code"]}
			r.tags <- s.Tags
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

func (r *receiver) otlp(path string, body []byte) {
	var m collector.ExportTraceServiceRequest
	if proto.Unmarshal(body, &m) != nil {
		return
	}
	for _, res := range m.ResourceSpans {
		for _, s := range res.ScopeSpans[0].Spans {
			g := got{path: path, service: res.Resource.Attributes[0].Value.GetStringValue(), name: s.Name}
			g.trace, g.parent, g.id = hexOf(s.TraceId), hexOf(s.ParentSpanId), hexOf(s.SpanId)
			for _, a := range s.Attributes {
				switch a.Key {
				case "http.request.method":
					g.method = a.Value.GetStringValue()
				case "http.response.status_code":
					g.status = map[int64]string{200: "200", 503: "503"}[a.Value.GetIntValue()]
				}
			}
			r.spans <- g
		}
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var out []byte
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

func list(pairs ...string) (l field.List) {
	for i := 0; i < len(pairs); i += 2 {
		l.Add(pairs[i], pairs[i+1])
	}
	return l
}

func ended(in field.List) *flow.Observation {
	return &flow.Observation{
		Event: flow.Event{Time: time.Now(), Kind: flow.Request, Method: "GET", Status: 200, Allowed: true, Verdict: policy.Proxy, Reason: policy.ReasonAllowed,
			Dst: netip.MustParseAddrPort("[2001:db8::1]:80"), Upstream: netip.MustParseAddrPort("[2001:db8::1]:80")},
		Target: "/a?secret=1", Authority: "a.example", Request: in,
	}
}

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
)

// TestExport: spans arrive in each format, as children of the span that the client
// named, and the request goes on with the identifiers of its own.
func TestExport(t *testing.T) {
	for _, c := range []struct {
		name, path string
		to         func(url string) Options
	}{
		{"OTLP over HTTP", "/v1/traces", func(u string) Options { return Options{OTLP: u} }},
		{"OTLP over gRPC", otlpTraces.Method, func(u string) Options { return Options{OTLP: strings.Replace(u, "http:", "grpc:", 1)} }},
		{"Zipkin", "/api/v2/spans", func(u string) Options { return Options{Zipkin: strings.TrimPrefix(u, "http://")} }},
		{"Zipkin by URL", "/other", func(u string) Options { return Options{Zipkin: u + "/other"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReceiver(t)
			o := c.to(r.URL)
			o.Service, o.Log = "svc", slog.New(slog.DiscardHandler)
			tracer, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			in := list("traceparent", "00-"+traceID+"-"+spanID+"-01")
			out := in.Clone()
			s := tracer.Begin(in, &out, time.Now().Add(-time.Second), nil)
			id, span := s.IDs()
			s.End(ended(in))
			tracer.Close(patience)
			want := got{c.path, "svc", traceID, spanID, span, "a.example:80/*", "GET", "200"}
			select {
			case g := <-r.spans:
				if g != want || id != traceID || span == spanID {
					t.Errorf("%+v, want %+v", g, want)
				}
			default:
				t.Errorf("nothing came; %d failed", tracer.Failed())
			}
			if got := out.Get("traceparent"); got != "00-"+traceID+"-"+span+"-01" {
				t.Errorf("goes on with %q", got)
			}
		})
	}
}

// TestPropagation: what comes in W3C's or B3's fields goes on in them, a decision of
// those before is followed, and x-request-id is kept or made.
func TestPropagation(t *testing.T) {
	for _, c := range []struct {
		name    string
		in      field.List
		percent float64
		sampled bool
		same    bool // trace
		has     []string
		hasNot  []string
	}{
		{"nothing, all", nil, 100, true, false, []string{"traceparent", "x-b3-traceid", "x-b3-spanid", "x-request-id"}, []string{"b3"}},
		{"nothing, none", nil, 0, false, false, []string{"traceparent", "x-b3-traceid", "x-request-id"}, nil},
		{"W3C, sampled", list("traceparent", "00-"+traceID+"-"+spanID+"-01"), 0, true, true, []string{"traceparent"}, []string{"x-b3-traceid", "b3"}},
		{"W3C, not sampled", list("traceparent", "00-"+traceID+"-"+spanID+"-00"), 100, false, true, nil, nil},
		{"B3, sampled", list("X-B3-TraceId", traceID, "X-B3-SpanId", spanID, "X-B3-Sampled", "1", "X-B3-ParentSpanId", spanID), 0, true, true, []string{"x-b3-traceid"}, []string{"b3", "x-b3-parentspanid"}},
		{"B3, not sampled", list("x-b3-traceid", traceID, "x-b3-spanid", spanID, "x-b3-sampled", "0"), 100, false, true, nil, nil},
		{"B3 in one", list("b3", traceID+"-"+spanID+"-1"), 0, true, true, []string{"b3"}, []string{"x-b3-traceid"}},
		{"broken", list("traceparent", "00-zz"), 100, true, false, []string{"traceparent"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReceiver(t)
			tracer, err := New(Options{OTLP: r.URL, Percent: c.percent, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			out := c.in.Clone()
			s := tracer.Begin(c.in, &out, time.Now(), nil)
			id, _ := s.IDs()
			s.End(ended(c.in))
			tracer.Close(patience)
			if n := len(r.spans); (n == 1) != c.sampled {
				t.Errorf("%d spans", n)
			}
			if (id == traceID) != c.same || !strings.Contains(out.Get("traceparent"), id) {
				t.Errorf("the trace is %s, goes on as %q", id, out.Get("traceparent"))
			}
			for _, name := range c.has {
				if !out.Has(name) {
					t.Errorf("%s is missing in %v", name, out)
				}
			}
			for _, name := range c.hasNot {
				if out.Has(name) {
					t.Errorf("%s is in %v", name, out)
				}
			}
		})
	}
	tracer, err := New(Options{Zipkin: "127.0.0.1:1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close(patience)
	out := list("X-Request-Id", "mine")
	tracer.Begin(out.Clone(), &out, time.Now(), nil)
	if got := out.Values("x-request-id"); len(got) != 1 || got[0] != "mine" {
		t.Errorf("x-request-id is %q", got)
	}
	if id := newID(); !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Error(id)
	}
}

// TestCollectorFails: spans that a collector does not take are counted and told once,
// and nobody waits.
func TestCollectorFails(t *testing.T) {
	for _, to := range []func(*receiver) Options{
		func(r *receiver) Options { r.code = 500; return Options{OTLP: r.URL} },
		func(r *receiver) Options {
			r.code = 500
			return Options{OTLP: strings.Replace(r.URL, "http:", "grpc:", 1)}
		},
		func(r *receiver) Options { r.Close(); return Options{Zipkin: r.URL} },
		func(r *receiver) Options { r.code = 307; return Options{Zipkin: r.URL} },
	} {
		var log bytes.Buffer
		o := to(newReceiver(t))
		o.Percent, o.Log = 100, slog.New(slog.NewTextHandler(&log, nil))
		tracer, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			var out field.List
			tracer.Begin(nil, &out, time.Now(), nil).End(ended(nil))
		}
		tracer.Close(patience)
		if n := tracer.Failed(); n != 3 || strings.Count(log.String(), "could not be sent") != 1 {
			t.Errorf("%d failed: %s", n, &log)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for text, want := range map[string]bool{
		"http://127.0.0.1:4318": true, "grpc://[::1]:4317": true, "https://c.example": true, "https://c.example:1/x": true,
		"127.0.0.1:4318": false, "ftp://a:1": false, "http://a": false, "grpc://a": false, "http://u:p@a:1": false, "://": false, "https://": false,
	} {
		if err := (&Options{OTLP: text}).Validate(); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]bool{"zipkin.istio-system:9411": true, "[::1]:9411": true, "http://a:1/api/v2/spans": true, "a": false, "grpc://a:1": false} {
		if err := (&Options{Zipkin: text}).Validate(); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	if tracer, err := New(Options{}); tracer != nil || err != nil {
		t.Error("a tracer of nothing")
	}
}

// TestTelemetryRules: a Telemetry samples otherwise than all do where nobody has decided,
// adds tags, and has nothing of a request sent or changed.
func TestTelemetryRules(t *testing.T) {
	percent := func(p float64) *telemetry.TraceRules { return &telemetry.TraceRules{Percent: &p} }
	decided := list("traceparent", "00-"+traceID+"-"+spanID+"-01", "x-team", "shop")
	tags := percent(100)
	tags.Tags = map[string]policy.TelemetryTag{"team": {Header: "X-Team", Value: "none"}, "user": {Header: "x-user", Value: "nobody"}, "site": {Value: "a"}}
	for _, c := range []struct {
		name  string
		all   float64
		in    field.List
		rules *telemetry.TraceRules
		want  string // tags of the span; "-": there is none
	}{
		{"as all", 0, nil, nil, "-"},
		{"all of them", 0, nil, percent(100), ""},
		{"none of them", 100, nil, percent(0), "-"},
		{"the client has decided", 0, decided, percent(0), ""},
		{"not reported", 100, decided, &telemetry.TraceRules{Disabled: true}, "-"},
		{"with tags", 0, decided, tags, "site=a team=shop user=nobody"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReceiver(t)
			tracer, err := New(Options{Zipkin: r.URL, Percent: c.all, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			out := c.in.Clone()
			if s := tracer.Begin(c.in, &out, time.Now(), c.rules); s != nil {
				s.End(ended(c.in))
			} else if !out.Has(requestID) || out.Get("traceparent") != c.in.Get("traceparent") {
				t.Errorf("the fields of a trace that is not reported have changed: %v", out)
			}
			tracer.Close(patience)
			got := "-"
			select {
			case tags := <-r.tags:
				var list []string
				for _, name := range []string{"site", "team", "user"} {
					if v, ok := tags[name]; ok {
						list = append(list, name+"="+v)
					}
				}
				got = strings.Join(list, " ")
			default: // all were sent when it was closed
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
