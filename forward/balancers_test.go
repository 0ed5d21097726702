// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// testClock is a clock that a test moves.
type testClock struct{ past atomic.Int64 }

func (c *testClock) now() time.Time { return time.Unix(1_700_000_000, c.past.Load()) }

func (c *testClock) move(d time.Duration) { c.past.Add(int64(d)) }

func (c *testClock) option(o *Options) {
	o.Now = c.now
	o.Rand = rand.Uint64
}

func chance(o *Options) { o.Rand = rand.Uint64 }

// servers serve on three addresses, one of them of IPv6, and return the upstream
// of them with a traffic policy.
func (r *rig) servers(traffic *policy.TrafficPolicy, serve func(i int) http.HandlerFunc) *policy.Upstream {
	r.t.Helper()
	u := upstreamOf("a.example")
	u.Resolution, u.Traffic = policy.ResolutionStatic, traffic
	for i, at := range []string{"127.0.0.1:0", "[::1]:0", "127.0.0.1:0"} {
		var p http.Protocols
		p.SetHTTP1(true)
		p.SetUnencryptedHTTP2(true)
		s := &http.Server{Handler: serve(i), Protocols: &p}
		ln := listen(r.t, at)
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(ln) }()
		r.t.Cleanup(func() { s.Close(); <-done })
		u.Endpoints = append(u.Endpoints, policy.UpstreamEndpoint{Addr: relay.AddrPort(ln.Addr()), Weight: 1})
	}
	r.serves(u)
	return u
}

// serves has all requests and connections go to u.
func (r *rig) serves(u *policy.Upstream) {
	r.change(func() {
		r.http = func(*policy.Request) policy.HTTPDecision {
			return policy.HTTPDecision{Decision: allowed, Upstream: u}
		}
		open := r.open
		r.open = func(c *Conn) Admission {
			a := open(c)
			if a.Protocol == Opaque {
				a.Upstream = u
			}
			return a
		}
	})
}

func says(i int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) }
}

func lb(simple string) *policy.TrafficPolicy {
	return &policy.TrafficPolicy{LoadBalancer: &policy.LoadBalancer{Simple: simple}}
}

func hashed(h policy.ConsistentHash) *policy.TrafficPolicy {
	return &policy.TrafficPolicy{LoadBalancer: &policy.LoadBalancer{Hash: &h}}
}

// TestBalancedHTTP: requests of one connection go to all endpoints, by the
// algorithm, over IPv4 and IPv6.
func TestBalancedHTTP(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for name, within := range map[string]float64{policy.RoundRobin: 0, policy.LeastRequest: 60, policy.Random: 60} {
			r := newRig(t, HTTP, chance)
			r.servers(lb(name), says)
			c, got := r.client(http2), map[string]float64{}
			for range 300 {
				_, body := get(t, c, "http://a.example/")
				got[body]++
			}
			for i := range 3 {
				if n := got[fmt.Sprint(i)]; math.Abs(n-100) > within {
					t.Errorf("%s, HTTP/2 %v: %v", name, http2, got)
				}
			}
		}
	}
}

// TestBalancedTCP: so do connections.
func TestBalancedTCP(t *testing.T) {
	for name, within := range map[string]int{policy.RoundRobin: 0, policy.LeastRequest: 40, policy.Random: 40} {
		r := newRig(t, Opaque, chance)
		u := r.servers(lb(name), says)
		for range 90 {
			nc := r.dial()
			if code, _ := say(t, nc, getOf("a.example")); code != 200 {
				t.Fatalf("status %d", code)
			}
			nc.Close()
		}
		got := map[netip.AddrPort]int{}
		for i := range 90 {
			got[r.sink.wait(t, flow.Close, i+1).Upstream]++
		}
		for _, e := range u.Endpoints {
			if n := got[e.Addr]; n < 30-within || n > 30+within {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}

// TestTheRuleDecides: without a rule the endpoint that the workload dialled is used;
// with one it is as good as the others, unless it says PASSTHROUGH.
func TestTheRuleDecides(t *testing.T) {
	for _, tt := range []struct {
		traffic *policy.TrafficPolicy
		all     bool
	}{{nil, false}, {lb(policy.RoundRobin), true}, {lb(policy.Passthrough), false}} {
		r := newRig(t, HTTP, chance)
		u := r.servers(tt.traffic, says)
		u.Endpoints[1].Addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), listenOn(t, "127.0.0.2:0", says(1)))
		u.Endpoints[2].Addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), listenOn(t, "127.0.0.3:0", says(2)))
		r.dst = u.Endpoints[2].Addr
		c, got := r.client(false), map[string]int{}
		for range 9 {
			_, body := get(t, c, "http://a.example/")
			got[body]++
		}
		if tt.all != (got["0"] == 3 && got["1"] == 3) || !tt.all && got["2"] != 9 {
			t.Errorf("%+v: %v", tt.traffic, got)
		}
	}
}

