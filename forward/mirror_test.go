// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

// copied is what a mirror got.
type copied struct{ line, host, body, header, trailer string }

// mirrorOrigin is an origin that tells of the requests it gets.
func (r *rig) mirrorOrigin(host string) <-chan copied {
	got := make(chan copied, 64)
	r.httpOrigin(host, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		got <- copied{req.Method + " " + req.RequestURI, req.Host, string(body), req.Header.Get("X-Rule"), req.Trailer.Get("X-T")}
		w.WriteHeader(500) // nobody cares
	})
	return got
}

func mirrorTo(host string, percent float64) policy.Mirror {
	return policy.Mirror{Destination: policy.Destination{Host: host, Port: 80}, Percent: percent}
}

// TestMirror: the copy is what the rule makes of the request, with another name
// of the host, and its answer is nobody's.
func TestMirror(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			fmt.Fprint(w, "ok")
		})
		one, two := r.mirrorOrigin("m.example"), r.mirrorOrigin("n.example")
		r.compiled(services("a.example", "m.example", "n.example"), &policy.HTTPRule{
			Route: to("a.example"), Mirrors: []policy.Mirror{mirrorTo("m.example", 100), mirrorTo("n.example", 100)},
			Rewrite: &policy.Rewrite{URI: "/new", Authority: "inner.example:81"},
			Matches: []*policy.HTTPMatch{{URI: &policy.StringMatch{Kind: policy.MatchPrefix, Value: "/old"}}},
			Headers: &policy.Headers{Request: policy.HeaderOps{Set: []policy.Header{{Name: "X-Rule", Value: "yes"}}}},
		})
		c := r.client(http2)
		large := strings.Repeat("x", 200<<10)
		for i, body := range []string{"", "a body", large} {
			req, err := http.NewRequest("POST", "http://a.example/old/p?q=%20", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if i == 1 {
				req.ContentLength = -1
				req.Trailer = http.Header{"X-T": {"end"}}
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			answer, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || string(answer) != "ok" {
				t.Errorf("%d %q", resp.StatusCode, answer)
			}
			want := copied{"POST /new/p?q=%20", "inner.example:81", body, "yes", ""}
			if i == 1 {
				want.trailer = "end"
			}
			for _, got := range []copied{receive(t, one), receive(t, two)} {
				if got != want {
					t.Errorf("got %.200v, want %.200v", got, want)
				}
			}
		}
		for i := range 6 {
			e := r.sink.wait(t, flow.Mirror, i+1)
			if e.Name != "m.example" && e.Name != "n.example" || e.Status != 500 || !e.Upstream.IsValid() || !e.Allowed || e.Reason != policy.ReasonAllowed {
				t.Errorf("event %+v", e)
			}
		}
	}
}

