// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(learnedtest.Main(m)) }

type events struct {
	mu  sync.Mutex
	all []flow.Event
}

func (e *events) Record(ev *flow.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, *ev)
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
	names   *learned.Names
	pol     *learnedtest.Policies
	kernel  *learnedtest.Kernel
	events  *events
	origins *origins
	clock   *learnedtest.Clock
	inUse   map[netip.Addr]bool // addresses with open connections
	udp     []netip.AddrPort    // 127.0.0.1 and ::1
	tcp     []netip.AddrPort
}

func newRig(t testing.TB, c Config, upstreams ...netip.AddrPort) *rig {
	t.Helper()
	return newLearningRig(t, c, learned.Options{}, upstreams...)
}

// newLearningRig is newRig with options of what is learned.
func newLearningRig(t testing.TB, c Config, o learned.Options, upstreams ...netip.AddrPort) *rig {
	t.Helper()
	r := &rig{t: t, pol: new(learnedtest.Policies), kernel: new(learnedtest.Kernel), events: new(events), origins: new(origins), clock: learnedtest.NewClock(), inUse: map[netip.Addr]bool{}}
	r.pol.Store(learnedtest.Compile(t, learnedtest.Services()...))
	r.setClient(Client{Workload: "w", Policy: policy.DefaultPolicy, Server: netip.MustParseAddrPort("192.0.2.53:53")})
	guard := ipguard.New([]netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("169.254.20.10")})
	o.Guard, o.Now = guard, r.clock.Now
	o.InUse = func() (map[netip.Addr]bool, error) { return r.inUse, nil }
	r.names = learned.New(r.kernel, r.pol, o)
	c.Origins, c.Policies, c.Names, c.Guard, c.Sink, c.Now = r.origins, r.pol, r.names, guard, r.events, r.clock.Now
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

const id = policy.DefaultPolicy

func answers(ttl time.Duration, addrs ...string) []learned.Record {
	var out []learned.Record
	for _, a := range addrs {
		out = append(out, learned.Record{Addr: netip.MustParseAddr(a), TTL: ttl})
	}
	return out
}

func mustLearn(t testing.TB, n *learned.Names, name string, a []learned.Record) {
	t.Helper()
	if err := n.Learn(id, "w", name, a); err != nil {
		t.Fatal(err)
	}
}
