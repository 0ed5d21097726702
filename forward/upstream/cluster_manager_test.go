// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// manager is a ClusterManager with room for everything, until the test ends.
func manager(t testing.TB, options ...func(*Options)) *ClusterManager {
	t.Helper()
	w, err := relay.NewEndWatcher()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Limits: &limits.Limits{Descriptors: limits.NewBudget(128 << 10), Memory: limits.NewBudget(4 << 30)},
		Log:    slog.New(slog.DiscardHandler), Rand: func() uint64 { return 0 }, Now: time.Now, Watcher: w, Buffers: &http1.Buffers{}, ConnectTimeout: time.Minute,
	}
	for _, option := range options {
		option(&o)
	}
	m := NewClusterManager(o)
	t.Cleanup(func() {
		m.Close()
		w.Close()
	})
	return m
}

func named(host string) *policy.Upstream {
	return &policy.Upstream{Host: host, Port: 80, Protocol: policy.ProtocolHTTP}
}

func hashed(h policy.ConsistentHash) *policy.TrafficPolicy {
	return &policy.TrafficPolicy{LoadBalancer: &policy.LoadBalancer{Hash: &h}}
}

// testClock is a clock that a test moves.
type testClock struct{ past atomic.Int64 }

func (c *testClock) now() time.Time { return time.Unix(1_700_000_000, c.past.Load()) }

func (c *testClock) move(d time.Duration) { c.past.Add(int64(d)) }

// dialsTo is a Dialer of one address.
type dialsTo string

func (d dialsTo) Dial(ctx context.Context, _ *downstream.Conn, _ *policy.Upstream) (net.Conn, error) {
	return dial.Any(ctx, []netip.AddrPort{netip.MustParseAddrPort(string(d))})
}

func (d dialsTo) Resolve(context.Context, *downstream.Conn, *policy.Upstream, string) ([]netip.Addr, error) {
	return nil, nil
}

// nobody does not care about its upstream connections.
type nobody struct{}

func (nobody) UpstreamLost(bool) {}

// TestDraw: the endpoint that the workload dialled, but for visitors of a Gateway;
// names likewise; none that was tried.
func TestDraw(t *testing.T) {
	at := func(s string) policy.UpstreamEndpoint {
		return policy.UpstreamEndpoint{Addr: netip.MustParseAddrPort(s), Weight: 1}
	}
	u := named("a.example")
	u.Endpoints = []policy.UpstreamEndpoint{at("10.0.0.1:80"), at("10.0.0.2:80"), at("[2001:db8::3]:80")}
	m := manager(t)
	draw := func(c downstream.Conn, u *policy.Upstream, tried []ConnKey) *policy.Upstream {
		d, err := m.NewConns(&c, nil, nil).Draw(t.Context, u, nil, tried)
		if err != nil {
			t.Fatal(err)
		}
		out := d.Upstream
		d.End()
		return out
	}
	for _, tt := range []struct {
		layer flow.Layer
		dst   string
		tried []ConnKey
		want  string
	}{
		{flow.Egress, "10.0.0.2:8080", nil, "10.0.0.2:80"},
		{flow.Egress, "[2001:db8::3]:80", nil, "[2001:db8::3]:80"},
		{flow.Egress, "240.0.0.1:80", nil, "10.0.0.1:80"},
		{flow.Ingress, "10.0.0.2:8080", nil, "10.0.0.1:80"},
		{flow.Egress, "240.0.0.1:80", []ConnKey{{endpoint: u.Endpoints[0].Addr}}, "10.0.0.2:80"},
		{flow.Egress, "10.0.0.2:80", []ConnKey{{endpoint: u.Endpoints[1].Addr}}, "10.0.0.1:80"},
		{flow.Egress, "240.0.0.1:80", []ConnKey{{endpoint: u.Endpoints[0].Addr}, {endpoint: u.Endpoints[1].Addr}, {endpoint: u.Endpoints[2].Addr}}, "10.0.0.1:80"},
	} {
		out := draw(downstream.Conn{Layer: tt.layer, Dst: netip.MustParseAddrPort(tt.dst)}, u, tt.tried)
		if got := out.Endpoints[0].Addr.String(); got != tt.want || len(out.Endpoints) != 3 {
			t.Errorf("%+v: %s", tt, got)
		}
	}
	names := named("a.example")
	names.Names = []policy.UpstreamName{{Name: "x", Weight: 3}, {Name: "y", Weight: 1}}
	count := func(u *policy.Upstream, tried ...ConnKey) map[string]int {
		got := map[string]int{}
		for range 60 {
			if out := draw(downstream.Conn{}, u, tried); len(out.Endpoints) > 0 {
				got[out.Endpoints[0].Addr.String()]++
			} else {
				got[out.Names[0].Name]++
			}
		}
		return got
	}
	if got := count(names); got["x"] != 45 || got["y"] != 15 {
		t.Errorf("names %v", got)
	}
	if got := count(names, ConnKey{ServiceKey: ServiceKey{name: "x"}}); got["y"] != 60 {
		t.Errorf("names of which one was tried: %v", got)
	}
	mixed := *names
	mixed.Host, mixed.Endpoints = "b.example", []policy.UpstreamEndpoint{{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Weight: 2}}
	if got := count(&mixed); got["10.0.0.1:80"] != 20 || got["x"] != 30 || got["y"] != 10 {
		t.Errorf("names and an address: %v", got)
	}
}

