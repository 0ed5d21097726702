// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// While no server answers, a program gets the last answer for a host that the
// policy names exactly (RFC 8767): that servers are down says nothing about the
// name. What is kept is what the server said; what a program may see of it, and
// whether it may ask at all, is decided anew each time.

const (
	// DefaultStale is for how long: an outage of the node's servers is seen and
	// mended in an hour, and what has another owner after that time, as
	// addresses of clouds have, is not told any more.
	DefaultStale = time.Hour
	// staleWait is how long servers have while there is an old answer. RFC 8767
	// (section 5) has 1.8 s; clients that wait for a second must be served, too.
	staleWait = 800 * time.Millisecond
	// staleTTL is the time to live of what is old, in seconds (section 5).
	staleTTL = 30
	// maxLast bounds the answers that are kept, maxLastSize the bytes of one.
	maxLast     = 4096
	maxLastSize = 4096
)

// lastAnswers are the last good answers by question.
type lastAnswers struct {
	mu sync.Mutex
	by map[sameQuery]*lastAnswer
}

type lastAnswer struct {
	wire []byte
	over time.Time // when its own time ends
	// late is how many ask for a newer one and were not waited for: as long as
	// there is one, nobody else needs to wait.
	late int
}

// keeps says whether the last answer to a question is kept. What only a captured
// forwarder's own server says is for the forwarder.
func (s *Server) keeps(d decision, servers []netip.AddrPort) bool {
	return s.stale > 0 && len(servers) > 0 && slices.Contains(s.servers(), servers[0]) && d.host != nil && !d.host.Own && !d.host.Pattern.IsWildcard()
}

// lookup asks the servers for a client; stale says that what it returns is old.
// The reply is the caller's own. ctx lasts as long as the listeners.
func (s *Server) lookup(ctx context.Context, c Client, q *dns.Msg, d decision, servers []netip.AddrPort) (rep *dns.Msg, stale bool, err error) {
	account := s.account(c)
	if !s.keeps(d, servers) {
		rep, err = s.up.exchange(ctx, account, q, servers)
		return rep, false, err
	}
	key := keyOf(q, nil) // whoever answered
	old, late := s.last.get(key, s.now().Add(-s.stale))
	if old == nil {
		rep, err = s.up.exchange(ctx, account, q, servers)
		s.keepLast(key, rep, err)
		return rep, false, err
	}
	if !late {
		if rep, err = s.refresh(ctx, account, key, q, servers); err == nil && !poor(rep) {
			return rep, false, nil
		}
	}
	s.stats.add(cStale)
	return old, true, nil
}

// refresh asks while there is an old answer: for staleWait at the most. The
// question goes on after that, and its answer is kept.
func (s *Server) refresh(ctx context.Context, account string, key sameQuery, q *dns.Msg, servers []netip.AddrPort) (*dns.Msg, error) {
	type reply struct {
		rep *dns.Msg
		err error
	}
	done := make(chan reply, 1)
	var parted atomic.Bool // by the first of both: the question ended, or nobody waits
	go func() {
		rep, err := s.up.exchange(ctx, account, q, servers)
		s.keepLast(key, rep, err)
		done <- reply{rep, err}
		if parted.Swap(true) {
			s.last.count(key, -1)
		}
	}()
	wait := time.NewTimer(staleWait)
	defer wait.Stop()
	select {
	case r := <-done:
		return r.rep, r.err
	case <-wait.C:
	}
	s.last.count(key, 1)
	if parted.Swap(true) {
		s.last.count(key, -1)
	}
	return nil, fmt.Errorf("%w within %s", ErrUpstream, staleWait)
}

// poor says whether a reply is no answer.
func poor(rep *dns.Msg) bool {
	return rep.Rcode != dns.RcodeSuccess && rep.Rcode != dns.RcodeNameError
}

// keepLast keeps an answer. One that says that the name is not there, or has
// nothing of the kind, is one as well; a failure leaves what is there.
func (s *Server) keepLast(key sameQuery, rep *dns.Msg, err error) {
	if err != nil || poor(rep) {
		return
	}
	now := s.now()
	if rep.Rcode == dns.RcodeNameError {
		s.last.drop(key)
		return
	}
	ttl := s.names.Options().Cap
	for _, rr := range rep.Answer {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
	}
	if len(rep.Answer) == 0 {
		ttl = 0 // RFC 2308 would have the SOA's; this is on the safe side
	}
	c := *rep // packing changes the header only
	c.Compress = true
	wire, err := c.Pack()
	if err != nil || len(wire) > maxLastSize {
		s.last.drop(key)
		return
	}
	s.last.put(key, wire, now.Add(ttl), now.Add(-s.stale))
}

// get returns the last answer to a question, with staleTTL, and whether somebody
// asks for a newer one in vain; nil: there is none whose time ended after since.
func (l *lastAnswers) get(key sameQuery, since time.Time) (rep *dns.Msg, late bool) {
	l.mu.Lock()
	a := l.by[key]
	if a != nil && !a.over.After(since) {
		delete(l.by, key)
		a = nil
	}
	if a == nil {
		l.mu.Unlock()
		return nil, false
	}
	wire, late := a.wire, a.late > 0
	l.mu.Unlock()
	rep = new(dns.Msg)
	if rep.Unpack(wire) != nil {
		return nil, false // we packed it
	}
	for _, rr := range slices.Concat(rep.Answer, rep.Ns) {
		rr.Header().Ttl = staleTTL
	}
	return rep, late
}

// put keeps an answer whose time ends at over. When there is no room, those whose
// time ended before since go, or else any.
func (l *lastAnswers) put(key sameQuery, wire []byte, over, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.by[key]; a != nil {
		a.wire, a.over = wire, over
		return
	}
	if len(l.by) >= maxLast {
		maps.DeleteFunc(l.by, func(_ sameQuery, a *lastAnswer) bool { return !a.over.After(since) })
	}
	for other := range l.by {
		if len(l.by) < maxLast {
			break
		}
		delete(l.by, other)
	}
	l.by[key] = &lastAnswer{wire: wire, over: over}
}

func (l *lastAnswers) drop(key sameQuery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.by, key)
}

// count changes how many ask in vain. What is not there any more, or is there
// anew, may be off by them: no less than nobody asks.
func (l *lastAnswers) count(key sameQuery, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.by[key]; a != nil {
		a.late = max(0, a.late+n)
	}
}
