// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

func TestRouteChangesRequest(t *testing.T) {
	r := newRig(t, HTTP)
	r.httpOrigin("b.example", func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Drop", "1")
		w.Header().Set("X-Order", "origin")
		fmt.Fprintf(w, "%s %s %v %q %q", req.Host, req.RequestURI, req.Header["X-Add"], req.Header.Get("X-Set"), req.Header.Get("X-Gone"))
	})
	a := routeTo(&policy.HTTPRule{
		Name: "moved", Timeout: time.Minute,
		Rewrite: &policy.Rewrite{URI: "/new"},
		Headers: &policy.Headers{
			Request: policy.HeaderOps{
				Set:    []policy.Header{{Name: "host", Value: "rewritten.example"}, {Name: "x-set", Value: "rule"}},
				Add:    []policy.Header{{Name: "x-add", Value: "rule"}},
				Remove: []string{"x-gone"},
			},
			Response: policy.HeaderOps{Remove: []string{"x-drop"}, Add: []policy.Header{{Name: "x-order", Value: "rule"}}},
		},
	}, "b.example")
	a.Match = &policy.HTTPMatch{URI: &policy.StringMatch{Kind: policy.MatchPrefix, Value: "/old"}}
	a.Destinations[0].Headers = &policy.Headers{
		Request:  policy.HeaderOps{Set: []policy.Header{{Name: "x-set", Value: "dest"}}, Add: []policy.Header{{Name: "x-add", Value: "dest"}}},
		Response: policy.HeaderOps{Add: []policy.Header{{Name: "x-order", Value: "dest"}}},
	}
	r.rule(a)
	req, err := http.NewRequest("GET", "http://a.example/old/p?q", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Gone", "1")
	req.Header.Set("X-Add", "client")
	resp, err := r.client(false).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if want := `rewritten.example /new/p?q [client dest rule] "rule" ""`; string(body) != want {
		t.Errorf("the origin got\n%s, want\n%s", body, want)
	}
	if e := r.sink.wait(t, flow.Request, 1); e.Route != &a.Rule.Ref || e.RouteName != "moved" || e.Timeout != time.Minute || e.Destination != "b.example" {
		t.Errorf("the event does not say how it went: %+v", e)
	}
	if got := fmt.Sprint(resp.Header["X-Order"], resp.Header["X-Drop"]); got != "[origin dest rule] []" {
		t.Errorf("response header %s", got)
	}
}

// TestRulesOfTwoHops: what led to a Gateway that is this place acts first, and
// last on the response.
func TestRulesOfTwoHops(t *testing.T) {
	r := newRig(t, HTTP)
	r.httpOrigin("b.example", func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Order", "origin")
		fmt.Fprintf(w, "%s %s %v", req.Host, req.RequestURI, req.Header["X-Order"])
	})
	add := func(v string) policy.HeaderOps {
		return policy.HeaderOps{Add: []policy.Header{{Name: "x-order", Value: v}}}
	}
	first := &policy.HTTPAction{
		Rule: &policy.HTTPRule{
			Rewrite: &policy.Rewrite{URI: "/b", Authority: "hop.example"},
			Headers: &policy.Headers{Request: add("rule1"), Response: add("rule1")},
			Fault:   &policy.Fault{AbortStatus: 418, AbortGRPC: -1},
		},
		Match: &policy.HTTPMatch{URI: &policy.StringMatch{Kind: policy.MatchPrefix, Value: "/a"}},
	}
	by := &policy.RouteDestination{Headers: &policy.Headers{Request: add("dest1"), Response: add("dest1")}}
	second := routeTo(&policy.HTTPRule{
		Rewrite: &policy.Rewrite{URI: "/c"}, Headers: &policy.Headers{Request: add("rule2"), Response: add("rule2")},
	}, "unused.example", "b.example")
	second.Match = &policy.HTTPMatch{URI: &policy.StringMatch{Kind: policy.MatchPrefix, Value: "/b"}}
	d := policy.HTTPDecision{Decision: allowed, Action: second, To: &second.Destinations[1]}
	d.Via[0] = policy.Hop{Action: first, To: by}
	r.change(func() { r.http = func(*policy.Request) policy.HTTPDecision { return d } })
	resp, body := get(t, r.client(false), "http://a.example/a/p?q")
	if want := "hop.example /c/p?q [dest1 rule1 rule2]"; body != want {
		t.Errorf("the origin got %q, want %q", body, want)
	}
	if got := fmt.Sprint(resp.Header["X-Order"]); got != "[origin rule2 dest1 rule1]" {
		t.Errorf("response header %s", got)
	}
	// A redirect of the second rule is made of what the first one left.
	moved := &policy.HTTPAction{Rule: &policy.HTTPRule{Redirect: &policy.Redirect{PrefixRewrite: "/new"}}, Match: second.Match}
	r.change(func() { d.Action, d.To = moved, nil })
	resp, _ = get(t, r.client(false), "http://a.example/a/p")
	if got := resp.Header.Get("Location"); got != "http://hop.example/new/p" {
		t.Errorf("redirected to %q", got)
	}
	// A fault of either is injected.
	aborts, rule := *first, *first.Rule // what is under way may still read the others
	rule.Fault = &policy.Fault{AbortStatus: 418, AbortGRPC: -1, AbortPercent: 100}
	aborts.Rule = &rule
	r.change(func() { d.Via[0].Action = &aborts })
	if resp, _ = get(t, r.client(false), "http://a.example/a/p"); resp.StatusCode != 418 {
		t.Errorf("status %d, want 418", resp.StatusCode)
	}
}

