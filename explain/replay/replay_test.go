// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const policyText = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}, {number: 5432, name: tcp, protocol: TCP}, {number: 123, name: udp, protocol: UDP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: net}
spec:
  hosts: [net.address.internal]
  addresses: [192.0.2.0/24, "2001:db8::/32"]
  ports: [{number: 22, name: tcp, protocol: TCP}]
  resolution: NONE
---
apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: build, namespace: ci}
spec: {cgroups: [system.slice/build.service]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: build, namespace: ci}
spec:
  egress: [{hosts: ["default/net.address.internal"]}]
---
`

func snapshot(t *testing.T, text string) *policy.Snapshot {
	t.Helper()
	l, err := load.With([]istio.File{{Name: "policy.yaml", Data: []byte(text)}}, istio.Options{})
	if err != nil {
		t.Fatalf("%v: %v", err, l.Findings)
	}
	return l.Snapshot
}

func at(second int) time.Time { return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC) }

// allowed and denied are lines; dst is a destination, proto what was seen of it.
func allowed(dst, name, proto string, v policy.Verdict) flow.Event {
	e := flow.Event{Time: at(10), Kind: flow.Decision, Layer: flow.Kernel, Workload: "node", Dst: netip.MustParseAddrPort(dst), Name: name, Proto: proto, Transport: policy.TCP, Verdict: v, Allowed: true, Reason: policy.ReasonAllowed}
	if proto == "udp" {
		e.Transport = policy.UDP
	}
	return e
}

func denied(dst, name, proto string, r policy.Reason) flow.Event {
	e := allowed(dst, name, proto, policy.Deny)
	e.Allowed, e.Reason = false, r
	return e
}

func asks(name string) flow.Event {
	e := denied("9.9.9.9:53", name, "dns", policy.ReasonName)
	e.Kind, e.Layer, e.Transport = flow.Query, flow.DNS, policy.UDP
	return e
}

func request(dst, host, path string) flow.Event {
	e := allowed(dst, host, "http", policy.Proxy)
	e.Kind, e.Layer, e.Method, e.Path = flow.Request, flow.Egress, "POST", path
	return e
}

func with(e flow.Event, change func(*flow.Event)) flow.Event {
	change(&e)
	return e
}

// TestReplay: what becomes of each flow.
func TestReplay(t *testing.T) {
	s := snapshot(t, policyText)
	in := func(workload string) func(*flow.Event) { return func(e *flow.Event) { e.Workload = workload } }
	for _, c := range []struct {
		name string
		e    flow.Event
		want string // kind and target; "" as before; "?" it is not asked about; "-" it is none
	}{
		{"TLS", allowed("192.0.2.1:443", "api.example.com", "tls", policy.Inspect), ""},
		{"TLS that the kernel read", allowed("[2001:db8::1]:443", "api.example.com", "tcp", policy.Inspect), ""},
		{"TLS, gone", allowed("192.0.2.1:443", "old.example.com", "tls", policy.Inspect), "denied tls://old.example.com:443"},
		{"a port, gone", allowed("192.0.2.1:8443", "api.example.com", "tls", policy.Proxy), "denied tls://api.example.com:8443"},
		{"opaque", allowed("192.0.2.1:5432", "api.example.com", "tcp", policy.Direct), ""},
		{"opaque, by the proxy", allowed("192.0.2.1:5432", "api.example.com", "tcp", policy.Proxy), "otherwise api.example.com:5432"},
		{"datagram", allowed("192.0.2.1:123", "api.example.com", "udp", policy.Direct), ""},
		{"datagram, gone", allowed("[2001:db8::1]:124", "", "udp", policy.Direct), "denied [2001:db8::1]:124/udp"},
		{"address", allowed("192.0.2.7:22", "", "tcp", policy.Direct), ""},
		{"address, IPv6", allowed("[2001:db8::1]:22", "", "tcp", policy.Direct), ""},
		{"address, gone", allowed("[2001:db9::1]:22", "", "tcp", policy.Direct), "denied [2001:db9::1]:22"},
		{"its end", with(allowed("[2001:db9::1]:22", "", "tcp", policy.Direct), func(e *flow.Event) { e.Kind = flow.Close }), "denied [2001:db9::1]:22"},
		{"request", request("192.0.2.1:80", "api.example.com", "/a"), ""},
		{"request, with a port", request("192.0.2.1:80", "api.example.com:80", "*"), ""},
		{"request, gone", request("[2001:db8::1]:80", "old.example.com", "/a"), "denied POST http://old.example.com:80/a"},
		{"request that failed", with(request("192.0.2.1:80", "api.example.com", "/a"), func(e *flow.Event) { e.Reason = policy.ReasonTimeout }), ""},
		{"denied still", denied("203.0.113.1:443", "", "tcp", policy.ReasonNoRule), ""},
		{"denied no more", denied("192.0.2.1:22", "", "tcp", policy.ReasonNoRule), "allowed 192.0.2.1:22"},
		{"would have been denied", with(denied("[2001:db8::1]:22", "", "tcp", policy.ReasonNoRule), func(e *flow.Event) { e.Allowed, e.WouldDeny, e.Verdict = true, true, policy.Direct }), "allowed [2001:db8::1]:22"},
		{"question", asks("api.example.com"), "allowed api.example.com"},
		{"question, still", asks("evil.example.com"), ""},
		{"other bytes", denied("192.0.2.1:443", "api.example.com", "tcp", policy.ReasonNotTLS), ""},
		{"no SNI", denied("192.0.2.1:443", "api.example.com", "tls", policy.ReasonNoName), ""},
		{"of a workload", with(allowed("192.0.2.1:443", "api.example.com", "tls", policy.Inspect), in("ci/build")), "denied tls://api.example.com:443"},
		{"of that workload", with(allowed("192.0.2.1:22", "", "tcp", policy.Direct), in("ci/build")), ""},
		{"of a command", with(allowed("192.0.2.1:22", "", "tcp", policy.Direct), in("exec/curl")), ""},
		{"came in", with(allowed("192.0.2.1:22", "", "tcp", policy.Direct), func(e *flow.Event) { e.Layer = flow.Ingress }), "?"},
		{"no policy's", denied("192.0.2.1:22", "", "tcp", policy.ReasonOverload), "?"},
		{"raw socket", with(denied("192.0.2.1:22", "", "ip", policy.ReasonSocketType), func(e *flow.Event) { e.Transport = 0 }), "?"},
		{"many", with(denied("192.0.2.1:22", "", "tcp", policy.ReasonNoRule), func(e *flow.Event) { e.Detail = flow.TooMany }), "?"},
		{"what nobody knows", with(allowed("192.0.2.1:22", "", "tcp", policy.Direct), func(e *flow.Event) { e.Kind = "later" }), "?"},
		{"no name of DNS", allowed("192.0.2.1:22", "a b", "tcp", policy.Direct), "?"},
		{"a connection of requests", allowed("192.0.2.1:80", "", "http", policy.Proxy), "-"},
		{"copy", with(request("192.0.2.1:80", "old.example.com", "/a"), func(e *flow.Event) { e.Kind = flow.Mirror }), "-"},
		{"end of a denial", with(denied("192.0.2.1:22", "", "tcp", policy.ReasonNoRule), func(e *flow.Event) { e.Kind = flow.Close }), "-"},
	} {
		var f Flows
		f.Add(&c.e)
		out := f.Run(s)
		got := "-"
		switch {
		case len(out.Unasked) == 1 && out.Flows == 0 && out.Unasked[0].Why != "" && out.Unasked[0].Count == 1:
			got = "?"
		case out.Same == 1 && out.Flows == 1:
			got = ""
		case len(out.Changes) == 1 && out.Flows == 1:
			x := out.Changes[0]
			got = strings.ReplaceAll(fmt.Sprint(x.Kind, " ", x.Method, " ", x.Target), "  ", " ")
			if !strings.Contains(x.Says, x.Target) || x.Count != 1 || len(x.Steps) == 0 || (x.Kind == Denied) == x.Now.Allowed {
				t.Errorf("%s: %+v", c.name, x)
			}
		case out.Flows != 0 || len(out.Changes) > 0:
			t.Errorf("%s: %+v", c.name, out)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q: %+v", c.name, got, c.want, out)
		}
	}
}

// TestWays: a request that was recorded with its route is told when the rule, what it
// leads to, or its timeout is another one, and not when one of several ways is as it was.
func TestWays(t *testing.T) {
	const route = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other}
spec: {hosts: [other.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: %s}
spec:
  hosts: [api.example.com]
  http: [{name: primary, timeout: %s, route: [%s]}]
`
	const here, there = "{destination: {host: api.example.com}}", "{destination: {host: other.example.com}}"
	half := strings.ReplaceAll(here, "}}", "}, weight: 50}") + ", " + strings.ReplaceAll(there, "}}", "}, weight: 50}")
	went := func(e *flow.Event) {
		e.Route, e.RouteName, e.Timeout, e.Destination = &policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "vs"}, "primary", 5*time.Second, "api.example.com"
	}
	for _, c := range []struct {
		name, policy string
		was          func(*flow.Event)
		want         string
	}{
		{"as it was", fmt.Sprintf(route, "vs", "5s", here), went, ""},
		{"one of two ways", fmt.Sprintf(route, "vs", "5s", half), went, ""},
		{"nothing is recorded", fmt.Sprintf(route, "vs", "5s", there), func(*flow.Event) {}, ""},
		{"no rule, then and now", "", func(e *flow.Event) { e.Destination = "api.example.com" }, ""},
		{"another destination", fmt.Sprintf(route, "vs", "5s", there), went, "but to other.example.com, where it went to api.example.com"},
		{"another timeout", fmt.Sprintf(route, "vs", "7s", here), went, "but with timeout 7s, where it had timeout 5s"},
		{"another object", fmt.Sprintf(route, "next", "5s", here), went, `but by route "primary" of VirtualService default/next, where it went by route "primary" of VirtualService default/vs`},
		{"no rule any more", "", went, "but by no route, where it went by route"},
		{"a rule where there was none", fmt.Sprintf(route, "vs", "5s", there), func(e *flow.Event) { e.Destination = "api.example.com" }, `but by route "primary" of VirtualService default/vs, where it went by no route; to other.example.com, where it went to api.example.com; with timeout 5s, where it had no timeout`},
	} {
		e := with(request("192.0.2.1:80", "api.example.com", "/a"), c.was)
		var f Flows
		f.Add(&e)
		out := f.Run(snapshot(t, policyText+c.policy))
		says := ""
		if len(out.Changes) == 1 && out.Changes[0].Kind == Otherwise {
			says = out.Changes[0].Says
		}
		if (c.want == "") != (len(out.Changes) == 0) || !strings.Contains(says, c.want) {
			t.Errorf("%s: %q, want %q: %+v", c.name, says, c.want, out)
		}
	}
}