// TestMirrorWithoutCredentials: a copy has neither a credential nor what the client says
// in its place; other fields it has.
func TestMirrorWithoutCredentials(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", status(200))
		got := make(chan http.Header, 1)
		r.httpOrigin("m.example", func(_ http.ResponseWriter, req *http.Request) { got <- req.Header })
		r.compiled(services("a.example", "m.example"), &policy.HTTPRule{
			Route: to("a.example"), Mirrors: []policy.Mirror{mirrorTo("m.example", 100)},
			Credentials: []policy.HeaderCredential{{Name: "authorization", Secret: "default/api", Key: "token"}},
		})
		req, err := http.NewRequest("GET", "http://a.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "mine")
		req.Header.Set("X-Other", "stays")
		resp, err := r.client(http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 503 { // no TLS is originated
			t.Errorf("HTTP/2 %t: %d", http2, resp.StatusCode)
		}
		if h := receive(t, got); h.Get("X-Other") != "stays" || len(h["Authorization"]) > 0 {
			t.Errorf("HTTP/2 %t: the mirror got %v", http2, h)
		}
	}
}

// TestMirrorPercent: a share of the requests is copied, none with 0, and upgrades
// are not. The bounds are five standard deviations (8.7) wide.
func TestMirrorPercent(t *testing.T) {
	const total, low, high = 400, 56, 144
	r := newRig(t, HTTP, func(o *Options) { o.Rand = nil })
	r.httpOrigin("a.example", status(200))
	var some, none atomic.Int32
	r.httpOrigin("some.example", func(http.ResponseWriter, *http.Request) { some.Add(1) })
	r.httpOrigin("none.example", func(http.ResponseWriter, *http.Request) { none.Add(1) })
	rule := func(percent float64) {
		r.compiled(services("a.example", "some.example", "none.example"), &policy.HTTPRule{
			Route: to("a.example"), Mirrors: []policy.Mirror{mirrorTo("some.example", percent), mirrorTo("none.example", 0)},
		})
	}
	rule(25)
	c := r.client(false)
	for range total {
		get(t, c, "http://a.example/")
	}
	testenv.Until(t, "the copies end", func() bool { return r.core.http.Mirrors.Copies.Use().Used == 0 })
	if n := some.Load(); n < low || n > high || none.Load() != 0 || len(r.sink.all(flow.Mirror)) != int(n) {
		t.Errorf("%d and %d copies of %d, %d events; want about 100, none, and as many", n, none.Load(), total, len(r.sink.all(flow.Mirror)))
	}
	before := some.Load()
	rule(100)
	req, _ := http.NewRequest("GET", "http://a.example/", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "x")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	get(t, c, "http://a.example/") // is copied
	testenv.Until(t, "a copy comes and ends", func() bool { return some.Load() > before && r.core.http.Mirrors.Copies.Use().Used == 0 })
	if n := some.Load() - before; n != 1 {
		t.Errorf("%d copies of an upgrade and a request, want one", n)
	}
}

// TestMirrorOpensNothing: a copy goes nowhere that a request may not go, and says so
// itself; the request is not touched.
func TestMirrorOpensNothing(t *testing.T) {
	kube := &policy.Service{Ref: policy.Ref{Kind: "Service", Namespace: "default", Name: "kube"}, Hosts: services("kube.default.svc.cluster.local")[0].Hosts,
		Ports: []policy.Port{{Number: 80, Protocol: policy.ProtocolHTTP}}}
	guarded := services("guarded.example")
	deny := &policy.AuthorizationPolicy{
		Ref: policy.Ref{Kind: "AuthorizationPolicy", Namespace: "default", Name: "deny"}, Action: policy.AuthDeny,
		Targets: []policy.AuthTarget{{Kind: "ServiceEntry", Name: "guarded.example"}}, Rules: []*policy.AuthRule{{}},
	}
	for name, tt := range map[string]struct {
		host    string
		reason  policy.Reason
		allowed bool
		body    int
		fail    error
	}{
		"denied":      {"kube.default.svc.cluster.local", policy.ReasonName, false, 0, nil},
		"guarded":     {"guarded.example", policy.ReasonAuthorization, false, 0, nil},
		"unknown":     {"nobody.example", policy.ReasonNoDestination, true, 0, nil},
		"large":       {"m.example", policy.ReasonOverload, true, message.MaxReplay + 1, nil},
		"unreachable": {"m.example", policy.ReasonUpstream, true, 0, dial.ErrConnect},
		"address":     {"m.example", policy.ReasonAddress, false, 0, dial.ErrAddress},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, HTTP)
			r.httpOrigin("a.example", func(_ http.ResponseWriter, req *http.Request) { _, _ = io.Copy(io.Discard, req.Body) })
			var got [3]<-chan copied
			for i, host := range []string{"kube.default.svc.cluster.local", "guarded.example", "m.example"} {
				got[i] = r.mirrorOrigin(host)
			}
			r.fails["m.example"] = tt.fail
			rule := &policy.HTTPRule{Route: to("a.example"), Mirrors: []policy.Mirror{mirrorTo(tt.host, 100)}}
			r.apply(&policy.Config{
				Services:        append(append(services("a.example", "m.example"), guarded...), kube),
				VirtualServices: []*policy.VirtualService{{Ref: policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "a"}, Hosts: services("a.example")[0].Hosts, Gateways: []string{"mesh"}, HTTP: []*policy.HTTPRule{rule}}},
				Authorizations:  []*policy.AuthorizationPolicy{deny},
			})
			resp, err := r.client(false).Post("http://a.example/", "x/y", strings.NewReader(strings.Repeat("x", tt.body)))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			e := r.sink.only(t, flow.Mirror)
			if resp.StatusCode != 200 || e.Reason != tt.reason || e.Allowed != tt.allowed || e.Status != 0 {
				t.Errorf("%d, event %+v", resp.StatusCode, e)
			}
			for i := range got {
				if len(got[i]) > 0 {
					t.Errorf("a copy arrived: %.200v", receive(t, got[i]))
				}
			}
		})
	}
}