// listenOn serves on an address, and returns the port.
func listenOn(t *testing.T, at string, h http.Handler) uint16 {
	s := &http.Server{Handler: h}
	ln := listen(t, at)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close(); <-done })
	return relay.AddrPort(ln.Addr()).Port()
}

// TestResolvedNames: with a rule, load is balanced among the addresses of a name.
func TestResolvedNames(t *testing.T) {
	for _, traffic := range []*policy.TrafficPolicy{nil, lb(policy.RoundRobin)} {
		r := newRig(t, HTTP, chance)
		u := r.servers(traffic, says)
		port := listenOn(t, "127.0.0.1:0", says(7))
		for _, a := range []string{"127.0.0.2", "127.0.0.3"} {
			listenOn(t, netip.AddrPortFrom(netip.MustParseAddr(a), port).String(), says(8))
		}
		r.addrs["a.example"] = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		r.resolves = map[string][]netip.Addr{"a.example": {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("::1")}}
		u.Endpoints, u.Resolution = nil, policy.ResolutionDNS
		u.Names = []policy.UpstreamName{{Name: "a.example", Port: port, Weight: 1}}
		c, got := r.client(false), map[string]int{}
		for range 9 {
			_, body := get(t, c, "http://a.example/")
			got[body]++
		}
		// ::1 is not of the family that the workload dialled.
		if want := map[bool]int{true: 3, false: 9}[traffic != nil]; got["7"] != want || got["7"]+got["8"] != 9 {
			t.Errorf("%+v: %v", traffic, got)
		}
	}
}

// TestHashKeys: what a request is hashed by keeps it at one endpoint; what differs
// is spread.
func TestHashKeys(t *testing.T) {
	for name, tt := range map[string]struct {
		hash   policy.ConsistentHash
		change func(r *http.Request, i int)
		spread bool
	}{
		"header":        {policy.ConsistentHash{Header: "x-user"}, func(r *http.Request, i int) { r.Header.Set("X-User", fmt.Sprint(i)) }, true},
		"maglev":        {policy.ConsistentHash{Header: "x-user", Maglev: 251}, func(r *http.Request, i int) { r.Header.Set("X-User", fmt.Sprint(i)) }, true},
		"query":         {policy.ConsistentHash{Query: "q", RingSize: 2000}, func(r *http.Request, i int) { r.URL.RawQuery = fmt.Sprint("q=", i) }, true},
		"cookie":        {policy.ConsistentHash{Cookie: &policy.HashCookie{Name: "c"}}, func(r *http.Request, i int) { r.Header.Set("Cookie", fmt.Sprint("a=b; c=", i)) }, true},
		"source":        {policy.ConsistentHash{SourceIP: true}, func(r *http.Request, i int) { r.Header.Set("X-User", fmt.Sprint(i)) }, false},
		"header of all": {policy.ConsistentHash{Header: "x-user"}, func(r *http.Request, _ int) { r.Header.Set("X-User", "all") }, false},
	} {
		r := newRig(t, HTTP, chance)
		r.servers(hashed(tt.hash), says)
		at := map[string]bool{}
		for i := range 20 {
			var last string
			for n := range 3 {
				c := r.client(n == 2) // other connections, and HTTP/2
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a.example/", nil)
				tt.change(req, i)
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if last != "" && string(body) != last {
					t.Errorf("%s %d: at %s, then at %s", name, i, last, body)
				}
				last = string(body)
				if resp.Header.Get("Set-Cookie") != "" {
					t.Errorf("%s: a cookie %q", name, resp.Header.Get("Set-Cookie"))
				}
			}
			at[last] = true
		}
		if spread := len(at) == 3; spread != tt.spread || !spread && len(at) != 1 {
			t.Errorf("%s: endpoints %v", name, at)
		}
	}
}

