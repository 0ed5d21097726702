// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
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
			if n := len(m.pool.idle[p.poolKey(&key)]); n != want {
				t.Errorf("it is in the pool %d times, want %d", n, want)
			}
			if n := len(p.List()); n != 0 {
				t.Errorf("it is the first client's as well")
			}
			if taken {
				other.Release(c)
			}
			if n := len(m.pool.idle[p.poolKey(&key)]); n != 1 {
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
// one that has its number by now, nor itself under another policy or for another address
// that it has dialled. Visitors of a gateway dial the gateway.
func TestPoolKnowsWorkloads(t *testing.T) {
	at := netip.MustParseAddrPort
	self := downstream.Conn{Workload: "n/w", WorkloadID: 1, Policy: 1, Layer: flow.Egress, Dst: at("192.0.2.1:80"), Src: at("10.0.0.1:1000")}
	visitor := downstream.Conn{Layer: flow.Ingress, Policy: 1, Dst: at("192.0.2.1:80")}
	for name, tt := range map[string]struct {
		first  downstream.Conn
		change func(c *downstream.Conn)
		same   bool
	}{
		"itself":                  {self, func(c *downstream.Conn) { c.Src = at("10.0.0.1:1001") }, true},
		"another number":          {self, func(c *downstream.Conn) { c.WorkloadID = 2 }, false},
		"another name":            {self, func(c *downstream.Conn) { c.Workload = "n/v" }, false},
		"another namespace":       {self, func(c *downstream.Conn) { c.Workload = "m/w" }, false},
		"another policy":          {self, func(c *downstream.Conn) { c.Policy = 2 }, false},
		"another address dialled": {self, func(c *downstream.Conn) { c.Dst = at("192.0.2.2:80") }, false},
		"a gateway":               {self, func(c *downstream.Conn) { c.Layer = flow.Ingress }, false},
		"a visitor":               {visitor, func(c *downstream.Conn) { c.Dst, c.Src = at("192.0.2.2:80"), at("198.51.100.1:9") }, true},
	} {
		m := shares(t)
		u := named("a.example")
		first := connsOf(t, m, &tt.first)
		c, err := first.Acquire(t.Context(), &Drawn{Upstream: u}, false, false)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, c)
		first.Release(c)
		second := tt.first
		tt.change(&second)
		got := connsOf(t, m, &second).Ready(u, false, false)
		if (got == c) != tt.same {
			t.Errorf("%s: got it: %v", name, got == c)
		}
		if got != nil {
			got.Close()
		}
	}
}

// TestConnKey: what a connection is for, so that none is used for anything else: what
// comes on it without being asked for is the same origin's that answers.
func TestConnKey(t *testing.T) {
	endpoint := func(s string) []policy.UpstreamEndpoint {
		return []policy.UpstreamEndpoint{{Addr: netip.MustParseAddrPort(s), Weight: 1}}
	}
	tls := func(c policy.ClientTLS) *policy.TrafficPolicy { return &policy.TrafficPolicy{TLS: &c} }
	simple := policy.ClientTLS{Mode: policy.TLSSimple}
	for name, tt := range map[string]struct {
		first, second func(u *policy.Upstream)
		same          bool
	}{
		"nothing":              {nil, nil, true},
		"weight":               {nil, func(u *policy.Upstream) { u.Names[0].Weight = 2 }, true},
		"the name of no TLS":   {nil, func(u *policy.Upstream) { u.ServerName = "b.example" }, true},
		"host":                 {nil, func(u *policy.Upstream) { u.Host = "b.example" }, false},
		"port":                 {nil, func(u *policy.Upstream) { u.Port = 81 }, false},
		"subset":               {nil, func(u *policy.Upstream) { u.Subset = "v2" }, false},
		"name":                 {nil, func(u *policy.Upstream) { u.Names[0].Name = "b.example" }, false},
		"port of the name":     {nil, func(u *policy.Upstream) { u.Names[0].Port = 8081 }, false},
		"endpoint":             {func(u *policy.Upstream) { u.Endpoints = endpoint("192.0.2.1:80") }, func(u *policy.Upstream) { u.Endpoints = endpoint("192.0.2.2:80") }, false},
		"port of the endpoint": {func(u *policy.Upstream) { u.Endpoints = endpoint("192.0.2.1:80") }, func(u *policy.Upstream) { u.Endpoints = endpoint("192.0.2.1:81") }, false},
		"socket":               {func(u *policy.Upstream) { u.Endpoints = []policy.UpstreamEndpoint{{Unix: "/a"}} }, func(u *policy.Upstream) { u.Endpoints = []policy.UpstreamEndpoint{{Unix: "/b"}} }, false},
		"TLS":                  {nil, func(u *policy.Upstream) { u.Traffic = tls(simple) }, false},
		"the name of TLS":      {func(u *policy.Upstream) { u.Traffic = tls(simple) }, func(u *policy.Upstream) { u.Traffic, u.ServerName = tls(simple), "b.example" }, false},
		"SNI":                  {func(u *policy.Upstream) { u.Traffic = tls(simple) }, func(u *policy.Upstream) { u.Traffic = tls(policy.ClientTLS{Mode: policy.TLSSimple, SNI: "b.example"}) }, false},
		"whom the certificate is": {func(u *policy.Upstream) { u.Traffic = tls(simple) }, func(u *policy.Upstream) {
			u.Traffic = tls(policy.ClientTLS{Mode: policy.TLSSimple, SubjectAltNames: []string{"b.example"}})
		}, false},
		"the CA": {func(u *policy.Upstream) { u.Traffic = tls(simple) }, func(u *policy.Upstream) { u.Traffic = tls(policy.ClientTLS{Mode: policy.TLSSimple, CA: "/ca"}) }, false},
		"no verification": {func(u *policy.Upstream) { u.Traffic = tls(simple) }, func(u *policy.Upstream) {
			u.Traffic = tls(policy.ClientTLS{Mode: policy.TLSSimple, InsecureSkipVerify: true})
		}, false},
		"the client certificate": {
			func(u *policy.Upstream) { u.Traffic = tls(policy.ClientTLS{Mode: policy.TLSMutual, Secret: "n/a"}) },
			func(u *policy.Upstream) { u.Traffic = tls(policy.ClientTLS{Mode: policy.TLSMutual, Secret: "m/a"}) }, false,
		},
		"tunnel": {nil, func(u *policy.Upstream) {
			u.Traffic = &policy.TrafficPolicy{Tunnel: &policy.Tunnel{Protocol: "CONNECT", TargetHost: "b.example", TargetPort: 80}}
		}, false},
		"PROXY protocol": {nil, func(u *policy.Upstream) { u.Traffic = &policy.TrafficPolicy{ProxyProtocol: 1} }, false},
	} {
		key := func(change func(u *policy.Upstream)) ConnKey {
			u := named("a.example")
			u.Port, u.Names = 80, []policy.UpstreamName{{Name: "a.example", Port: 80, Weight: 1}}
			if change != nil {
				change(u)
			}
			return KeyOf(u, false)
		}
		if one, two := key(tt.first), key(tt.second); (one == two) != tt.same {
			t.Errorf("%s: %+v and %+v", name, one, two)
		}
	}
	if u := named("a.example"); KeyOf(u, true) == KeyOf(u, false) {
		t.Error("the versions of HTTP share connections")
	}
}

