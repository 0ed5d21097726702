// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// bound is an origin that authenticates connections, in three steps, as NTLM does.
type bound struct {
	mu    sync.Mutex
	conns int
}

func (b *bound) serve(nc *net.TCPConn) {
	b.mu.Lock()
	b.conns++
	b.mu.Unlock()
	br, user := bufio.NewReader(nc), ""
	challenged := false
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		switch auth := req.Header.Get("Authorization"); {
		case auth == "" && user != "":
		case auth == "NTLM hello":
			challenged = true
			_, _ = io.WriteString(nc, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM challenge\r\nContent-Length: 0\r\n\r\n")
			continue
		case challenged && strings.HasPrefix(auth, "NTLM I am "):
			user = strings.TrimPrefix(auth, "NTLM I am ")
		case auth == "":
			_, _ = io.WriteString(nc, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate, NTLM\r\nContent-Length: 0\r\n\r\n")
			continue
		default:
			_, _ = io.WriteString(nc, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
			continue
		}
		fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(user), user)
	}
}

// sharingOf are the ways in which upstream connections are the client's own, or
// may be another's afterwards.
var sharingOf = map[string]struct {
	share  bool
	policy *policy.TrafficPolicy
}{
	"own":                   {},
	"a Gateway":             {share: true},
	"a DestinationRule":     {policy: &policy.TrafficPolicy{Pool: &policy.ConnectionPool{HTTPIdleTimeout: time.Hour}}},
	"another of its fields": {policy: &policy.TrafficPolicy{Pool: &policy.ConnectionPool{MaxRequests: 9, MaxRequestsPerConn: 100}}},
}

func (r *rig) sharing(traffic *policy.TrafficPolicy, endpoints ...netip.AddrPort) {
	r.change(func() {
		r.http = func(req *policy.Request) policy.HTTPDecision {
			u := upstreamOf(req.Host)
			u.Traffic = traffic
			for _, a := range endpoints {
				u.Endpoints = append(u.Endpoints, policy.UpstreamEndpoint{Addr: a, Weight: 1})
			}
			return policy.HTTPDecision{Decision: allowed, Upstream: u}
		}
	})
}

// TestAuthenticatedConnections: a handshake of three steps goes over one upstream
// connection, also where a request may go to several endpoints, and what it has
// proved is nobody else's.
func TestAuthenticatedConnections(t *testing.T) {
	for name, way := range sharingOf {
		var draws atomic.Uint64
		r := newRig(t, HTTP, func(o *Options) { o.Share, o.Rand = way.share, func() uint64 { return draws.Add(1) } })
		var b bound
		r.origin("a.example", b.serve)
		one := r.addrs["a.example"]
		r.origin("a.example", b.serve)
		r.sharing(way.policy, one, r.addrs["a.example"])
		for n, from := range []string{"127.0.0.1", second.String(), "127.0.0.1", second.String()} {
			nc := r.dialFrom(from)
			for i, step := range []struct {
				auth   string
				status int
				body   string
			}{
				{"", 401, ""}, {"Authorization: NTLM hello\r\n", 401, ""},
				{"Authorization: NTLM I am " + from + "\r\n", 200, from}, {"", 200, from}, {"", 200, from},
			} {
				request := "GET / HTTP/1.1\r\nHost: a.example\r\n" + step.auth + "\r\n"
				if status, body := say(t, nc, request); status != step.status || body != step.body {
					t.Errorf("%s, %s: step %d: %d %q, want %d %q", name, from, i, status, body, step.status, step.body)
				}
			}
			nc.Close()
			r.sink.wait(t, flow.Close, n+1)
		}
	}
}

// dialFrom connects to the core from an address, which says which workload it is.
func (r *rig) dialFrom(from string) *net.TCPConn {
	r.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	nc, err := d.Dial("tcp", r.addr())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return nc.(*net.TCPConn)
}

// TestSharing: who may use an upstream connection after whom.
func TestSharing(t *testing.T) {
	for name, way := range sharingOf {
		shares := name == "a Gateway" || name == "a DestinationRule"
		for _, tt := range []struct {
			name          string
			first, second string
			from          string // of the second; the first is 127.0.0.1
			same          bool   // where sharing is asked for
		}{
			{"two requests that may be repeated", getOf("a.example"), getOf("a.example"), "127.0.0.1", true},
			{"a first request that may not be repeated", getOf("a.example"), postOf("a.example"), "127.0.0.1", false},
			{"behind such a request", postOf("a.example"), getOf("a.example"), "127.0.0.1", true},
			{"another workload", getOf("a.example"), getOf("a.example"), second.String(), false},
			{"behind credentials for the connection", "GET / HTTP/1.1\r\nHost: a.example\r\nAuthorization: Negotiate x\r\n\r\n", getOf("a.example"), "127.0.0.1", false},
			{"behind credentials for the request", "GET / HTTP/1.1\r\nHost: a.example\r\nAuthorization: Basic x\r\n\r\n", getOf("a.example"), "127.0.0.1", true},
		} {
			r := newRig(t, HTTP, func(o *Options) { o.Share = way.share })
			r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) { _, _ = io.Copy(io.Discard, req.Body) })
			r.sharing(way.policy)
			for i, request := range []string{tt.first, tt.second} {
				nc := r.dialFrom([]string{"127.0.0.1", tt.from}[i])
				if status, _ := say(t, nc, request); status != 200 {
					t.Errorf("%s, %s: status %d", name, tt.name, status)
				}
				nc.Close()
				r.sink.wait(t, flow.Close, i+1)
			}
			want := 2
			if shares && tt.same {
				want = 1
			}
			if n := r.dialCount("a.example"); n != want {
				t.Errorf("%s, %s: %d upstream connections, want %d", name, tt.name, n, want)
			}
		}
	}
}

