// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/httpproxy"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

// TestRetryConditions are those of Envoy's RetryStateImpl that TestRetries has not:
// what a rule that names none asks for is Istio's list.
func TestRetryConditions(t *testing.T) {
	asks := &policy.Retries{Attempts: 1, Backoff: time.Millisecond}
	on := func(tokens ...string) *policy.Retries {
		return &policy.Retries{Attempts: 1, On: tokens, Backoff: time.Millisecond}
	}
	grpc := func(code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Grpc-Status", code) }
	}
	limited := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Envoy-Ratelimited", "true")
		w.WriteHeader(503)
	}
	for _, tt := range []struct {
		name    string
		retries *policy.Retries
		bad     http.HandlerFunc
		seen    int32
		flags   string
	}{
		{"a rule without conditions: unavailable", asks, grpc("14"), 2, ""},
		{"a rule without conditions: cancelled", asks, grpc("1"), 2, ""},
		{"a rule without conditions: internal", asks, grpc("13"), 1, ""},
		{"a rule without conditions: 503", asks, status(503), 1, ""},
		{"a rule without conditions: reset", asks, abort, 1, "UC"},
		{"no rule: unavailable", nil, grpc("14"), 1, ""},
		{"deadline-exceeded", on("deadline-exceeded"), grpc("4"), 2, ""},
		{"resource-exhausted", on("resource-exhausted"), grpc("8"), 2, ""},
		{"internal", on("internal"), grpc("13"), 2, ""},
		{"rate limited, 5xx", on("5xx"), limited, 1, ""},
		{"rate limited, and asked for", on("5xx", "envoy-ratelimited"), limited, 2, ""},
		{"retriable-headers: none are configured", on("retriable-headers"), status(503), 1, ""},
		{"reset-before-request: it was sent", on("reset-before-request"), abort, 1, "UC"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, HTTP)
			h, seen := unreliable(1, tt.bad)
			r.httpOrigin("a.example", h)
			r.rule(routeTo(&policy.HTTPRule{Retries: tt.retries}, "a.example"))
			resp, err := r.client(false).Post("http://a.example/", "x/y", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if n := seen.Load(); n != tt.seen {
				t.Errorf("%d requests came, want %d", n, tt.seen)
			}
			if e := r.sink.wait(t, flow.Request, 1); e.ResponseFlags != tt.flags || e.Retries != int(tt.seen)-1 {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// TestRetryLimit: the flags say that the last attempt failed, too, and what of.
func TestRetryLimit(t *testing.T) {
	for name, tt := range map[string]struct {
		retries *policy.Retries
		fail    error
		flags   string
	}{
		"connect, by default": {nil, dial.ErrConnect, "UF,URX"},
		"connect, none":       {&policy.Retries{}, dial.ErrConnect, "UF"},
		"resolve":             {nil, dial.ErrResolve, "UH,URX"},
		"status":              {&policy.Retries{Attempts: 1, On: []string{"5xx"}}, nil, "URX"},
	} {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", status(503))
		r.fails["a.example"] = tt.fail
		r.rule(routeTo(&policy.HTTPRule{Retries: tt.retries}, "a.example"))
		if resp, _ := get(t, r.client(false), "http://a.example/"); resp.StatusCode != 503 {
			t.Errorf("%s: status %d", name, resp.StatusCode)
		}
		if e := r.sink.wait(t, flow.Request, 1); e.ResponseFlags != tt.flags {
			t.Errorf("%s: flags %q, want %q", name, e.ResponseFlags, tt.flags)
		}
	}
}

// TestRetrySaysWhyNot: a body that is not kept is not sent again, and the event
// says so.
func TestRetrySaysWhyNot(t *testing.T) {
	r := newRig(t, HTTP)
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		w.WriteHeader(503)
	})
	r.rule(routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 1, On: []string{"5xx"}}}, "a.example"))
	resp, err := r.client(false).Post("http://a.example/", "x/y", strings.NewReader(strings.Repeat("x", message.MaxReplay+1)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if e := r.sink.wait(t, flow.Request, 1); e.Retries != 0 || !strings.Contains(e.Detail, "body") {
		t.Errorf("event %+v", e)
	}
	if used := r.core.o.Limits.Memory.Use().Used; used > limits.ConnMemory+httpproxy.HTTPMemory+httpproxy.DownWindow+message.SafeReplay {
		t.Errorf("%d bytes of memory are taken for a body that is not kept", used)
	}
}

// TestRetryBudget: of the requests to a service that are under way a part may be
// retries, and some always.
func TestRetryBudget(t *testing.T) {
	r := newRig(t, HTTP)
	var again atomic.Int32
	var came sync.Map
	gate := make(chan struct{})
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		id := req.Header.Get("X-Id")
		if strings.HasPrefix(id, "slow") {
			<-gate
			return
		}
		if _, ok := came.LoadOrStore(id, true); ok {
			again.Add(1)
			<-gate // a retry is one until it has an answer
		}
		w.WriteHeader(503)
	})
	a := routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 1, On: []string{"5xx"}, Backoff: time.Millisecond}}, "a.example")
	a.Destinations[0].Upstream.Traffic = &policy.TrafficPolicy{RetryBudget: &policy.RetryBudget{Percent: 25, MinConcurrency: 1}}
	r.rule(a)
	c := r.client(false)
	var wg sync.WaitGroup
	send := func(id string) {
		wg.Go(func() {
			req, _ := http.NewRequest("GET", "http://a.example/", nil)
			req.Header.Set("X-Id", id)
			if resp, err := c.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	active := r.core.http.Retrying.Active
	for i := range 4 {
		send("slow" + strconv.Itoa(i))
	}
	testenv.Until(t, "the slow ones are under way", func() bool { return active() == 4 })
	for i := range 8 {
		send(strconv.Itoa(i))
	}
	// 4 wait, and at most 8 more are there: 3 may be retries at the most.
	r.sink.wait(t, flow.Request, 5)
	testenv.Until(t, "one is tried again", func() bool { return again.Load() > 0 })
	var over int
	for _, e := range r.sink.all(flow.Request) {
		if e.ResponseFlags == "UO" && e.Status == 503 && strings.Contains(e.Detail, "retry budget") {
			over++
		}
	}
	if over < 5 || again.Load() > 3 {
		t.Errorf("%d were refused, %d tried again", over, again.Load())
	}
	close(gate)
	wg.Wait()
	r.sink.wait(t, flow.Request, 12)
	if n := active(); n != 0 {
		t.Errorf("%d requests count still", n)
	}
}

// TestRetryAnywhere: retryIgnorePreviousHosts false lets a retry go to the endpoint
// that failed.
func TestRetryAnywhere(t *testing.T) {
	for _, anywhere := range []bool{false, true} {
		r := newRig(t, HTTP)
		bad, n := unreliable(2, status(503))
		r.httpOrigin("a.example", bad)
		at := r.addrs["a.example"]
		r.httpOrigin("a.example", status(200))
		a := routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 2, On: []string{"5xx"}, Backoff: time.Millisecond, AnyHost: anywhere}}, "a.example")
		a.Destinations[0].Upstream.Endpoints = []policy.UpstreamEndpoint{{Addr: at, Weight: 1}, {Addr: netip.AddrPort(r.addrs["a.example"]), Weight: 1}}
		r.rule(a)
		get(t, r.client(false), "http://a.example/")
		if got, want := n.Load(), map[bool]int32{false: 1, true: 3}[anywhere]; got != want {
			t.Errorf("anywhere %t: %d requests came to the first endpoint, want %d", anywhere, got, want)
		}
	}
}
