// SPDX-License-Identifier: Apache-2.0

// Package dnsproxy answers the DNS queries of workloads: it refuses names
// that no policy allows without asking anybody, forwards the others to
// trusted servers, and opens an address for a workload before the answer that
// names it is sent.
//
// One deviation from "transparent" is on purpose. A query goes to the server
// that the application addressed only when that server is one of
// Config.Upstreams; otherwise the first of those is asked in its place. Who
// answers for an allowed name decides which addresses the name opens, and
// that must not be the workload.
package dnsproxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/policy"
)

// Client is who asked, from the kernel's record of the query's original
// destination.
type Client struct {
	Workload string
	Process  flow.Process
	Policy   policy.PolicyID
	Mode     policy.Mode
	// Server is the DNS server that the application addressed.
	Server netip.AddrPort
	// AsServer: nothing on the way back puts Server's address into a UDP
	// answer, so it must leave with it. The socket must be transparent.
	AsServer bool
	// Probe is set when egressd itself asks whether it is answered: it is, with
	// nothing, and neither counted nor told of.
	Probe Probe
}

// Probe hears that a question of egressd's own is answered.
type Probe interface{ Answered() }

// Origins looks up who sent a query.
type Origins interface {
	// OfConn returns the client behind an accepted connection, OfDatagram the
	// one behind a query from src to the UDP listener at local with the index
	// slot; IPv4 is unmapped. False: nobody that the kernel redirected; it is
	// dropped without a reply.
	OfConn(net.Conn) (Client, bool)
	OfDatagram(src, local netip.AddrPort, slot int, query []byte) (Client, bool)
}

// Config is what a Server needs. Origins, Policies, Names and Upstreams are
// required; for the rest the zero value takes the default.
type Config struct {
	Origins  Origins
	Policies learned.Policies
	Names    *learned.Names
	// Upstreams are the trusted servers; SetUpstreams changes them.
	Upstreams Upstreams
	// SearchOf returns the suffixes of a client's own resolv.conf, which may be
	// another one in a container; nil: there are none. What it returns is only
	// trusted to say that a name is a search step.
	SearchOf func(Client) []string
	// Serves says whether a client is itself the DNS server at an address: a
	// forwarder that is captured. nil: nobody is.
	Serves func(Client, netip.AddrPort) bool
	// Denied is how a name that is not allowed is answered.
	Denied DeniedAnswer
	Guard  ipguard.Guard
	Sink   flow.Sink    // nil: no events
	Log    *slog.Logger // nil: no log

	// Stale is for how long after its time an answer for a host that is named
	// exactly is good while no server answers (RFC 8767); 0: not at all.
	Stale time.Duration
	// Idle is how long a TCP connection may be silent (10 s).
	Idle time.Duration
	// Drain is how long queries in flight may go on after Serve's context
	// ended (2 s).
	Drain time.Duration
	// MaxInflight and MaxPerWorkload bound the queries that are answered at
	// once, and that wait for one server (1024 and 256), MaxConns and MaxConnsPerWorkload the TCP
	// connections (512 and 64).
	MaxInflight, MaxPerWorkload, MaxConns, MaxConnsPerWorkload int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Server is the DNS proxy. It is safe for concurrent use.
type Server struct {
	origins  Origins
	policies learned.Policies
	names    *learned.Names
	searchOf func(Client) []string
	serves   func(Client, netip.AddrPort) bool
	denial   DeniedAnswer
	guard    ipguard.Guard
	sink     flow.Sink
	teller   flow.Teller
	log      *slog.Logger
	now      func() time.Time

	idle, drain time.Duration
	queries     *limiter
	conns       *limiter
	upstream    *upstream
	up          *shared // what leads to upstream
	stale       time.Duration
	last        lastAnswers
	cache       *cache
	waiting     *waiting
	warned      seldom        // of loops
	turn        atomic.Uint32 // rotates own answers
	stats       stats
	reading     sync.WaitGroup
}

// New returns a Server for c.
func New(c Config) *Server {
	setDefault(&c.Idle, 10*time.Second)
	setDefault(&c.Drain, 2*time.Second)
	setDefault(&c.MaxInflight, 1024)
	setDefault(&c.MaxPerWorkload, 256)
	setDefault(&c.MaxConns, 512)
	setDefault(&c.MaxConnsPerWorkload, 64)
	if c.Sink == nil {
		c.Sink = discard{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.SearchOf == nil {
		c.SearchOf = func(Client) []string { return nil }
	}
	if c.Serves == nil {
		c.Serves = func(Client, netip.AddrPort) bool { return false }
	}
	s := &Server{
		origins: c.Origins, policies: c.Policies, names: c.Names, guard: c.Guard,
		sink: c.Sink, log: c.Log, now: c.Now, idle: c.Idle, drain: c.Drain,
		searchOf: c.SearchOf, serves: c.Serves, denial: c.Denied,
		queries: newLimiter(c.MaxInflight, c.MaxPerWorkload),
		conns:   newLimiter(c.MaxConns, c.MaxConnsPerWorkload),
		cache:   newCache(),
		waiting: newWaiting(),
		stale:   max(c.Stale, 0),
		last:    lastAnswers{by: map[sameQuery]*lastAnswer{}},
	}
	s.upstream = &upstream{stats: &s.stats, log: c.Log, health: health{
		log: c.Log, now: c.Now, all: c.MaxInflight, each: c.MaxPerWorkload, by: map[netip.AddrPort]*server{},
	}}
	s.upstream.ask = s.upstream.askServer
	s.up = newShared(s.upstream, &s.stats)
	s.SetUpstreams(c.Upstreams)
	return s
}

// suffixes normalizes search suffixes; what is not a name is left out.
func suffixes(search []string) (out []string) {
	for _, suffix := range search {
		if n, err := hostname.Normalize(strings.TrimPrefix(suffix, ".")); err == nil {
			out = append(out, n)
		}
	}
	return out
}

type discard struct{}

func (discard) Record(*flow.Event) {}

// Serve answers queries on all listeners until ctx is done, lets the queries
// in flight end (see Config.Drain) and closes the listeners. The index of a
// socket in udp is its slot. Serve returns an error when a listener failed;
// the others are stopped then, too.
func (s *Server) Serve(ctx context.Context, udp []net.PacketConn, tcp []net.Listener) error {
	s.reading.Add(1)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var readers, handlers sync.WaitGroup
	for slot, pc := range udp {
		readers.Go(func() {
			if err := s.serveUDP(ctx, work, &handlers, pc, slot); err != nil {
				fail(err)
			}
		})
	}
	for _, ln := range tcp {
		readers.Go(func() {
			if err := s.serveTCP(ctx, work, &handlers, ln); err != nil {
				fail(err)
			}
		})
	}
	<-ctx.Done()
	for _, pc := range udp {
		_ = pc.SetReadDeadline(time.Unix(1, 0)) // wakes the reader; replies still leave
	}
	for _, ln := range tcp {
		_ = ln.Close()
	}
	readers.Wait()
	s.reading.Done()
	late := time.AfterFunc(s.drain, stop)
	handlers.Wait()
	late.Stop()
	for _, pc := range udp {
		_ = pc.Close()
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// WaitQuiet waits until no Serve reads queries or accepts connections any more;
// their contexts must have ended. Answers may still be under way.
func (s *Server) WaitQuiet() { s.reading.Wait() }

// pause waits after the n-th failure in a row (n from 0), longer each time up
// to a second, as net/http's accept loop does. False: ctx is done.
func pause(ctx context.Context, n int) bool {
	t := time.NewTimer(min(5*time.Millisecond<<min(n, 8), time.Second))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}