// TestStickyCookie: a client without the cookie gets one, with which it comes back
// to the same endpoint.
func TestStickyCookie(t *testing.T) {
	ttl := 90 * time.Second
	for _, tt := range []struct {
		cookie policy.HashCookie
		want   string
	}{
		{policy.HashCookie{Name: "stick", Path: "/p", TTL: &ttl}, "; Max-Age=90; Path=/p; HttpOnly"},
		{policy.HashCookie{Name: "stick", TTL: new(time.Duration), Attributes: []policy.Header{{Name: "Secure"}, {Name: "SameSite", Value: "Lax"}}}, "; Secure; SameSite=Lax; HttpOnly"},
	} {
		r := newRig(t, HTTP, chance)
		r.servers(hashed(policy.ConsistentHash{Cookie: &tt.cookie}), says)
		for range 8 {
			resp, first := get(t, r.client(false), "http://a.example/")
			said := resp.Header.Get("Set-Cookie")
			value, rest, _ := strings.Cut(strings.TrimPrefix(said, `stick="`), `"`)
			if len(value) != 16 || rest != tt.want {
				t.Fatalf("Set-Cookie: %s", said)
			}
			for range 4 {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a.example/", nil)
				req.Header.Set("Cookie", "stick="+value)
				resp, err := r.client(false).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(body) != first || resp.Header.Get("Set-Cookie") != "" {
					t.Errorf("at %s, then at %s with %q", first, body, resp.Header.Get("Set-Cookie"))
				}
			}
		}
	}
}

// TestOutlierHTTP: an endpoint that answers errors gets nothing for a while, is
// counted, and comes back.
func TestOutlierHTTP(t *testing.T) {
	var clock testClock
	n := uint32(2)
	for name, o := range map[string]policy.OutlierDetection{
		"5xx":     {Consecutive5xx: &n},
		"gateway": {Consecutive5xx: new(uint32), ConsecutiveGateway: &n},
		"codes":   {Consecutive5xx: &n, Codes: []uint32{418}},
	} {
		var bad atomic.Int32
		bad.Store(1)
		code := map[string]int{"5xx": 500, "gateway": 503, "codes": 418}[name]
		r := newRig(t, HTTP, clock.option)
		o.MaxEjectionPercent, o.Interval, o.BaseEjection = 50, 10*time.Second, 30*time.Second
		r.servers(&policy.TrafficPolicy{Outlier: &o, LoadBalancer: &policy.LoadBalancer{Simple: policy.RoundRobin}}, func(i int) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				if int(bad.Load()) == i {
					w.WriteHeader(code)
				}
			}
		})
		c := r.client(false)
		failures := func() (failed int) {
			for range 30 {
				if resp, _ := get(t, c, "http://a.example/"); resp.StatusCode != 200 {
					failed++
				}
			}
			return failed
		}
		if got := failures(); got != 2 {
			t.Errorf("%s: %d failures, want 2, after which the endpoint is out", name, got)
		}
		ejections := uint64(0)
		for _, n := range r.core.Stats().Ejections {
			ejections += n
		}
		if ejections != 1 {
			t.Errorf("%s: ejections %v", name, r.core.Stats().Ejections)
		}
		clock.move(41 * time.Second)
		if got := failures(); got != 2 {
			t.Errorf("%s: %d failures after it came back", name, got)
		}
		bad.Store(-1)
		clock.move(71 * time.Second)
		if got := failures(); got != 0 {
			t.Errorf("%s: %d failures at the end", name, got)
		}
	}
}

// TestOutlierConnections: an endpoint that can't be connected to is taken out, for
// HTTP and TCP; no connection fails because of it, for others are tried.
func TestOutlierConnections(t *testing.T) {
	var clock testClock
	n := uint32(2)
	for _, protocol := range []Handling{HTTP, Opaque} {
		for _, split := range []bool{false, true} {
			r := newRig(t, protocol, clock.option)
			o := &policy.OutlierDetection{Consecutive5xx: &n, MaxEjectionPercent: 50, SplitLocal: split}
			if split {
				o.ConsecutiveLocal = &n
			}
			u := r.servers(&policy.TrafficPolicy{Outlier: o, LoadBalancer: &policy.LoadBalancer{Simple: policy.RoundRobin}}, says)
			ln := listen(t, "[::1]:0")
			u.Endpoints[1].Addr = relay.AddrPort(ln.Addr())
			ln.Close()
			for range 30 {
				nc := r.dial()
				if code, body := say(t, nc, getOf("a.example")); code != 200 {
					t.Fatalf("%v: %d %s", protocol, code, body)
				}
				nc.Close()
			}
			if n := r.dialCount("a.example"); n != 32 {
				t.Errorf("%v, split %v: %d dials for 30 connections, of which two found the dead endpoint", protocol, split, n)
			}
		}
	}
}