// TestMirrorIsGateway: the rule of an egress gateway acts on copies alone, and a change
// of it ends those that are under way.
func TestMirrorIsGateway(t *testing.T) {
	const service = "istio-egressgateway.istio-system.svc.cluster.local"
	gateway := &policy.Gateway{
		Ref: policy.Ref{Kind: "Gateway", Namespace: "default", Name: "egress"}, Selector: map[string]string{"istio": "egressgateway"},
		Servers: []policy.GatewayServer{{Port: 80, Protocol: policy.ProtocolHTTP, Hosts: services("a.example")[0].Hosts, HostNamespaces: []string{"*"}}},
	}
	compiled := func(r *rig, there *policy.HTTPRule) {
		on := func(name string) []*policy.HTTPMatch { return []*policy.HTTPMatch{{Gateways: []string{name}}} }
		there.Matches = on("default/egress")
		here := &policy.HTTPRule{Matches: on("mesh"), Route: to("a.example"), Mirrors: []policy.Mirror{mirrorTo(service, 100)}}
		r.apply(&policy.Config{
			Services: services("a.example", "m.example"), Gateways: []*policy.Gateway{gateway},
			VirtualServices: []*policy.VirtualService{{
				Ref: policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "a"}, Hosts: services("a.example")[0].Hosts,
				Gateways: []string{"mesh", "default/egress"}, HTTP: []*policy.HTTPRule{here, there},
			}},
		})
	}
	sent := func() *policy.HTTPRule {
		return &policy.HTTPRule{
			Route: to("m.example"), Rewrite: &policy.Rewrite{URI: "/there"},
			Headers:     &policy.Headers{Request: policy.HeaderOps{Set: []policy.Header{{Name: "X-Rule", Value: "yes"}}}},
			Credentials: []policy.HeaderCredential{{Name: "authorization", Secret: "default/api", Key: "token"}},
		}
	}
	faulty := func(delay, abort float64) *policy.HTTPRule {
		out := sent()
		out.Fault = &policy.Fault{Delay: patience, DelayPercent: delay, AbortStatus: 503, AbortGRPC: -1, AbortPercent: abort}
		return out
	}
	for name, tt := range map[string]struct {
		there  *policy.HTTPRule
		reason policy.Reason
		status int // 0: nothing is sent
	}{
		"sent":     {sent(), policy.ReasonAllowed, 200},
		"delayed":  {faulty(100, 0), policy.ReasonAllowed, 200},
		"aborted":  {faulty(0, 100), policy.ReasonFault, 0},
		"redirect": {&policy.HTTPRule{Redirect: &policy.Redirect{URI: "/x"}}, policy.ReasonAllowed, 0},
		"nobody":   {&policy.HTTPRule{Route: to("nobody.example")}, policy.ReasonNoDestination, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, HTTP)
			var original atomic.Pointer[http.Request]
			r.httpOrigin("a.example", func(_ http.ResponseWriter, req *http.Request) { original.Store(req) })
			got := make(chan *http.Request, 1)
			r.httpOrigin("m.example", func(_ http.ResponseWriter, req *http.Request) { got <- req })
			compiled(r, tt.there)
			req, err := http.NewRequest("GET", "http://a.example/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "mine")
			resp, err := r.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if o := original.Load(); resp.StatusCode != 200 || o.Header.Get("Authorization") != "mine" || o.Header.Get("X-Rule") != "" || o.RequestURI != "/" {
				t.Errorf("the request: %d, %+v", resp.StatusCode, o)
			}
			e := r.sink.wait(t, flow.Mirror, 1)
			if e.Reason != tt.reason || e.Status != tt.status || !e.Allowed || e.Gateway != "default/egress" {
				t.Errorf("event %+v", e)
			}
			if tt.status == 0 {
				if len(got) > 0 {
					t.Error("a copy arrived")
				}
				return
			}
			if c := receive(t, got); c.Host != "a.example" || c.RequestURI != "/there" || c.Header.Get("X-Rule") != "yes" || len(c.Header["Authorization"]) > 0 {
				t.Errorf("the copy: %+v", c)
			}
		})
	}
	t.Run("changed", func(t *testing.T) {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", status(200))
		mirror := r.accepts("m.example")
		compiled(r, sent())
		if resp, _ := get(t, r.client(false), "http://a.example/"); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		first := receive(t, mirror)
		compiled(r, &policy.HTTPRule{Redirect: &policy.Redirect{URI: "/x"}})
		r.core.Recheck()
		if e := r.sink.wait(t, flow.Mirror, 1); e.Reason != policy.ReasonPolicyChanged || e.Allowed {
			t.Errorf("event %+v", e)
		}
		if _, err := io.Copy(io.Discard, first); err != nil {
			t.Errorf("the connection to the mirror: %v", err)
		}
	})
}

// TestSlowMirror: mirrors that never answer hold up nothing, take what they are
// given and no more, and end when the policy or the core does.
func TestSlowMirror(t *testing.T) {
	r := newRig(t, HTTP)
	r.httpOrigin("a.example", status(200))
	mirror := r.accepts("m.example")
	rule := &policy.HTTPRule{Route: to("a.example"), Mirrors: []policy.Mirror{mirrorTo("m.example", 100)}}
	r.compiled(services("a.example", "m.example"), rule)
	r.core.http.Mirrors.Conns = limits.NewBudget(8)
	c := r.client(false)
	for range 20 {
		if resp, _ := get(t, c, "http://a.example/"); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	first := receive(t, mirror)
	r.sink.wait(t, flow.Mirror, 16) // 4 have connections, as the share is half
	for _, e := range r.sink.all(flow.Mirror) {
		if e.Reason != policy.ReasonQuota && e.Reason != policy.ReasonOverload {
			t.Errorf("event %+v", e)
		}
	}
	// The mirror is not the workload's any more.
	r.compiled(services("a.example"), rule)
	r.core.Recheck()
	e := r.sink.wait(t, flow.Mirror, 20)
	if e.Reason != policy.ReasonPolicyChanged || e.Allowed {
		t.Errorf("event %+v", e)
	}
	if _, err := io.Copy(io.Discard, first); err != nil {
		t.Errorf("the connection to the mirror: %v", err)
	}
	testenv.Until(t, "mirrors hold nothing", func() bool {
		m := r.core.http.Mirrors
		return m.Copies.Use().Used == 0 && m.Memory.Use().Used == 0 && m.Conns.Use().Used == 0
	})
}
