// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

// held is a handler that holds requests until let is closed.
func held(came chan<- struct{}, let <-chan struct{}) func(int) http.HandlerFunc {
	return func(int) http.HandlerFunc {
		return func(_ http.ResponseWriter, req *http.Request) {
			came <- struct{}{}
			select {
			case <-let:
			case <-req.Context().Done():
			}
		}
	}
}

// TestPoolLimits: what is over a limit is answered with 503 and x-envoy-overloaded;
// when there is room again it goes on. Without the limit nothing is refused.
func TestPoolLimits(t *testing.T) {
	for name, tt := range map[string]struct {
		pool    policy.ConnectionPool
		refused bool
	}{
		"requests":    {policy.ConnectionPool{MaxRequests: 2}, true},
		"pending":     {policy.ConnectionPool{MaxConnections: 2, MaxPendingRequests: 0}, false}, // they wait
		"no limit":    {policy.ConnectionPool{MaxRequests: 9, MaxConnections: 9, MaxPendingRequests: 9}, false},
		"no bound":    {policy.ConnectionPool{}, false},
		"connections": {policy.ConnectionPool{MaxConnections: 1, MaxPendingRequests: 1}, true},
	} {
		came, let := make(chan struct{}, 16), make(chan struct{})
		r := newRig(t, HTTP, chance)
		r.servers(&policy.TrafficPolicy{Pool: &tt.pool}, held(came, let))
		codes := make(chan *http.Response, 4)
		var wg sync.WaitGroup
		ask := func() {
			wg.Go(func() {
				resp, err := r.client(false).Get("http://a.example/")
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				codes <- resp
			})
		}
		r.addr()
		ask()
		receive(t, came)
		ask()
		if tt.pool.MaxConnections == 1 {
			r.waiting(t, 1)
		} else {
			receive(t, came)
		}
		ask()
		if tt.refused {
			resp := receive(t, codes)
			if resp.StatusCode != 503 || resp.Header.Get("X-Envoy-Overloaded") != "true" {
				t.Errorf("%s: %d %v", name, resp.StatusCode, resp.Header)
			}
			if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonOverflow {
				t.Errorf("%s: reason %s", name, e.Reason)
			}
		}
		close(let)
		wg.Wait()
		close(codes)
		for resp := range codes {
			if resp.StatusCode != 200 {
				t.Errorf("%s: %d", name, resp.StatusCode)
			}
		}
	}
}

// waiting waits until n requests wait for a connection.
func (r *rig) waiting(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		sum := r.core.clusters.Waiting()
		if sum >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d requests wait, want %d", sum, n)
		}
	}
}

// TestConnectionLimitIsGivenBack: with one connection for all, many clients that
// come after and beside one another are all served.
func TestConnectionLimitIsGivenBack(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		r := newRig(t, HTTP, chance)
		r.servers(&policy.TrafficPolicy{LoadBalancer: &policy.LoadBalancer{Simple: policy.RoundRobin}, Pool: &policy.ConnectionPool{MaxConnections: 1}}, says)
		r.addr()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				c := r.client(http2)
				for range 10 {
					resp, err := c.Get("http://a.example/")
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 200 {
						t.Errorf("status %d", resp.StatusCode)
					}
				}
			})
		}
		wg.Wait()
	}
}

// TestTCPLimits: a connection over the limit is refused, by name; maxConnectionDuration
// and idleTimeout end one.
func TestTCPLimits(t *testing.T) {
	r := newRig(t, Opaque, chance)
	u := r.servers(&policy.TrafficPolicy{Pool: &policy.ConnectionPool{MaxConnections: 1}}, says)
	nc := r.dial()
	if code, _ := say(t, nc, getOf("a.example")); code != 200 {
		t.Fatal(code)
	}
	dialReset(t, r.addr())
	if e := r.sink.wait(t, flow.Close, 1); e.Reason != policy.ReasonOverflow {
		t.Errorf("reason %s: %s", e.Reason, e.Detail)
	}
	nc.Close()
	r.sink.wait(t, flow.Close, 2)
	if code, _ := say(t, r.dial(), getOf("a.example")); code != 200 {
		t.Errorf("%d when there is room again", code)
	}
	for detail, pool := range map[string]*policy.ConnectionPool{
		"maxConnectionDuration": {MaxConnectionDuration: 50 * time.Millisecond},
		"idle for 50ms":         {TCPIdleTimeout: 50 * time.Millisecond},
	} {
		r := newRig(t, Opaque, chance)
		own := *u
		own.Traffic = &policy.TrafficPolicy{Pool: pool}
		r.serves(&own)
		nc := r.dial()
		_, _ = say(t, nc, getOf("a.example"))
		expectReset(t, nc)
		if e := r.sink.wait(t, flow.Close, 1); !strings.Contains(e.Detail, detail) {
			t.Errorf("%s: %q", detail, e.Detail)
		}
	}
}

// TestMaxRetries: no more retries are under way at once than there may be.
func TestMaxRetries(t *testing.T) {
	for most, want := range map[int]int{0: 200, 1: 503} {
		came, let := make(chan struct{}, 4), make(chan struct{})
		r := newRig(t, HTTP, chance)
		u := r.servers(&policy.TrafficPolicy{Pool: &policy.ConnectionPool{MaxRetries: most}}, func(i int) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				if i == 0 {
					w.WriteHeader(503)
					return
				}
				if req.URL.Path == "/held" {
					came <- struct{}{}
					<-let
				}
			}
		})
		u.Endpoints = u.Endpoints[:2]
		u.Endpoints[0].Weight = 1000 // where all begin
		a := routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 1, On: []string{"5xx"}, Backoff: time.Millisecond}}, "a.example")
		a.Destinations[0].Upstream = u
		r.rule(a)
		done := make(chan int, 1)
		go func() {
			resp, err := r.client(false).Get("http://a.example/held")
			if err != nil {
				t.Error(err)
				close(done)
				return
			}
			resp.Body.Close()
			done <- resp.StatusCode
		}()
		receive(t, came)
		if resp, _ := get(t, r.client(false), "http://a.example/"); resp.StatusCode != want {
			t.Errorf("at most %d: %d, want %d", most, resp.StatusCode, want)
		}
		close(let)
		if code := receive(t, done); code != 200 {
			t.Errorf("the first one: %d", code)
		}
	}
}

