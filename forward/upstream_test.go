// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestDefaultRetries: the mesh's retries are for rules that say nothing, and
// for requests without a rule.
func TestDefaultRetries(t *testing.T) {
	mesh := &policy.Retries{Attempts: 1, On: []string{"5xx"}}
	for name, c := range map[string]struct {
		action *policy.HTTPAction
		seen   int32
	}{
		"no rule":             {nil, 2},
		"a rule without":      {routeTo(&policy.HTTPRule{}, "a.example"), 2},
		"a rule with its own": {routeTo(&policy.HTTPRule{Retries: &policy.Retries{}}, "a.example"), 1},
	} {
		r := newRig(t, HTTP)
		h, seen := unreliable(1, status(500))
		r.httpOrigin("a.example", h)
		r.http = func(*policy.Request) policy.HTTPDecision {
			return policy.HTTPDecision{Decision: allowed, Action: c.action, Upstream: upstreamOf("a.example"), Retries: mesh}
		}
		get(t, r.client(false), "http://a.example/")
		if seen.Load() != c.seen {
			t.Errorf("%s: %d requests, want %d", name, seen.Load(), c.seen)
		}
	}
}

// TestUnsupportedDestination: of several destinations, the one that would need
// what is not there is denied when it is drawn; the other one is reached.
func TestUnsupportedDestination(t *testing.T) {
	var draw atomic.Uint64
	r := newRig(t, HTTP, func(o *Options) { o.Rand = draw.Load })
	for _, host := range []string{"plain.example", "tls.example"} {
		r.httpOrigin(host, func(w http.ResponseWriter, req *http.Request) {})
	}
	a := routeTo(&policy.HTTPRule{}, "plain.example", "tls.example")
	a.Destinations[1].Upstream.Traffic = &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple}}
	r.rule(a)
	c := r.client(false)
	for n, want := range []int{200, 502} {
		draw.Store(uint64(n))
		if resp, _ := get(t, c, "http://a.example/"); resp.StatusCode != want {
			t.Errorf("destination %d: status %d, want %d", n, resp.StatusCode, want)
		}
	}
	if e := r.sink.wait(t, flow.Request, 2); e.Reason != policy.ReasonNotSupported || e.Allowed || r.dialCount("tls.example") != 0 {
		t.Errorf("event %+v", e)
	}
}

// TestMarks: what policies only say is in the event.
func TestMarks(t *testing.T) {
	r := newRig(t, HTTP)
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {})
	marked := allowed
	marked.Audited, marked.DryRun = &policy.Ref{Name: "audit"}, &policy.Ref{Name: "dry"}
	r.http = func(*policy.Request) policy.HTTPDecision {
		return policy.HTTPDecision{Decision: marked, Upstream: upstreamOf("a.example")}
	}
	get(t, r.client(false), "http://a.example/")
	if e := r.sink.wait(t, flow.Request, 1); e.Audited.Name != "audit" || e.DryRun.Name != "dry" || !e.Allowed || e.WouldDeny {
		t.Errorf("event %+v", e)
	}
}
