// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/policy"
)

// ErrNotFound: the name does not exist, or has no addresses.
var ErrNotFound = errors.New("name has no addresses")

const (
	// maxCached bounds the names in the cache of egressd's own resolutions.
	maxCached = 1 << 14
	// negativeTime and failureTime are how long an answer without addresses
	// and a failure are kept: only so long that they cannot become a storm.
	negativeTime = 5 * time.Second
	failureTime  = time.Second
)

// Resolve returns the addresses of name for the forwarding core: of both
// families, IPv4 first, without those that the address rules refuse for
// policy id. They are learned as if a workload had asked. Answers are cached
// for their time to live, one resolution at a time is under way for a name,
// and while no server answers the old addresses are good for the time that
// the kernel keeps them, see Config.Stale (RFC 8767).
//
// Errors wrap learned.ErrName (not allowed), ErrNotFound, learned.ErrAddress (all refused) or
// ErrUpstream.
func (s *Server) Resolve(ctx context.Context, id policy.PolicyID, name string) ([]netip.Addr, error) {
	normal, err := hostname.Normalize(name)
	if err != nil {
		return nil, fmt.Errorf("resolve %q: %w: %s", name, learned.ErrName, err)
	}
	host := lookup(s.policies.Policy(id), normal)
	if host == nil {
		return nil, fmt.Errorf("resolve %s: %w", normal, learned.ErrName)
	}
	return s.ResolveFor(ctx, id, normal, host)
}

// ResolveFor is Resolve for a name that stands behind an allowed host: an
// endpoint of a ServiceEntry with DNS resolution. match is the host whose
// address rules apply (policy.Upstream.Match); nil, for Kubernetes Services,
// takes private addresses. The name itself need not be allowed; only when it
// is are its addresses learned.
func (s *Server) ResolveFor(ctx context.Context, id policy.PolicyID, name string, match *policy.Host) ([]netip.Addr, error) {
	name, err := hostname.Normalize(name)
	if err != nil {
		return nil, fmt.Errorf("resolve: %w: %s", learned.ErrName, err)
	}
	s.stats.add(cResolve)
	answers, err := s.lookupCached(ctx, name, s.slack(match))
	if errors.Is(err, ErrUpstream) {
		// What the kernel lets pass to an old address must get through here
		// as well. Nothing is learned by it, so it lasts no longer for it.
		if open := s.guarded(s.names.OpenAddrsOf(id, name), match); len(open) > 0 {
			return open, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	var addrs []netip.Addr
	for _, a := range answers {
		if !slices.Contains(addrs, a.Addr) {
			addrs = append(addrs, a.Addr)
		}
	}
	if addrs = s.guarded(addrs, match); len(addrs) == 0 {
		s.stats.add(cAddrRefused)
		return nil, fmt.Errorf("resolve %s: %w", name, learned.ErrAddress)
	}
	s.learnResolved(id, name, answers)
	return addrs, nil
}

// guarded leaves out the addresses that match must not have.
func (s *Server) guarded(addrs []netip.Addr, match *policy.Host) []netip.Addr {
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		ok, _ := s.guard.Check(a, learned.GuardOptions(match))
		return !ok
	})
}

// learnResolved learns what Resolve found. A failure is counted and no more:
// the core dials from egressd's own cgroup, which needs no opening.
func (s *Server) learnResolved(id policy.PolicyID, name string, answers []learned.Record) {
	host := lookup(s.policies.Policy(id), name)
	if host == nil || host.Own {
		return // workloads see egressd's own answers for an own name, not these
	}
	good := slices.DeleteFunc(slices.Clone(answers), func(a learned.Record) bool {
		ok, _ := s.guard.Check(a.Addr, learned.GuardOptions(host))
		return !ok
	})
	// The refusals among them have their counters in learn.
	_ = s.learn(Client{Policy: id, Workload: ownAccount}, policy.UDP, decision{name: name, host: host}, good, nil)
}

// cache holds egressd's own resolutions by name: what the servers said,
// before any policy's rules.
type cache struct {
	mu      sync.Mutex
	entries map[string]*entry
	flights map[string]*flight
}

type entry struct {
	answers []learned.Record
	err     error
	// until is when to ask again, over when the time of the answers ends; for
	// Server.slack after that they are better than a failure. failed is why the
	// answers are old, nil when they are not.
	until, over time.Time
	failed      error
}

// slack is how long after their time answers are good for match while no server
// answers; for nil, as long as for anybody.
func (s *Server) slack(match *policy.Host) time.Duration {
	if match != nil && match.Pattern.IsWildcard() {
		return s.names.Options().Grace
	}
	return max(s.names.Options().Grace, s.stale)
}

// flight is one resolution that is under way; done is closed after entry is
// set.
type flight struct {
	began time.Time // by the real clock
	done  chan struct{}
	entry *entry
}

func newCache() *cache {
	return &cache{entries: map[string]*entry{}, flights: map[string]*flight{}}
}