// TestSharedConnectionsEnd: with their idle time, with the policy, after as many
// requests as they may serve, and when their upstream ends them.
func TestSharedConnectionsEnd(t *testing.T) {
	pool := policy.ConnectionPool{HTTPIdleTimeout: time.Hour}
	for name, tt := range map[string]struct {
		change func(*policy.ConnectionPool)
		act    func(r *rig, up *net.TCPConn)
	}{
		"idle":     {change: func(p *policy.ConnectionPool) { p.HTTPIdleTimeout = time.Millisecond }},
		"requests": {change: func(p *policy.ConnectionPool) { p.MaxRequestsPerConn = 1 }},
		"policy":   {act: func(r *rig, _ *net.TCPConn) { r.core.Recheck() }},
		"upstream": {act: func(_ *rig, up *net.TCPConn) { _ = up.CloseWrite() }},
	} {
		r := newRig(t, HTTP)
		p := pool
		if tt.change != nil {
			tt.change(&p)
		}
		r.sharing(&policy.TrafficPolicy{Pool: &p})
		conns := make(chan *net.TCPConn, 8)
		ended := make(chan struct{}, 8)
		r.origin("a.example", func(nc *net.TCPConn) {
			conns <- nc
			br := bufio.NewReader(nc)
			for {
				if _, err := http.ReadRequest(br); err != nil {
					ended <- struct{}{}
					return
				}
				_, _ = io.WriteString(nc, okAnswer)
			}
		})
		nc := r.dial()
		if status, _ := say(t, nc, getOf("a.example")); status != 200 {
			t.Errorf("%s: status %d", name, status)
		}
		nc.Close()
		r.sink.wait(t, flow.Close, 1)
		if up := receive(t, conns); tt.act != nil {
			tt.act(r, up)
		}
		receive(t, ended)
		if u := r.core.o.Limits.Descriptors.Use(); u.Used != 0 {
			deadline := time.Now().Add(patience) // the last to go gives back when it has closed
			for u.Used != 0 && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
				u = r.core.o.Limits.Descriptors.Use()
			}
			if u.Used != 0 {
				t.Errorf("%s: %d descriptors are taken", name, u.Used)
			}
		}
	}
}

// TestStaleSharedConnection: what may be repeated is, on a connection of its own.
func TestStaleSharedConnection(t *testing.T) {
	r := newRig(t, HTTP, func(o *Options) { o.Share = true })
	var conns atomic.Int32
	r.origin("a.example", func(nc *net.TCPConn) {
		mute := conns.Add(1) == 1
		br := bufio.NewReader(nc)
		for n := 0; ; n++ {
			if _, err := http.ReadRequest(br); err != nil || n == 1 && mute {
				return
			}
			_, _ = io.WriteString(nc, okAnswer)
		}
	})
	for n := range 2 {
		nc := r.dial()
		if status, _ := say(t, nc, getOf("a.example")); status != 200 {
			t.Errorf("status %d", status)
		}
		nc.Close()
		if e := r.sink.wait(t, flow.Request, n+1); e.Retries != n {
			t.Errorf("request %d: %d retries", n, e.Retries)
		}
		r.sink.wait(t, flow.Close, n+1)
	}
}
