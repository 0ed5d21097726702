// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// A server that does not answer must not cost each question the time to find
// that out. So it is remembered: after maxFailures questions in a row that got
// no answer it is down, and asked behind the others. A probe asks it again
// after a second, then after twice as long each time, up to maxBackoff, and any
// answer at all brings it back to its place. When all servers are down all are
// asked, as if none were. An answer that helps nobody (SERVFAIL, REFUSED) is a
// sign of life: it may be about one name, and it costs no time.

const (
	maxFailures = 3
	minBackoff  = time.Second
	maxBackoff  = 30 * time.Second
	// minHedge and maxHedge bound how long a server has the question alone.
	minHedge = 200 * time.Millisecond
	maxHedge = 400 * time.Millisecond
	// downShare is how many questions of one account may wait for a server that
	// is down.
	downShare = 32
	// maxServers bounds the servers that are remembered: captured forwarders
	// ask others than the node's.
	maxServers = 64
)

// Errors of one attempt that say nothing about whether a server is alive.
var (
	// errOvertaken: another server answered.
	errOvertaken = errors.New("another server answered first")
	// errBusy: too many questions wait for the server.
	errBusy = errors.New("too many questions wait for the DNS server")
	// errTCP: the server answered by UDP that the answer is too long for it,
	// and there is none by TCP.
	errTCP = errors.New("the answer is truncated and TCP fails")
)

// errSilent is the failure of a server that another one overtook.
var errSilent = errors.New("no answer in the time that it usually takes, and another server answered")

// localFailure says whether an error is the want of something on this node,
// which is no server's fault.
func localFailure(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRNOTAVAIL, unix.EAGAIN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// server is what is known of one DNS server.
type server struct {
	addr  netip.AddrPort
	limit *limiter // of the questions that wait for it

	mu       sync.Mutex
	failures int // in a row
	down     bool
	since    time.Time // when it went down or came back; zero: never asked
	backoff  time.Duration
	probing  bool
	next     time.Time // of the next probe
	usual    time.Duration
	answered uint64
	failed   uint64
	lastErr  string
	lastAt   time.Time
}

// hedge is how long the server has a question alone: a bit more than it
// usually takes.
func (s *server) hedge() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(max(2*s.usual, minHedge), maxHedge)
}

func (s *server) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// acquire says whether account may have one more question wait for the server.
func (s *server) acquire(account string) bool {
	if s.isDown() {
		return s.limit.acquireUpTo(account, downShare)
	}
	return s.limit.acquire(account)
}

// UpstreamStatus is what is known of one trusted server.
type UpstreamStatus struct {
	Server string `json:"server"`
	// State is "up", "down" (asked behind the others), or "unknown": it was
	// never asked. Since is when that began.
	State string    `json:"state"`
	Since time.Time `json:"since,omitzero"`
	// Answered and Failed count the questions that got an answer of any kind
	// and none. LastError is why the last one failed.
	Answered    uint64    `json:"answered"`
	Failed      uint64    `json:"failed"`
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
}

func (s *server) status() UpstreamStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := "up"
	switch {
	case s.down:
		state = "down"
	case s.since.IsZero():
		state = "unknown"
	}
	return UpstreamStatus{
		Server: s.addr.String(), State: state, Since: s.since, Answered: s.answered, Failed: s.failed,
		LastError: s.lastErr, LastErrorAt: s.lastAt,
	}
}

// health remembers how servers are.
type health struct {
	log       *slog.Logger
	now       func() time.Time
	all, each int // see Config.MaxInflight

	mu sync.Mutex
	by map[netip.AddrPort]*server
}

// of returns what is known of the servers, in their order.
func (h *health) of(addrs []netip.AddrPort) []*server {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*server, len(addrs))
	for i, a := range addrs {
		s := h.by[a]
		if s == nil {
			if len(h.by) >= maxServers {
				for other := range h.by {
					if !slices.Contains(addrs, other) {
						delete(h.by, other) // what waits for it goes on
					}
				}
			}
			s = &server{addr: a, limit: newLimiter(h.all, h.each)}
			h.by[a] = s
		}
		out[i] = s
	}
	return out
}

// order puts the servers that are down behind the others.
func order(servers []*server) []*server {
	down := map[*server]bool{}
	for _, s := range servers {
		down[s] = s.isDown()
	}
	out := slices.Clone(servers)
	slices.SortStableFunc(out, func(a, b *server) int {
		switch {
		case down[a] == down[b]:
			return 0
		case down[b]:
			return -1
		}
		return 1
	})
	return out
}

// markUp notes that the server answered, after a time.
func (h *health) markUp(s *server, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered++
	s.failures = 0
	if s.usual == 0 {
		s.usual = took
	}
	s.usual += (took - s.usual) / 8 // as RFC 6298 smooths
	if s.since.IsZero() {
		s.since = h.now()
	}
	if !s.down {
		return
	}
	h.log.Info("a DNS server answers again", "server", s.addr, "down", h.now().Sub(s.since).Round(time.Millisecond))
	s.down, s.since = false, h.now()
}

// markDown notes that the server did not answer.
func (h *health) markDown(s *server, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := h.now()
	s.failed++
	s.lastErr, s.lastAt = err.Error(), now
	if s.since.IsZero() {
		s.since = now
	}
	if s.failures++; s.failures < maxFailures || s.down {
		return
	}
	s.down, s.since = true, now
	s.backoff = minBackoff
	s.next = now.Add(s.backoff)
	h.log.Warn("a DNS server does not answer; others are asked before it, and it is tried again", "server", s.addr, "error", err)
}

// due returns those of the servers that are to be probed now. The caller must
// probe them, and say what came of it to probed.
func (h *health) due(servers []*server) (out []*server) {
	now := h.now()
	allDown := !slices.ContainsFunc(servers, func(s *server) bool { return !s.isDown() })
	for _, s := range servers {
		s.mu.Lock()
		next := s.next
		if allDown {
			// There is nobody else: the first to come back is wanted at once.
			next = next.Add(minBackoff - s.backoff)
		}
		if s.down && !s.probing && !now.Before(next) {
			s.probing = true
			out = append(out, s)
		}
		s.mu.Unlock()
	}
	return out
}

func (h *health) probed(s *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probing = false
	s.backoff = min(2*s.backoff, maxBackoff)
	s.next = h.now().Add(s.backoff)
}

// probe asks what any server knows, and what tells it nothing: which servers
// the root has. The names of programs would tell a slow zone from a slow server
// as badly as they do in the first place.
func (u *upstream) probe(s *server, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	defer u.health.probed(s)
	began := time.Now()
	q := newQuery(dns.Question{Name: ".", Qtype: dns.TypeNS, Qclass: dns.ClassINET}, nil)
	_, err := u.ask(ctx, q, s.addr)
	switch {
	case err == nil || errors.Is(err, errTCP):
		u.health.markUp(s, time.Since(began))
	case localFailure(err):
		u.local(err)
	default:
		u.health.markDown(s, err)
	}
}

// Upstreams says how the trusted servers are, in their order.
func (s *Server) Upstreams() []UpstreamStatus {
	var out []UpstreamStatus
	for _, one := range s.upstream.health.of(s.servers()) {
		out = append(out, one.status())
	}
	return out
}
