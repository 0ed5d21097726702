// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

// pipesAtStart is how many pipe descriptors the test process was given.
var pipesAtStart int

func TestMain(m *testing.M) {
	pipesAtStart = pipes()
	os.Exit(testenv.Main(m))
}

// pipes counts the pipe descriptors of this process.
func pipes() (n int) {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, fd := range dir {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// patience bounds waits for things that must happen.
const patience = 20 * time.Second

// allowed is an allowing decision.
var allowed = policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonAllowed}

// denied is a denial.
func denied(reason policy.Reason, rule *policy.Ref) policy.Decision {
	return session.Denied(reason, rule)
}

// fakes decides and dials for a test. The functions may be changed under mu,
// as a policy update does.
type fakes struct {
	mu   sync.Mutex
	open func(c *Conn) Admission
	tls  func(sni string) (policy.Decision, *policy.Upstream)
	http func(r *policy.Request) policy.HTTPDecision
	// addrs says where upstream hosts are; an error is what dialling returns.
	addrs map[string]netip.AddrPort
	fails map[string]error
	dials map[string]int
	// resolves are the addresses of names.
	resolves map[string][]netip.Addr
}

func (f *fakes) Open(c *Conn) Admission {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open(c)
}

func (f *fakes) TLS(_ *Conn, sni string) (policy.Decision, *policy.Upstream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tls(sni)
}

func (f *fakes) HTTP(_ *Conn, r *policy.Request) policy.HTTPDecision {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.http(r)
}

func (f *fakes) Dial(ctx context.Context, _ *Conn, u *policy.Upstream) (net.Conn, error) {
	f.mu.Lock()
	f.dials[u.Host]++
	addr, err := f.addrs[u.Host], f.fails[u.Host]
	f.mu.Unlock()
	if len(u.Endpoints) > 0 && u.Endpoints[0].Unix == "" {
		addr = u.Endpoints[0].Addr
	}
	if err != nil {
		return nil, err
	}
	if !addr.IsValid() {
		return nil, fmt.Errorf("%w: %s", dial.ErrResolve, u.Host)
	}
	return dial.Any(ctx, []netip.AddrPort{addr})
}

// Resolve finds the addresses of a name in resolves.
func (f *fakes) Resolve(_ context.Context, _ *Conn, _ *policy.Upstream, name string) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if found := f.resolves[name]; len(found) > 0 {
		return found, nil
	}
	return nil, fmt.Errorf("%w: %s", dial.ErrResolve, name)
}

func (f *fakes) dialCount(host string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials[host]
}

// change runs fn as a policy update does.
func (f *fakes) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

// events is a Sink that tests wait on.
type events struct {
	mu   sync.Mutex
	list []flow.Event
	// texts are what the events said when they were recorded.
	texts []string
	news  chan struct{}
}

func (s *events) Record(e *flow.Event) {
	s.mu.Lock()
	s.list = append(s.list, *e)
	s.texts = append(s.texts, textOf(e))
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// all returns the events of a kind so far.
func (s *events) all(kind flow.Moment) []flow.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []flow.Event
	for _, e := range s.list {
		if e.Kind == kind {
			list = append(list, e)
		}
	}
	return list
}

// wait waits for the n-th event (from 1) of a kind.
func (s *events) wait(t testing.TB, kind flow.Moment, n int) flow.Event {
	t.Helper()
	timeout := time.After(patience)
	for {
		if list := s.all(kind); len(list) >= n {
			return list[n-1]
		}
		select {
		case <-s.news:
		case <-timeout:
			t.Fatalf("no %s event number %d; have %+v", kind, n, s.all(kind))
		}
	}
}

// rig is a Core behind a loopback listener.
type rig struct {
	t testing.TB
	*fakes
	core   *Core
	dialer *anyDialer
	sink   *events
	layer  flow.Layer
	dst    netip.AddrPort  // what clients dialled; invalid: some address
	from   *netip.AddrPort // where clients seem to come from; nil: where they do
	server net.Listener
	start  sync.Once
}

// anyDialer is the dialer of a rig, which a test may change before it connects.
type anyDialer struct{ upstream.Dialer }

type rigOption func(*Options)