func TestWeights(t *testing.T) {
	var draw atomic.Uint64
	r := newRig(t, HTTP, func(o *Options) { o.Rand = func() uint64 { return draw.Add(1) - 1 } })
	for _, host := range []string{"v1.example", "v2.example"} {
		r.httpOrigin(host, func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, host) })
	}
	a := routeTo(&policy.HTTPRule{}, "v1.example", "v2.example")
	a.Destinations[0].Weight, a.TotalWeight = 3, 4
	r.rule(a)
	c := r.client(false)
	got := map[string]int{}
	for range 8 {
		_, body := get(t, c, "http://a.example/")
		got[body]++
	}
	if got["v1.example"] != 6 || got["v2.example"] != 2 {
		t.Errorf("shares %v, want 6 and 2", got)
	}
}

func TestLocalAnswers(t *testing.T) {
	deniedRoute := routeTo(&policy.HTTPRule{}, "b.example")
	deniedRoute.Destinations[0].Denied = true
	unknown := routeTo(&policy.HTTPRule{}, "b.example")
	unknown.Destinations[0].Upstream = nil
	gone := routeTo(&policy.HTTPRule{UnknownStatus: 500}, "b.example")
	gone.Destinations[0].Upstream = nil
	fault := func(f policy.Fault) *policy.HTTPAction {
		return routeTo(&policy.HTTPRule{Fault: &f}, "ok.example")
	}
	tests := []struct {
		name   string
		a      *policy.HTTPAction
		status int
		body   string
		reason policy.Reason
		header string
	}{
		{"redirect", &policy.HTTPAction{Rule: &policy.HTTPRule{Redirect: &policy.Redirect{Authority: "n.example", Code: 308}}}, 308, "", policy.ReasonAllowed, "http://n.example/p"},
		{"redirect default", &policy.HTTPAction{Rule: &policy.HTTPRule{Redirect: &policy.Redirect{URI: "/"}}}, 301, "", policy.ReasonAllowed, "http://a.example/"},
		{"direct", &policy.HTTPAction{Rule: &policy.HTTPRule{DirectResponse: &policy.DirectResponse{Status: 418, Body: []byte("tea")}}}, 418, "tea", policy.ReasonAllowed, ""},
		{"unknown destination", unknown, 503, "", policy.ReasonNoDestination, ""},
		{"unknown destination, as the rule says", gone, 500, "", policy.ReasonNoDestination, ""},
		{"denied destination", deniedRoute, 502, "egressd: b.example is not allowed (name-not-allowed)", policy.ReasonName, ""},
		{"abort", fault(policy.Fault{AbortStatus: 555, AbortGRPC: -1, AbortPercent: 100}), 555, "fault filter abort", policy.ReasonFault, ""},
		{"abort grpc", fault(policy.Fault{AbortGRPC: 14, AbortPercent: 100}), 200, "", policy.ReasonFault, ""},
		{"abort at 0 percent", fault(policy.Fault{AbortStatus: 555, AbortGRPC: -1}), 200, "ok", policy.ReasonAllowed, ""},
		{"delay", fault(policy.Fault{Delay: time.Millisecond, DelayPercent: 100, AbortGRPC: -1}), 200, "ok", policy.ReasonAllowed, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, HTTP)
			r.httpOrigin("ok.example", func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, "ok") })
			r.rule(tt.a)
			resp, body := get(t, r.client(false), "http://a.example/p")
			if resp.StatusCode != tt.status || tt.body != "" && body != tt.body || resp.Header.Get("Location") != tt.header {
				t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
			}
			e := r.sink.wait(t, flow.Request, 1)
			if e.Reason != tt.reason || e.Status != tt.status || e.Allowed != (tt.name != "denied destination") {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// TestRouteTimeout: the origin is released only after the client has its
// answer, so the answer is the timeout's.
func TestRouteTimeout(t *testing.T) {
	r := newRig(t, HTTP)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	var seen atomic.Int32
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		seen.Add(1)
		if req.URL.Path == "/begun" {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-release:
		case <-req.Context().Done():
		}
	})
	r.rule(routeTo(&policy.HTTPRule{Timeout: 50 * time.Millisecond, Retries: &policy.Retries{Attempts: 5, On: []string{"5xx"}}}, "a.example"))
	c := r.client(false)
	resp, body := get(t, c, "http://a.example/")
	if resp.StatusCode != 504 || body != "upstream request timeout" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if n := seen.Load(); n != 1 {
		t.Errorf("the origin saw %d requests; the timeout covers retries", n)
	}
	resp, err := c.Get("http://a.example/begun")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a response that timed out ended in good order")
	}
	resp.Body.Close()
	for n := 1; n <= 2; n++ {
		if e := r.sink.wait(t, flow.Request, n); e.Reason != policy.ReasonTimeout {
			t.Errorf("event %+v", e)
		}
	}
}