// TestAllUnhealthy: when no endpoint is left the answer says so.
func TestAllUnhealthy(t *testing.T) {
	n := uint32(1)
	r := newRig(t, HTTP, chance)
	r.servers(&policy.TrafficPolicy{Outlier: &policy.OutlierDetection{Consecutive5xx: &n, MaxEjectionPercent: 100}}, func(int) http.HandlerFunc { return status(500) })
	c := r.client(false)
	for range 3 {
		if resp, _ := get(t, c, "http://a.example/"); resp.StatusCode != 500 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	resp, body := get(t, c, "http://a.example/")
	if resp.StatusCode != 503 || !strings.Contains(body, "no-healthy-upstream") || resp.Header.Get("X-Envoy-Overloaded") != "" {
		t.Errorf("%d %s %v", resp.StatusCode, body, resp.Header)
	}
	if e := r.sink.wait(t, flow.Request, 4); e.Reason != policy.ReasonUnhealthy {
		t.Errorf("reason %s", e.Reason)
	}
}

// TestEachWorkloadItsOwn: what one workload does to a service takes no endpoint
// away from another.
func TestEachWorkloadItsOwn(t *testing.T) {
	n := uint32(1)
	r := newRig(t, HTTP, chance)
	r.servers(&policy.TrafficPolicy{Outlier: &policy.OutlierDetection{Consecutive5xx: &n, MaxEjectionPercent: 100}}, func(int) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/bad" {
				w.WriteHeader(500)
			}
		}
	})
	c := r.client(false)
	for range 4 {
		get(t, c, "http://a.example/bad")
	}
	nc, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: second.AsSlice()}, Timeout: patience}).Dial("tcp", r.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	if code, body := say(t, nc, getOf("a.example")); code != 200 {
		t.Errorf("the other workload: %d %s", code, body)
	}
}

// TestNoRoomForBalancers: a workload that has its share of the memory is refused,
// rather than balanced without a limit.
func TestNoRoomForBalancers(t *testing.T) {
	r := newRig(t, HTTP, chance, func(o *Options) { o.Limits = &limits.Limits{Memory: limits.NewBudget(1 << 20)} })
	r.servers(hashed(policy.ConsistentHash{Header: "x", RingSize: 8 << 20}), says)
	resp, body := get(t, r.client(false), "http://a.example/")
	if resp.StatusCode != 503 || !strings.Contains(body, string(policy.ReasonOverload)) && !strings.Contains(body, string(policy.ReasonQuota)) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// TestSilentEndpoints: a connection waits for an endpoint that says nothing no longer
// than it may, and is then tried at another.
func TestSilentEndpoints(t *testing.T) {
	r := newRig(t, Opaque, chance)
	u := r.servers(&policy.TrafficPolicy{LoadBalancer: &policy.LoadBalancer{Simple: policy.RoundRobin}, Pool: &policy.ConnectionPool{ConnectTimeout: 50 * time.Millisecond}}, says)
	dialer := &silentAt{fakes: r.fakes, at: u.Endpoints[1].Addr}
	r.dialer.Dialer = dialer
	for range 6 {
		if code, _ := say(t, r.dial(), getOf("a.example")); code != 200 {
			t.Errorf("status %d", code)
		}
	}
	dialer.all.Store(true)
	dialReset(t, r.addr())
}

// silentAt is a dialer that gets no answer from an endpoint, or from any.
type silentAt struct {
	*fakes
	at  netip.AddrPort
	all atomic.Bool
}

func (s *silentAt) Dial(ctx context.Context, c *Conn, u *policy.Upstream) (net.Conn, error) {
	if s.all.Load() || u.Endpoints[0].Addr == s.at {
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", dial.ErrConnect, ctx.Err())
	}
	return s.fakes.Dial(ctx, c, u)
}

// TestPrivateConnection: a request that goes on where its client has authenticated
// says nothing of the endpoint that was drawn for it.
func TestPrivateConnection(t *testing.T) {
	n := uint32(2)
	r := newRig(t, HTTP, chance)
	r.servers(&policy.TrafficPolicy{LoadBalancer: &policy.LoadBalancer{Simple: policy.RoundRobin}, Outlier: &policy.OutlierDetection{Consecutive5xx: &n, MaxEjectionPercent: 100}},
		func(i int) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				if req.Header.Get("Authorization") != "" {
					w.WriteHeader(500)
				}
			}
		})
	nc := r.dial()
	for range 9 { // all on one connection to one endpoint
		if code, body := say(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\nAuthorization: NTLM x\r\n\r\n"); code != 500 {
			t.Fatalf("%d %s", code, body)
		}
	}
	if got := r.dialCount("a.example"); got != 1 {
		t.Errorf("%d connections", got)
	}
	out := uint64(0)
	for _, n := range r.core.Stats().Ejections {
		out += n
	}
	if out > 1 {
		t.Errorf("%d endpoints are out", out)
	}
}