// newRig serves with the protocol given; every name is allowed and has one
// upstream of the same name until the test says otherwise.
func newRig(t testing.TB, protocol Handling, options ...rigOption) *rig {
	t.Helper()
	r := &rig{t: t, layer: flow.Egress, sink: &events{news: make(chan struct{}, 1)}}
	r.fakes = &fakes{
		open: func(*Conn) Admission {
			return Admission{Protocol: protocol, Decision: allowed}
		},
		tls: func(sni string) (policy.Decision, *policy.Upstream) {
			return allowed, upstreamOf(sni)
		},
		http: func(req *policy.Request) policy.HTTPDecision {
			return policy.HTTPDecision{Decision: allowed, Upstream: upstreamOf(req.Host)}
		},
		addrs: map[string]netip.AddrPort{},
		fails: map[string]error{},
		dials: map[string]int{},
	}
	if protocol == Opaque {
		r.fakes.open = func(*Conn) Admission {
			return Admission{Protocol: Opaque, Decision: allowed, Upstream: upstreamOf("opaque.example")}
		}
	}
	r.dialer = &anyDialer{r.fakes}
	o := Options{Decider: r.fakes, Dialer: r.dialer, Sink: r.sink, Timeouts: Timeouts{PeekTimeout: patience}, Rand: func() uint64 { return 0 }}
	for _, option := range options {
		option(&o)
	}
	r.core = New(o)
	r.spoil()
	r.server = listen(t, "127.0.0.1:0")
	t.Cleanup(func() {
		gone, stop := context.WithCancel(context.Background())
		stop() // what a test left open is closed at once
		if err := r.core.Shutdown(gone); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown: %v", err)
		}
		r.unspoilt()
	})
	return r
}

// addr starts serving, once the test has set everything up, and returns where.
func (r *rig) addr() string {
	r.start.Do(func() {
		served := make(chan error, 1)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { served <- r.core.Serve(ctx, r.server, r.identify) }()
		r.t.Cleanup(func() {
			cancel()
			if err := <-served; err != nil {
				r.t.Errorf("Serve: %v", err)
			}
		})
	})
	return r.server.Addr().String()
}

func (r *rig) identify(nc *net.TCPConn) (Conn, error) {
	info := Conn{
		Dst:      netip.MustParseAddrPort("192.0.2.1:80"),
		Src:      relay.AddrPort(nc.RemoteAddr()),
		Layer:    r.layer,
		Workload: "w",
		Policy:   policy.DefaultPolicy,
	}
	if r.dst.IsValid() {
		info.Dst = r.dst
	}
	if r.from != nil {
		info.Src = *r.from
	}
	if info.Src.Addr() == second {
		info.Workload, info.WorkloadID = "w2", 2
	}
	return info, nil
}

// at tells the dialer where a host is.
func (r *rig) at(host string, addr net.Addr) {
	r.change(func() { r.addrs[host] = relay.AddrPort(addr) })
}

// dial connects to the core.
func (r *rig) dial() *net.TCPConn {
	r.t.Helper()
	return dialTo(r.t, r.addr())
}

func dialTo(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return nc.(*net.TCPConn)
}

// dialReset connects to an address where connections are reset at once. The
// reset may come before connect(2) has returned.
func dialReset(t testing.TB, addr string) {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("connect: %v, want a reset", err)
		}
		return
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	expectReset(t, nc)
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func upstreamOf(host string) *policy.Upstream {
	return &policy.Upstream{Host: host, Port: 80, Protocol: policy.ProtocolHTTP}
}

// origin accepts connections for the host and hands them to handle, each in
// a goroutine of its own.
func (r *rig) origin(host string, handle func(nc *net.TCPConn)) {
	r.t.Helper()
	ln := listen(r.t, "127.0.0.1:0")
	r.at(host, ln.Addr())
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				defer context.AfterFunc(ctx, func() { nc.Close() })()
				_ = nc.SetDeadline(time.Now().Add(patience))
				handle(nc.(*net.TCPConn))
			})
		}
	})
	r.t.Cleanup(func() { ln.Close(); cancel(); wg.Wait() })
}

// accepts listens for the host and returns the channel of what it accepts.
func (r *rig) accepts(host string) <-chan *net.TCPConn {
	r.t.Helper()
	conns := make(chan *net.TCPConn, 8)
	done := make(chan struct{})
	r.origin(host, func(nc *net.TCPConn) {
		conns <- nc
		<-done
	})
	r.t.Cleanup(func() { close(done) })
	return conns
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	panic("unreachable")
}