// TestWildcardWay: a request to a wildcard's host is recorded by its own name, and one of
// which no destination is known failed before it had one.
func TestWildcardWay(t *testing.T) {
	rule := func(to string) RouteWay {
		return RouteWay{Route: "VirtualService default/vs", Timeout: time.Second, Destination: to}
	}
	for _, c := range []struct {
		was, now string
		want     bool
	}{{"a.example.com", "*.example.com", true}, {"a.example.net", "*.example.com", false}, {"", "a.example.com", true}, {"a.example.com", "", false}} {
		if got := rule(c.was).isAmong([]RouteWay{rule(c.now)}, true); got != c.want {
			t.Errorf("%q, and now %q: %t", c.was, c.now, got)
		}
	}
}

// TestCounts: lines about one flow are counted together, from the first to the last; what
// is missing is told, and so is what is not recorded, and what would allow it.
func TestCounts(t *testing.T) {
	e := request("192.0.2.1:80", "old.example.com", "/a")
	end := allowed("192.0.2.1:8443", "old.example.com", "tls", policy.Inspect)
	end.Kind = flow.Close // its beginning is in a file that is gone
	var f Flows
	for i := range 3 {
		e.Time = at(20 + 10*i)
		f.Add(&e)
	}
	again := denied("192.0.2.1:22", "", "tcp", policy.ReasonNoRule)
	again.More, again.Duration = 9, 5*time.Second
	pod := allowed("192.0.2.1:22", "", "tcp", policy.Direct)
	pod.Workload = "shop/web"
	for _, e := range []flow.Event{end, again, pod, {Time: at(0), Kind: flow.Lost, More: 4}} {
		f.Add(&e)
	}
	out := f.Run(snapshot(t, policyText))
	if out.Missing != 4 || out.Flows != 4 || out.Same != 1 || !slices.Equal(out.Undescribed, []string{"shop/web"}) || len(out.Changes) != 3 || out.Count(Denied) != 2 || out.Count(Allowed) != 1 {
		t.Fatalf("%+v", out)
	}
	a, r, c := out.Changes[0], out.Changes[1], out.Changes[2]
	if a.Count != 9 || !a.First.Equal(at(5)) || !a.Last.Equal(at(10)) || len(a.Lacks) != 1 || a.Allow != "" {
		t.Errorf("%+v", a)
	}
	if r.Count != 3 || !r.First.Equal(at(20)) || !r.Last.Equal(at(40)) || r.Allow != "old.example.com:80" || len(r.Lacks) != 1 || !strings.Contains(r.Says, "would be denied (name-not-allowed): dns: old.example.com is not allowed") {
		t.Errorf("%+v", r)
	}
	if c.Count != 1 || c.Host != "old.example.com" || c.Allow != "tls://old.example.com:8443" && c.Allow != "old.example.com:8443" {
		t.Errorf("%+v", c)
	}
}

// FuzzFlows: whatever was recorded, each line is asked about, told, or a part of another.
func FuzzFlows(f *testing.F) {
	f.Add("api.example.com", "192.0.2.1:80", "http", "/a", uint8(0), true)
	f.Add("a%zz\n", "[::ffff:1.2.3.4]:443", "tls", "", uint8(1), false)
	f.Add("[::1]:80", "[fe80::1%eth0]:1", "udp", "?", uint8(2), true)
	f.Fuzz(func(t *testing.T, name, dst, proto, path string, kind uint8, ok bool) {
		e := flow.Event{Time: at(1), Layer: flow.Kernel, Name: name, Proto: proto, Path: path, Method: path, Allowed: ok, Verdict: policy.Proxy, Reason: policy.ReasonNoRule, Transport: policy.TCP}
		e.Dst, _ = netip.ParseAddrPort(dst)
		e.Kind = []flow.Moment{flow.Decision, flow.Request, flow.Query, flow.Close}[kind%4]
		var flows Flows
		flows.Add(&e)
		out := flows.Run(snapshot(t, policyText))
		if n := out.Flows + len(out.Unasked); n != 1 && !isPart(&e) {
			t.Errorf("%+v: %+v", e, out)
		}
	})
}