// TestProtocolOfARule: a rule says whether HTTP/2 is spoken upstream.
func TestProtocolOfARule(t *testing.T) {
	for _, tt := range []struct {
		pool    policy.ConnectionPool
		of      policy.Protocol
		clients [2]string // the version for HTTP/1 and HTTP/2 clients
	}{
		{policy.ConnectionPool{}, policy.ProtocolHTTP, [2]string{"1", "1"}},
		{policy.ConnectionPool{UpgradeHTTP2: new(true)}, policy.ProtocolHTTP, [2]string{"2", "2"}},
		{policy.ConnectionPool{UpgradeHTTP2: new(false)}, policy.ProtocolHTTP, [2]string{"1", "1"}},
		{policy.ConnectionPool{UseClientProtocol: true}, policy.ProtocolHTTP, [2]string{"1", "2"}},
		{policy.ConnectionPool{UseClientProtocol: true}, policy.ProtocolHTTP2, [2]string{"1", "2"}},
	} {
		r := newRig(t, HTTP, chance)
		u := r.servers(&policy.TrafficPolicy{Pool: &tt.pool}, func(int) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, req.ProtoMajor) }
		})
		u.Protocol = tt.of
		for i, want := range tt.clients {
			if _, got := get(t, r.client(i == 1), "http://a.example/"); got != want {
				t.Errorf("%+v %v: HTTP/%s from a client of HTTP/%d", tt.pool, tt.of, got, i+1)
			}
		}
	}
}

// TestKeepaliveOfARule: connections to the service have the rule's keepalive.
func TestKeepaliveOfARule(t *testing.T) {
	for _, k := range []*policy.Keepalive{nil, {Idle: 77 * time.Second, Interval: 7 * time.Second, Probes: 3}} {
		for _, protocol := range []Handling{HTTP, Opaque} {
			r := newRig(t, protocol, chance)
			dialled := make(chan net.Conn, 1)
			r.dialer.Dialer = &seenDialled{r.fakes, dialled}
			r.servers(&policy.TrafficPolicy{Pool: &policy.ConnectionPool{Keepalive: k}}, says)
			if code, _ := say(t, r.dial(), getOf("a.example")); code != 200 {
				t.Fatal(code)
			}
			want := [3]int{15, 15, 9} // Go's
			if k != nil {
				want = [3]int{77, 7, 3}
			}
			nc := receive(t, dialled).(*net.TCPConn)
			testenv.Until(t, fmt.Sprintf("keepalive %v", want), func() bool { return keepaliveOf(t, nc) == want }) // one of HTTP/1 is young at first
		}
	}
}

// seenDialled shows the connections that are made.
type seenDialled struct {
	*fakes
	dialled chan<- net.Conn
}

func (w *seenDialled) Dial(ctx context.Context, c *Conn, u *policy.Upstream) (net.Conn, error) {
	nc, err := w.fakes.Dial(ctx, c, u)
	if err == nil {
		w.dialled <- nc
	}
	return nc, err
}

// keepaliveOf is what the kernel has: idle and interval in seconds, probes.
func keepaliveOf(t *testing.T, nc *net.TCPConn) (out [3]int) {
	t.Helper()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		for i, option := range []int{unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT} {
			if out[i], err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil {
				t.Error(err)
			}
		}
	})
	return out
}

// TestMaxConcurrentStreams: no more requests than that share an HTTP/2 connection.
func TestMaxConcurrentStreams(t *testing.T) {
	for most, conns := range map[int]int{0: 1, 2: 3} {
		came, let := make(chan struct{}, 8), make(chan struct{})
		r := newRig(t, HTTP, chance)
		u := r.servers(&policy.TrafficPolicy{Pool: &policy.ConnectionPool{MaxConcurrentStreams: most}}, held(came, let))
		u.Protocol, u.Endpoints = policy.ProtocolHTTP2, u.Endpoints[:1]
		c := r.client(true)
		var wg sync.WaitGroup
		ask := func() {
			wg.Go(func() {
				resp, err := c.Get("http://a.example/")
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
			})
		}
		ask()
		receive(t, came)
		for range 4 {
			ask()
		}
		if most > 0 {
			for range 4 {
				receive(t, came)
			}
			if n := r.dialCount("a.example"); n < conns {
				t.Errorf("at most %d: five requests on %d connections, want %d", most, n, conns)
			}
		}
		close(let)
		wg.Wait()
	}
}

// TestConnectionDurationOfHTTP: a connection that has been open for as long as it may
// be serves no more requests, and none fails because of it.
func TestConnectionDurationOfHTTP(t *testing.T) {
	r := newRig(t, HTTP, chance)
	r.servers(&policy.TrafficPolicy{Pool: &policy.ConnectionPool{MaxConnectionDuration: 20 * time.Millisecond, MaxConnections: 1}}, says)
	c := r.client(false)
	for end := time.Now().Add(patience); r.dialCount("a.example") < 3; {
		if resp, _ := get(t, c, "http://a.example/"); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		if time.Now().After(end) {
			t.Fatal("one connection for ever")
		}
	}
}
