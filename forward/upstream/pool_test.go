// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bufio"
	"net"
	"net/http"
	"testing"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/limits"
)

// shares is a ClusterManager whose connections are shared, and lead to an origin that
// answers every request with 204.
func shares(t *testing.T) *ClusterManager {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				for br := bufio.NewReader(nc); ; {
					if _, err := http.ReadRequest(br); err != nil {
						return
					}
					_, _ = nc.Write([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
				}
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-ended
	})
	return manager(t, func(o *Options) { o.Dialer, o.Share = dialsTo(ln.Addr().String()), true })
}

// connsOf are the connections of a downstream connection of the workload.
func connsOf(t *testing.T, m *ClusterManager, info *downstream.Conn) *Conns {
	p := m.NewConns(info, limits.NewLease(m.o.Limits, info.Owner()), nobody{})
	p.Multiplexed = true
	t.Cleanup(p.Close)
	return p
}

// ask has a request be answered on c, which stays claimed.
func ask(t *testing.T, c *HTTPConn) {
	t.Helper()
	u := c.HTTP1
	u.Begun, u.Good = u.Stream.Count.Load(), false
	if err := c.WriteHTTP1([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	head, err := u.Reader.Head(1 << 10)
	if err == nil {
		err = u.Head.Parse(head, http.MethodGet)
	}
	if err != nil {
		t.Fatal(err)
	}
	u.Body.Begin(u.Reader, u.Head.Length)
	u.Good = true
}

// TestParkedOnce: two requests of one client end on a connection, the second as fast
// as can be: it begins and ends when the first has ended, and the connection is on its
// way to the pool. The pool has it once, and while somebody else uses it, it is that
// one's alone.
func TestParkedOnce(t *testing.T) {
	for name, taken := range map[string]bool{"in the pool": false, "in use": true} {
		t.Run(name, func(t *testing.T) {
			m := shares(t)
			info := &downstream.Conn{Workload: "w", WorkloadID: 1}
			p, other := connsOf(t, m, info), connsOf(t, m, info)
			u := named("a.example")
			key := KeyOf(u, false)
			c, err := p.Acquire(t.Context(), &Drawn{Upstream: u}, false, false)
			if err != nil {
				t.Fatal(err)
			}
			ask(t, c)
			if busy, good := c.done(); busy || !good { // the first half of Release
				t.Fatalf("busy %v, good %v", busy, good)
			}
			if p.Ready(u, false, false) != c {
				t.Fatal("the second request has another connection")
			}
			ask(t, c)
			p.Release(c)
			if taken && other.Ready(u, false, false) != c {
				t.Fatal("the pool does not have it")
			}
			m.pool.park(p, c) // the second half
			want := 1
			if taken {
				want = 0
			}
			if n := len(m.pool.idle[p.poolKey(key)]); n != want {
				t.Errorf("it is in the pool %d times, want %d", n, want)
			}
			if n := len(p.List()); n != 0 {
				t.Errorf("it is the first client's as well")
			}
			if taken {
				other.Release(c)
			}
			if n := len(m.pool.idle[p.poolKey(key)]); n != 1 {
				t.Errorf("in the end it is in the pool %d times", n)
			}
		})
	}
}

// TestParkedWhileClaimed: a request that claims the connection while another's end
// takes it to the pool keeps it, and its own end takes it there.
func TestParkedWhileClaimed(t *testing.T) {
	m := shares(t)
	p := connsOf(t, m, &downstream.Conn{Workload: "w", WorkloadID: 1})
	u := named("a.example")
	c, err := p.Acquire(t.Context(), &Drawn{Upstream: u}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, c)
	c.done()
	if p.Ready(u, false, false) != c {
		t.Fatal("the second request has another connection")
	}
	m.pool.park(p, c)
	if len(p.List()) != 1 || len(m.pool.idle) != 0 {
		t.Errorf("the client has %d connections, the pool %d", len(p.List()), len(m.pool.idle))
	}
	ask(t, c)
	p.Release(c)
	if len(p.List()) != 0 || len(m.pool.idle) != 1 {
		t.Errorf("in the end the client has %d connections, the pool %d", len(p.List()), len(m.pool.idle))
	}
}

// TestPoolKnowsWorkloads: what one workload leaves in the pool no other gets, not even
// one that has its number by now.
func TestPoolKnowsWorkloads(t *testing.T) {
	for name, tt := range map[string]struct {
		second downstream.Conn
		same   bool
	}{
		"itself":         {downstream.Conn{Workload: "w", WorkloadID: 1}, true},
		"another number": {downstream.Conn{Workload: "w", WorkloadID: 2}, false},
		"another name":   {downstream.Conn{Workload: "v", WorkloadID: 1}, false},
	} {
		m := shares(t)
		u := named("a.example")
		first := connsOf(t, m, &downstream.Conn{Workload: "w", WorkloadID: 1})
		c, err := first.Acquire(t.Context(), &Drawn{Upstream: u}, false, false)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, c)
		first.Release(c)
		got := connsOf(t, m, &tt.second).Ready(u, false, false)
		if (got == c) != tt.same {
			t.Errorf("%s: got it: %v", name, got == c)
		}
		if got != nil {
			got.Close()
		}
	}
}