// limited is an upstream of which there may be one connection.
func limited() *policy.Upstream {
	u := named("a.example")
	u.Traffic = &policy.TrafficPolicy{Pool: &policy.ConnectionPool{MaxConnections: 1, MaxPendingRequests: 1}}
	return u
}

// TestFreshClaimsNothing: a request that wants a new connection, and waits for room, does
// not leave one that is there claimed for ever.
func TestFreshClaimsNothing(t *testing.T) {
	m, u := shares(t), limited()
	p := connsOf(t, m, &downstream.Conn{Workload: "w", WorkloadID: 1})
	acquire := func(ctx context.Context, fresh bool) (*HTTPConn, error) {
		d, err := p.Draw(func() context.Context { return ctx }, u, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer d.End()
		return p.Acquire(ctx, &d, false, fresh)
	}
	c, err := acquire(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, c)
	c.SetPrivate() // so that it stays the client's
	p.Release(c)
	gone, stop := context.WithCancel(t.Context())
	stop()
	if got, err := acquire(gone, true); err == nil {
		t.Fatalf("there is room for %v", got.Key)
	}
	if c.busy() {
		t.Fatal("it is claimed, and nobody has it")
	}
	if again, err := acquire(t.Context(), false); err != nil || again != c {
		t.Errorf("the next request: %v", err)
	}
}

// TestProvedTakesNothing: who has lost a connection on which it had authenticated itself
// gets none from the pool in its place: it has to know.
func TestProvedTakesNothing(t *testing.T) {
	m, u := shares(t), named("a.example")
	info := &downstream.Conn{Workload: "w", WorkloadID: 1}
	p, other := connsOf(t, m, info), connsOf(t, m, info)
	acquire := func(p *Conns) *HTTPConn {
		c, err := p.Acquire(t.Context(), &Drawn{Upstream: u}, false, false)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, c)
		return c
	}
	own, pooled := acquire(p), acquire(other)
	other.Release(pooled)
	own.SetPrivate()
	p.Spent(own)
	if p.Ready(u, false, false) != nil {
		t.Error("it got another connection")
	}
	if _, err := p.Acquire(t.Context(), &Drawn{Upstream: u}, false, false); !errors.Is(err, ErrSpent) {
		t.Errorf("it was told %v", err)
	}
	if other.Ready(u, false, false) != pooled {
		t.Error("nor did the other one")
	}
}

// TestRetire: what a request has, or has got meanwhile, is not closed to make room.
func TestRetire(t *testing.T) {
	m, u := shares(t), named("a.example")
	p := connsOf(t, m, &downstream.Conn{Workload: "w", WorkloadID: 1})
	c, err := p.Acquire(t.Context(), &Drawn{Upstream: u}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.retire() {
		t.Error("a request has it")
	}
	ask(t, c)
	c.done()
	if !c.retire() || c.claim() {
		t.Error("a request gets it")
	}
	c.Close()
}