// TestTimeoutCountsFromTheRequestsEnd sends the body later than the timeout.
func TestTimeoutCountsFromTheRequestsEnd(t *testing.T) {
	const timeout = 300 * time.Millisecond
	r := newRig(t, HTTP)
	got := make(chan struct{}, 1)
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		b := make([]byte, 1)
		_, _ = io.ReadFull(req.Body, b)
		got <- struct{}{}
		_, _ = io.Copy(io.Discard, req.Body)
	})
	r.rule(routeTo(&policy.HTTPRule{Timeout: timeout}, "a.example"))
	nc := r.dial()
	write(t, nc, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nx")
	receive(t, got)
	<-time.After(2 * timeout) // the thing under test is time itself
	write(t, nc, "y")
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%+v, %v", resp, err)
	}
}

// unreliable answers the first failures requests badly and then echoes.
func unreliable(failures int32, bad http.HandlerFunc) (http.HandlerFunc, *atomic.Int32) {
	var n atomic.Int32
	return func(w http.ResponseWriter, req *http.Request) {
		if n.Add(1) <= failures {
			bad(w, req)
			return
		}
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(w, "ok %d", len(body))
	}, &n
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func abort(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestRetries(t *testing.T) {
	on := func(n int, tokens ...string) *policy.Retries { return &policy.Retries{Attempts: n, On: tokens} }
	read := func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		w.WriteHeader(503)
	}
	tests := []struct {
		name     string
		retries  *policy.Retries
		failures int32
		bad      http.HandlerFunc
		body     int // bytes
		seen     int32
		status   int
	}{
		{"default does not repeat a 503", nil, 1, status(503), 0, 1, 503},
		{"default does not repeat after a reset", nil, 1, abort, 1, 1, 503},
		{"none", on(0), 1, status(503), 0, 1, 503},
		{"5xx", on(2, "5xx"), 2, status(500), 0, 3, 200},
		{"attempts run out", on(2, "5xx"), 9, status(500), 0, 3, 500},
		{"gateway-error", on(1, "gateway-error"), 1, status(502), 0, 2, 200},
		{"gateway-error is not 500", on(1, "gateway-error"), 1, status(500), 0, 1, 500},
		{"reset", on(1, "reset"), 1, abort, 1, 2, 200},
		{"reset is not a status", on(1, "reset"), 1, status(503), 0, 1, 503},
		{"retriable-4xx", on(1, "retriable-4xx"), 1, status(409), 0, 2, 200},
		{"codes", &policy.Retries{Attempts: 1, On: []string{"retriable-status-codes"}, Codes: []int{418}}, 1, status(418), 0, 2, 200},
		{"codes alone", &policy.Retries{Attempts: 1, Codes: []int{418}}, 1, status(418), 0, 2, 200},
		{"unavailable", on(1, "connect-failure", "unavailable"), 1, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Grpc-Status", "14")
		}, 0, 2, 200},
		{"connect-failure is not a status", on(1, "connect-failure"), 1, status(503), 0, 1, 503},
		{"body replayed", on(1, "5xx"), 1, read, message.MaxReplay, 2, 200},
		{"body too long to replay", on(1, "5xx"), 1, read, message.MaxReplay + 1, 1, 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, HTTP)
			h, seen := unreliable(tt.failures, tt.bad)
			r.httpOrigin("a.example", h)
			r.rule(routeTo(&policy.HTTPRule{Retries: tt.retries}, "a.example"))
			method, body := "GET", io.Reader(nil)
			if tt.body > 0 {
				method, body = "POST", strings.NewReader(strings.Repeat("x", tt.body))
			}
			req, err := http.NewRequest(method, "http://a.example/", body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := r.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tt.status || seen.Load() != tt.seen {
				t.Errorf("status %d after %d requests, want %d after %d", resp.StatusCode, seen.Load(), tt.status, tt.seen)
			}
			if want := fmt.Sprintf("ok %d", tt.body); tt.status == 200 && string(got) != want {
				t.Errorf("body %q, want %q", got, want)
			}
			if e := r.sink.wait(t, flow.Request, 1); int32(e.Retries) != tt.seen-1 {
				t.Errorf("event %+v", e)
			}
		})
	}
}

