// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/egressd/egressd/forward/httpproxy"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// few is an Options with few descriptors.
func few(n int64) rigOption {
	return func(o *Options) {
		o.Limits = &limits.Limits{Descriptors: limits.NewBudget(n), Memory: limits.NewBudget(1 << 30)}
	}
}

// second is where the second workload is; all else is the first.
var second = netip.MustParseAddr("127.0.0.2")

// dialAs connects from an address.
func (r *rig) dialAs(from netip.Addr) *net.TCPConn {
	r.t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	nc, err := d.DialContext(r.t.Context(), "tcp", r.addr())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	return nc.(*net.TCPConn)
}

// TestShareOfDescriptors: while one workload holds all that it may have, by
// connections, idle after a request, another one is served.
func TestShareOfDescriptors(t *testing.T) {
	for _, protocol := range []Handling{HTTP, Opaque} {
		r := newRig(t, protocol, few(64))
		r.httpOrigin("a.example", func(http.ResponseWriter, *http.Request) {})
		if protocol == Opaque {
			r.at("opaque.example", net.TCPAddrFromAddrPort(r.addrs["a.example"]))
		}
		ask := func(nc net.Conn) (int, error) {
			if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"); err != nil {
				return 0, err
			}
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				return 0, err
			}
			resp.Body.Close()
			return resp.StatusCode, nil
		}
		served := 0
		for range 40 {
			nc, err := net.Dial("tcp", r.addr())
			if err != nil {
				continue // the reset may come before connect(2) returns
			}
			t.Cleanup(func() { nc.Close() })
			if status, err := ask(nc); status == 200 && err == nil {
				served++
			}
		}
		if served == 0 || served > 16 {
			t.Errorf("%v: %d connections served with 64 descriptors, of which half are the workload's", protocol, served)
		}
		if status, err := ask(r.dialAs(second)); status != 200 {
			t.Errorf("%v: the other workload: %d, %v", protocol, status, err)
		}
		refused := false
		for _, kind := range []flow.Moment{flow.Decision, flow.Request} {
			for _, e := range r.sink.all(kind) {
				refused = refused || e.Reason == policy.ReasonQuota && !e.Allowed
			}
		}
		if !refused {
			t.Errorf("%v: no event with the reason quota", protocol)
		}
	}
}

// TestUpstreamsOfHTTP2AreCounted: many requests at once on one connection open
// many upstream connections; they are the workload's as well.
func TestUpstreamsOfHTTP2AreCounted(t *testing.T) {
	r := newRig(t, HTTP, few(64))
	release, started := make(chan struct{}), make(chan struct{}, 100)
	r.httpOrigin("a.example", func(_ http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/first" {
			return
		}
		started <- struct{}{}
		<-release
	})
	c := r.client(true)
	get(t, c, "http://a.example/first") // or the client opens several connections
	statuses := make(chan int, 60)
	for range 60 {
		go func() {
			resp, err := c.Get("http://a.example/")
			if err != nil {
				statuses <- 0
				return
			}
			resp.Body.Close()
			statuses <- resp.StatusCode
		}()
	}
	// 31 upstream connections beside the one of the client; 29 answers at once.
	for range 29 {
		if s := receive(t, statuses); s != 503 {
			t.Errorf("status %d, want 503", s)
		}
	}
	for range 31 {
		receive(t, started)
	}
	close(release)
	for range 31 {
		if s := receive(t, statuses); s != 200 {
			t.Errorf("status %d, want 200", s)
		}
	}
	if e := r.sink.wait(t, flow.Request, 2); e.Reason != policy.ReasonQuota || e.Allowed || e.Detail == "" {
		t.Errorf("event %+v", e)
	}
}