// TestPlacesOfEndpoints: distribute and failover, and that nothing counts where the
// node's own place is not known.
func TestPlacesOfEndpoints(t *testing.T) {
	u := named("a.example")
	for i, l := range []string{"eu/west/1", "eu/west/2", "eu/north/1", "us/east/1", "ap/south/1", ""} {
		u.Endpoints = append(u.Endpoints, policy.UpstreamEndpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80), Weight: 1, Locality: l})
	}
	outlier := &policy.OutlierDetection{}
	for _, tt := range []struct {
		name       string
		own        string
		locality   *policy.Locality
		outlier    *policy.OutlierDetection
		priorities []uint8
		shares     []uint32 // nil: none
	}{
		{"near first", "eu/west/1", nil, outlier, []uint8{0, 1, 2, 3, 3, 3}, nil},
		{"without outlier detection", "eu/west/1", nil, nil, []uint8{0, 0, 0, 0, 0, 0}, nil},
		{"nothing is known of the node", "", nil, outlier, []uint8{0, 0, 0, 0, 0, 0}, nil},
		{"switched off", "eu/west/1", &policy.Locality{Disabled: true}, outlier, []uint8{0, 0, 0, 0, 0, 0}, nil},
		{"failover", "eu/west/1", &policy.Locality{Failover: []policy.Failover{{From: "eu", To: "us"}}}, outlier, []uint8{0, 1, 2, 3, 4, 4}, nil},
		{"of another region", "eu/west/1", &policy.Locality{Failover: []policy.Failover{{From: "us", To: "ap"}}}, outlier, []uint8{0, 1, 2, 3, 3, 3}, nil},
		{"distribute", "eu/west/1", &policy.Locality{Distribute: []policy.Distribute{{From: "us/*", To: []policy.LocalityWeight{{Locality: "*", Percent: 100}}},
			{From: "eu/west/*", To: []policy.LocalityWeight{{Locality: "eu/west/*", Percent: 80}, {Locality: "us", Percent: 20}}}}}, outlier, []uint8{0, 0, 0}, []uint32{40, 40, 20}},
	} {
		own := *u
		own.Traffic = &policy.TrafficPolicy{Outlier: tt.outlier, LoadBalancer: &policy.LoadBalancer{Locality: tt.locality}}
		b := &balancers{locality: tt.own}
		list, index := b.endpoints(&own)
		var priorities []uint8
		var shares []uint32
		for _, e := range list {
			priorities, shares = append(priorities, e.Priority), append(shares, e.Share)
		}
		if !slices.Equal(priorities, tt.priorities) {
			t.Errorf("%s: priorities %v, want %v", tt.name, priorities, tt.priorities)
		}
		if tt.shares != nil && (!slices.Equal(shares, tt.shares) || !slices.Equal(index, []int{0, 1, 3})) {
			t.Errorf("%s: shares %v of %v, want %v", tt.name, shares, index, tt.shares)
		}
	}
}

// TestBalancersAreForgotten: what nobody asked for in a long time goes, and its
// memory with it; what is in use stays.
func TestBalancersAreForgotten(t *testing.T) {
	var clock testClock
	m := manager(t, func(o *Options) { o.Now = clock.now })
	use := func(name string) Drawn {
		u := named(name)
		u.Resolution, u.Traffic = policy.ResolutionStatic, hashed(policy.ConsistentHash{Header: "x", RingSize: 1 << 16})
		u.Endpoints = []policy.UpstreamEndpoint{{Addr: netip.MustParseAddrPort("10.0.0.1:80")}, {Addr: netip.MustParseAddrPort("10.0.0.2:80")}}
		d, err := m.NewConns(&downstream.Conn{}, nil, nil).Draw(t.Context, u, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := m.o.Limits.Memory.Use().Used
	open := use("open.example")
	done := use("done.example")
	done.End()
	if used := m.o.Limits.Memory.Use().Used - before; used < 2*16<<16 {
		t.Errorf("two rings of 65536 count for %d bytes", used)
	}
	clock.move(forgetAfter)
	m.Recheck()
	if n := len(m.balancers.list); n != 1 {
		t.Errorf("%d are known, want the one in use", n)
	}
	open.End()
	clock.move(forgetAfter)
	m.Recheck()
	if n, used := len(m.balancers.list), m.o.Limits.Memory.Use().Used-before; n != 0 || used != 0 {
		t.Errorf("%d are known, %d bytes", n, used)
	}
}

func BenchmarkDraw(b *testing.B) {
	m := manager(b)
	for _, n := range []int{1, 3} {
		u := named("a.example")
		for i := range n {
			u.Endpoints = append(u.Endpoints, policy.UpstreamEndpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80), Weight: 1})
		}
		p := m.NewConns(&downstream.Conn{}, nil, nil)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d, err := p.Draw(b.Context, u, nil, nil)
				if err != nil {
					b.Fatal(err)
				}
				d.End()
			}
		})
	}
}