func TestConnectRetries(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		dials  int
		status int
		reason policy.Reason
	}{
		{"connect", dial.ErrConnect, 3, 503, policy.ReasonUpstream},
		{"resolve", dial.ErrResolve, 3, 503, policy.ReasonResolve},
		{"address", dial.ErrAddress, 1, 502, policy.ReasonAddress},
		{"unsupported", dial.ErrUnsupported, 1, 502, policy.ReasonNotSupported},
	}
	for _, tt := range tests {
		r := newRig(t, HTTP)
		r.fails["a.example"] = tt.err
		resp, _ := get(t, r.client(false), "http://a.example/")
		if n := r.dialCount("a.example"); resp.StatusCode != tt.status || n != tt.dials {
			t.Errorf("%s: status %d after %d dials", tt.name, resp.StatusCode, n)
		}
		if e := r.sink.wait(t, flow.Request, 1); e.Reason != tt.reason || e.Allowed == (tt.status == 502) {
			t.Errorf("%s: event %+v", tt.name, e)
		}
	}
}

func TestPerTryTimeout(t *testing.T) {
	r := newRig(t, HTTP)
	h, seen := unreliable(1, func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	r.httpOrigin("a.example", h)
	r.rule(routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 1, PerTryTimeout: 200 * time.Millisecond, On: []string{"5xx"}}}, "a.example"))
	if resp, body := get(t, r.client(false), "http://a.example/"); resp.StatusCode != 200 || seen.Load() != 2 {
		t.Errorf("%d %s after %d requests", resp.StatusCode, body, seen.Load())
	}
}
