// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy"
)

// TestMain fails when a test leaves a goroutine behind. (The fuzzing engine
// leaves one of its own.)
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(code)
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s", buf[:runtime.Stack(buf, true)])
			code = 1
			break
		}
	}
	os.Exit(code)
}

// service is a DNS ServiceEntry with port 443 for hosts.
func service(hosts ...string) *policy.Service {
	s := &policy.Service{
		Ref: policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: hosts[0]}, External: true,
		Ports:      []policy.Port{{Number: 443, Name: "tls", Protocol: policy.ProtocolTLS}},
		Resolution: policy.ResolutionDNS,
	}
	for _, h := range hosts {
		p, err := hostname.ParsePattern(h)
		if err != nil {
			panic(err)
		}
		s.Hosts = append(s.Hosts, p)
		if p.IsWildcard() {
			s.Resolution = policy.ResolutionNone
		}
	}
	return s
}

func compile(t testing.TB, services ...*policy.Service) *policy.Snapshot {
	t.Helper()
	s, err := policy.Compile(&policy.Config{Services: services})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// seedServices are what most tests allow.
func seedServices() []*policy.Service {
	own := service("db.internal")
	own.Resolution = policy.ResolutionStatic
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"} {
		own.Endpoints = append(own.Endpoints, policy.Endpoint{Addr: netip.MustParseAddr(a)})
	}
	lax := service("*.lax.test")
	lax.AllowPrivate = true
	return []*policy.Service{service("www.example.com"), service("other.example.com"), service("*.wild.test"), lax, own}
}

type snapshot struct {
	p atomic.Pointer[policy.Snapshot]
}

func (s *snapshot) Policy(id policy.PolicyID) *policy.Policy {
	if p := s.p.Load(); p != nil {
		return p.Policy(id)
	}
	return nil
}

// kernel records what it is told.
type kernel struct {
	mu     sync.Mutex
	open   map[netip.Addr][]policy.Opening
	writes int
	fail   error
	hook   func() // called before each write, without the lock
}

func (k *kernel) SetAddress(_ policy.PolicyID, addr netip.Addr, o []policy.Opening) error {
	k.mu.Lock()
	hook := k.hook
	k.mu.Unlock()
	if hook != nil {
		hook()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	if k.fail != nil {
		return k.fail
	}
	if k.open == nil {
		k.open = map[netip.Addr][]policy.Opening{}
	}
	if k.open[addr] = o; len(o) == 0 {
		delete(k.open, addr)
	}
	return nil
}

func (k *kernel) opens(addr string) []policy.Opening {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open[netip.MustParseAddr(addr)]
}

func (k *kernel) addresses() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := []string{}
	for a := range k.open {
		out = append(out, a.String())
	}
	slices.Sort(out)
	return out
}

func (k *kernel) setFail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

func (k *kernel) setHook(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hook = f
}

func (k *kernel) written() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.ns.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

type events struct {
	mu  sync.Mutex
	all []flow.Event
}

func (e *events) Record(ev flow.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) take() []flow.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.all
	e.all = nil
	return out
}

// origins says that everybody is the client of the moment.
type origins struct {
	client atomic.Pointer[Client]
	slots  sync.Map // slot -> true
}

func (o *origins) OfConn(c net.Conn) (Client, bool) { return o.of(addrPort(c.RemoteAddr())) }

func (o *origins) OfDatagram(src, local netip.AddrPort, slot int, query []byte) (Client, bool) {
	o.slots.Store(slot, true)
	return o.of(src)
}

func (o *origins) of(src netip.AddrPort) (Client, bool) {
	if c := o.client.Load(); c != nil && src.IsValid() {
		return *c, true
	}
	return Client{}, false
}

// rig is a running proxy with everything around it faked.
type rig struct {
	*Server
	t       testing.TB
	names   *Names
	pol     *snapshot
	kernel  *kernel
	events  *events
	origins *origins
	clock   *clock
	udp     []netip.AddrPort // 127.0.0.1 and ::1
	tcp     []netip.AddrPort
}

func newRig(t testing.TB, c Config, upstreams ...netip.AddrPort) *rig {
	t.Helper()
	r := &rig{t: t, pol: new(snapshot), kernel: new(kernel), events: new(events), origins: new(origins), clock: newClock()}
	r.pol.p.Store(compile(t, seedServices()...))
	r.setClient(Client{Workload: "w", Policy: policy.DefaultPolicy, Server: netip.MustParseAddrPort("192.0.2.53:53")})
	guard := ipguard.New([]netip.Addr{netip.MustParseAddr("198.51.100.7")})
	r.names = NewNames(r.kernel, r.pol, NamesOptions{Guard: guard, Now: r.clock.now})
	c.Origins, c.Policies, c.Names, c.Guard, c.Sink, c.Now = r.origins, r.pol, r.names, guard, r.events, r.clock.now
	c.Upstreams.Servers = upstreams
	if c.Upstreams.Timeout == 0 {
		c.Upstreams.Timeout = 5 * time.Second // a busy machine must not fail the test
	}
	if c.Stale == 0 {
		c.Stale = time.Hour
	}
	r.Server = New(c)
	return r
}

func (r *rig) setClient(c Client) { r.origins.client.Store(&c) }

// serve starts the listeners; they end with the test.
func (r *rig) serve() *rig {
	r.t.Helper()
	var udp []net.PacketConn
	var tcp []net.Listener
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		pc, ln := listenBoth(r.t, addr)
		udp, tcp = append(udp, pc), append(tcp, ln)
		r.udp = append(r.udp, pc.LocalAddr().(*net.UDPAddr).AddrPort())
		r.tcp = append(r.tcp, ln.Addr().(*net.TCPAddr).AddrPort())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, udp, tcp) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Serve: %v", err)
		}
	})
	return r
}

// ask sends a query to a listener and returns the reply.
func (r *rig) ask(network string, to netip.AddrPort, m *dns.Msg) *dns.Msg {
	r.t.Helper()
	c := dns.Client{Net: network, Timeout: 10 * time.Second, UDPSize: dns.MaxMsgSize}
	reply, _, err := c.Exchange(m, to.String())
	if err != nil && !errors.Is(err, dns.ErrId) {
		r.t.Fatalf("%s: %v", m.Question[0].Name, err)
	}
	return reply
}

func question(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.SetEdns0(1400, false)
	return m
}

// texts are records without header columns that do not matter.
func texts(rrs []dns.RR) []string {
	out := []string{}
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, string(spaces(rr.String())))
		}
	}
	return out
}

func spaces(s string) []byte {
	out := []byte(s)
	for i, b := range out {
		if b == '\t' {
			out[i] = ' '
		}
	}
	return out
}

// edeOf is the reply's extended error code, -1 without one.
func edeOf(m *dns.Msg) int {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return int(e.InfoCode)
			}
		}
	}
	return -1
}