// TestDrawIsFree: one endpoint costs nothing.
func TestDrawIsFree(t *testing.T) {
	m := manager(t)
	u := named("a.example")
	u.Endpoints = []policy.UpstreamEndpoint{{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Weight: 1}}
	p := m.NewConns(&downstream.Conn{}, nil, nil)
	if n := testing.AllocsPerRun(100, func() {
		d, _ := p.Draw(t.Context, u, nil, nil)
		d.End()
	}); n > 0 || len(m.balancers.list) > 0 {
		t.Errorf("%.0f allocations, %d known", n, len(m.balancers.list))
	}
}

// TestConnectTimeout: an upstream's own is shorter than the core's.
func TestConnectTimeout(t *testing.T) {
	core := manager(t, func(o *Options) { o.ConnectTimeout = time.Hour })
	u := named("a.example")
	if d := core.ConnectTimeout(u); d != time.Hour {
		t.Errorf("%v", d)
	}
	u.Traffic = &policy.TrafficPolicy{Pool: &policy.ConnectionPool{ConnectTimeout: time.Second}}
	if d := core.ConnectTimeout(u); d != time.Second {
		t.Errorf("%v", d)
	}
}

// TestUpstreamKeys: what may share a connection.
func TestUpstreamKeys(t *testing.T) {
	u := named("x.example")
	v1, socket, other := *u, *u, *u
	v1.Subset, socket.Endpoints = "v1", []policy.UpstreamEndpoint{{Unix: "/run/s", Weight: 1}}
	other.Endpoints = []policy.UpstreamEndpoint{{Addr: netip.MustParseAddrPort("192.0.2.1:80"), Weight: 1}}
	first := KeyOf(u, false)
	for name, same := range map[string]bool{
		"the same": first == KeyOf(named("x.example"), false), "HTTP/2": first != KeyOf(u, true), "a subset": first != KeyOf(&v1, false),
		"a socket": first != KeyOf(&socket, false), "an endpoint": first != KeyOf(&other, false),
	} {
		if !same {
			t.Error(name)
		}
	}
}

// TestEndure: the kernel asks upstream connections that live on whether their peer is
// there, and ends those whose peer is gone. Those that end with their request have no
// system calls for it.
func TestEndure(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	timeout, asks := int(userTimeout.Milliseconds()), 1
	for _, c := range []struct {
		name        string
		u           *policy.Upstream
		multiplexed bool // the client
		unwatched   bool
		young       bool // nothing is set at first
	}{
		{"one client's", named("a.example"), false, false, true},
		{"for several", &policy.Upstream{Host: "a.example", Port: 80, Protocol: policy.ProtocolHTTP, Traffic: &policy.TrafficPolicy{Pool: &policy.ConnectionPool{HTTPIdleTimeout: time.Minute}}}, false, false, false},
		{"a client of HTTP/2", named("a.example"), true, false, false},
		{"nobody looks later", named("a.example"), false, true, false},
	} {
		m := manager(t, func(o *Options) {
			o.Dialer = dialsTo(ln.Addr().String())
			if c.unwatched {
				o.Watcher.Close()
			}
		})
		info := &downstream.Conn{}
		p := m.NewConns(info, limits.NewLease(m.o.Limits, info.Owner()), nobody{})
		defer p.Close()
		p.Multiplexed = c.multiplexed
		nc, err := p.Acquire(t.Context(), &Drawn{Upstream: c.u}, false, false)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Release(nc)
		want := [2]int{timeout, asks}
		if c.young {
			want = [2]int{}
		}
		if got := enduring(t, nc); got != want {
			t.Errorf("%s, at first: %v, want %v", c.name, got, want)
		}
		p.Endure()
		if got := enduring(t, nc); got != [2]int{timeout, asks} {
			t.Errorf("%s, later: %v", c.name, got)
		}
	}
}

// enduring is the kernel's TCP_USER_TIMEOUT in milliseconds, and SO_KEEPALIVE.
func enduring(t *testing.T, c *HTTPConn) (out [2]int) {
	t.Helper()
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		var err2 error
		out[0], err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		out[1], err2 = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		err = errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