// TestReplayMemory: what is kept of bodies for another attempt is bounded over
// all requests; beyond it they are forwarded, but not again.
func TestReplayMemory(t *testing.T) {
	r := newRig(t, HTTP, func(o *Options) {
		o.Limits = &limits.Limits{Descriptors: limits.NewBudget(1 << 20), Memory: limits.NewBudget(2 * (limits.ConnMemory + httpproxy.HTTPMemory + httpproxy.DownWindow + 8*httpproxy.StreamMemory + 2*message.MaxReplay + 2*httpproxy.SenderMemory))}
	})
	r.rule(routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 1, On: []string{"5xx"}}}, "a.example"))
	var seen atomic.Int32
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		seen.Add(1)
		w.WriteHeader(500)
	})
	c := r.client(true)
	post := func() {
		resp, err := c.Post("http://a.example/", "x/y", strings.NewReader(strings.Repeat("x", message.MaxReplay)))
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
	}
	post()
	if n := seen.Load(); n != 2 {
		t.Errorf("%d attempts with room, want 2", n)
	}
	// Somebody else has the rest.
	h := limits.Owner{Layer: flow.Egress, Workload: 0}
	for r.core.o.Limits.Memory.Take(h, 4096) == "" {
	}
	seen.Store(0)
	r.core.o.Limits.Memory.Give(h, httpproxy.StreamMemory+httpproxy.SenderMemory)
	post()
	if n := seen.Load(); n != 1 {
		t.Errorf("%d attempts without room, want 1", n)
	}
}

// TestUpstreamBelongsToDownstream: connections are not shared between clients,
// are kept for one client, and end with it.
func TestUpstreamBelongsToDownstream(t *testing.T) {
	for _, proto := range []policy.Protocol{policy.ProtocolHTTP, policy.ProtocolHTTP2} {
		r := newRig(t, HTTP)
		r.http = func(req *policy.Request) policy.HTTPDecision {
			u := upstreamOf(req.Host)
			u.Protocol = proto
			return policy.HTTPDecision{Decision: allowed, Upstream: u}
		}
		var who sync.Map // NTLM and Negotiate bind who somebody is to a connection
		states := make(chan http.ConnState, 100)
		r.httpOriginWith("a.example", func(w http.ResponseWriter, req *http.Request) {
			if user := req.Header.Get("Authorization"); user != "" {
				who.Store(req.RemoteAddr, user)
			}
			if user, ok := who.Load(req.RemoteAddr); ok {
				_, _ = io.WriteString(w, user.(string))
				return
			}
			w.Header().Set("Www-Authenticate", "NTLM")
			w.WriteHeader(401)
		}, func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				states <- s
			}
		})
		alice, bob := r.client(false), r.client(false)
		ask := func(c *http.Client, auth string) string {
			req, err := http.NewRequest("GET", "http://a.example/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if auth != "" {
				req.Header.Set("Authorization", auth)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return string(body)
		}
		for i, got := range []string{ask(bob, ""), ask(alice, "NTLM alice"), ask(bob, ""), ask(alice, ""), ask(bob, "")} {
			if want := []string{"", "NTLM alice", "", "NTLM alice", ""}[i]; got != want {
				t.Errorf("%s: request %d is %q's, want %q", proto, i, got, want)
			}
		}
		if n := r.dialCount("a.example"); n != 2 {
			t.Errorf("%s: %d upstream connections for two clients", proto, n)
		}
		alice.CloseIdleConnections()
		receive(t, states)
		bob.CloseIdleConnections()
		receive(t, states)
	}
}

// TestUpstreamEndsWithDownstream: also one whose request is under way, and one
// that is dialled when the client has gone.
func TestUpstreamEndsWithDownstream(t *testing.T) {
	r := newRig(t, HTTP)
	conns := r.accepts("a.example")
	nc := r.dial()
	write(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	up := receive(t, conns)
	nc.Close()
	_, _ = io.Copy(io.Discard, up) // an end or a reset: it is over
	up.Close()                     // what a server does that has nothing to say
	e := r.sink.wait(t, flow.Close, 1)
	if u := r.core.o.Limits.Descriptors.Use(); u.Used > 1 {
		t.Errorf("%d descriptors are still taken after %+v", u.Used, e)
	}
}