// lookupCached returns the addresses of name, with what is left of their time.
// While no server answers, or not within staleWait, those that are older are good
// for slack.
func (s *Server) lookupCached(ctx context.Context, name string, slack time.Duration) ([]learned.Record, error) {
	c := s.cache
	c.mu.Lock()
	e := c.entries[name]
	if e != nil && s.now().Before(e.until) {
		c.mu.Unlock()
		s.stats.add(cResolveCached)
		return s.remaining(e, slack)
	}
	f := c.flights[name]
	if f == nil {
		f = &flight{began: time.Now(), done: make(chan struct{})}
		c.flights[name] = f
		// The resolution outlives a caller that gives up: others wait for it.
		go s.fly(context.WithoutCancel(ctx), name, f)
	}
	c.mu.Unlock()
	var patience <-chan time.Time // without old addresses there is no choice
	if e != nil && e.err == nil && s.now().Before(e.over.Add(slack)) {
		t := time.NewTimer(staleWait - time.Since(f.began))
		defer t.Stop()
		patience = t.C
	}
	select {
	case <-f.done:
		return s.remaining(f.entry, slack)
	case <-patience:
		s.stats.add(cResolveStale)
		return s.remaining(e, slack)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUpstream, ctx.Err())
	}
}

// remaining are e's addresses with the time that is left of e.
func (s *Server) remaining(e *entry, slack time.Duration) ([]learned.Record, error) {
	now := s.now()
	if e.failed != nil && !now.Before(e.over.Add(slack)) {
		return nil, e.failed
	}
	left := max(0, e.until.Sub(now))
	out := slices.Clone(e.answers)
	for i := range out {
		out[i].TTL = min(out[i].TTL, left)
	}
	return out, e.err
}

// fly resolves name and publishes the result.
func (s *Server) fly(ctx context.Context, name string, f *flight) {
	e := s.resolve(ctx, name)
	c := s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	now := s.now()
	if old := c.entries[name]; errors.Is(e.err, ErrUpstream) && old != nil && old.err == nil && now.Before(old.over.Add(s.slack(nil))) {
		s.stats.add(cResolveStale)
		e = &entry{answers: old.answers, until: now.Add(failureTime), over: old.over, failed: e.err}
	}
	if len(c.entries) >= maxCached {
		c.evict(now, s.slack(nil))
	}
	c.entries[name] = e
	delete(c.flights, name)
	f.entry = e
	close(f.done)
}

// evict makes room: what is over, or else any one. Unlike in Names nothing
// but another query is lost.
func (c *cache) evict(now time.Time, slack time.Duration) {
	for name, e := range c.entries {
		if now.After(e.until) && now.After(e.over.Add(slack)) {
			delete(c.entries, name)
		}
	}
	for name := range c.entries {
		if len(c.entries) < maxCached {
			return
		}
		delete(c.entries, name)
	}
}

// resolve asks for both families at once. One family's failure is forgiven
// when the other has addresses.
func (s *Server) resolve(ctx context.Context, name string) *entry {
	var found [2][]learned.Record
	var errs [2]error
	var wg sync.WaitGroup
	for i, qtype := range [2]uint16{dns.TypeA, dns.TypeAAAA} {
		wg.Go(func() { found[i], errs[i] = s.resolveType(ctx, name, qtype) })
	}
	wg.Wait()
	now, o := s.now(), s.names.Options()
	e := &entry{answers: slices.Concat(found[0], found[1])}
	if len(e.answers) == 0 {
		if err := errors.Join(errs[0], errs[1]); err != nil {
			e.err, e.until = err, now.Add(failureTime)
			return e
		}
		e.err, e.until = ErrNotFound, now.Add(negativeTime)
		return e
	}
	ttl := o.Cap
	for _, a := range e.answers {
		ttl = min(ttl, a.TTL)
	}
	if errs[0] != nil || errs[1] != nil {
		ttl = failureTime // the other family is asked for again soon
	}
	e.until = now.Add(max(ttl, min(o.Floor, failureTime)))
	e.over = e.until
	return e
}

// ownAccount is whose questions egressd's own are.
const ownAccount = "egressd"

func (s *Server) resolveType(ctx context.Context, name string, qtype uint16) (found []learned.Record, err error) {
	defer func() {
		if r := recover(); r != nil { // as in reply: one lookup, not the node
			s.stats.add(cPanic)
			found, err = nil, fmt.Errorf("%w: panic: %v", ErrUpstream, r)
		}
	}()
	q := dns.Question{Name: dns.Fqdn(name), Qtype: qtype, Qclass: dns.ClassINET}
	rep, err := s.up.exchange(ctx, ownAccount, newQuery(q, nil), s.serversFor(name))
	if err != nil {
		return nil, err
	}
	if clientRcode(rep.Rcode) == dns.RcodeServerFailure {
		return nil, fmt.Errorf("%w: %s", ErrUpstream, dns.RcodeToString[rep.Rcode])
	}
	f := filter(rep, q, rules{maxTTL: uint32(s.names.Options().Cap / time.Second)})
	return f.addrs, nil
}
