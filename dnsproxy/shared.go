// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/miekg/dns"
)

// shared lets those who ask the same at the same time wait for one query.
// Every query has one id and one source port that a forger must guess; were
// there as many as a helper inside cares to ask, he would need to guess any of
// them (the birthday attack of RFC 5452, section 5). Only what the server said
// is shared: who may see what of it is decided for each who asked.
type shared struct {
	ask   func(ctx context.Context, account string, q *dns.Msg, servers []netip.AddrPort) (*dns.Msg, error)
	stats *stats

	mu      sync.Mutex
	flights map[sameQuery]*sharedFlight
}

// sameQuery is what two queries must have in common to have one answer.
type sameQuery struct {
	name          string
	qtype, qclass uint16
	do, cd, ad    bool
	server        netip.AddrPort // the one that is asked first
}

// sharedFlight is one query that is under way.
type sharedFlight struct {
	done chan struct{} // closed after rep and err are set
	rep  *dns.Msg
	err  error
	// askers counts those who wait, under shared.mu; the last one to give up
	// cancels.
	askers int
	joined bool // by more than one
	cancel context.CancelFunc
}

func newShared(u *upstream, s *stats) *shared {
	return &shared{ask: u.exchange, stats: s, flights: map[sameQuery]*sharedFlight{}}
}

// exchange is upstream.exchange, shared; it counts for the account of the first
// who asked. The reply is the caller's own.
func (s *shared) exchange(ctx context.Context, account string, q *dns.Msg, servers []netip.AddrPort) (*dns.Msg, error) {
	key := keyOf(q, servers)
	s.mu.Lock()
	f := s.flights[key]
	if f == nil {
		var work context.Context
		f = &sharedFlight{done: make(chan struct{})}
		// It outlives an asker that gives up: others may have joined.
		work, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
		s.flights[key] = f
		go s.fly(work, account, key, f, q, servers)
	} else {
		f.joined = true
		s.stats.add(cUpstreamShared)
	}
	f.askers++
	s.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		s.leave(key, f)
		return nil, fmt.Errorf("%w: %w", ErrUpstream, ctx.Err())
	}
	if f.rep == nil || !f.joined {
		return f.rep, f.err
	}
	return f.rep.Copy(), f.err // filtering changes it
}

// leave counts an asker out; what nobody waits for any more ends.
func (s *shared) leave(key sameQuery, f *sharedFlight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.askers--; f.askers > 0 {
		return
	}
	f.cancel()
	if s.flights[key] == f {
		delete(s.flights, key)
	}
}

// fly asks, and publishes the answer.
func (s *shared) fly(ctx context.Context, account string, key sameQuery, f *sharedFlight, q *dns.Msg, servers []netip.AddrPort) {
	rep, err := s.recovered(ctx, account, q, servers)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[key] == f {
		delete(s.flights, key) // nobody joins from here on
	}
	f.rep, f.err = rep, err
	f.cancel()
	close(f.done)
}

func (s *shared) recovered(ctx context.Context, account string, q *dns.Msg, servers []netip.AddrPort) (rep *dns.Msg, err error) {
	defer func() {
		if r := recover(); r != nil { // as in reply: one query, not the node
			s.stats.add(cPanic)
			rep, err = nil, fmt.Errorf("%w: panic: %v", ErrUpstream, r)
		}
	}()
	return s.ask(ctx, account, q, servers)
}

func keyOf(q *dns.Msg, servers []netip.AddrPort) sameQuery {
	k := sameQuery{
		name: q.Question[0].Name, qtype: q.Question[0].Qtype, qclass: q.Question[0].Qclass,
		cd: q.CheckingDisabled, ad: q.AuthenticatedData,
	}
	if opt := q.IsEdns0(); opt != nil {
		k.do = opt.Do()
	}
	if len(servers) > 0 {
		k.server = servers[0]
	}
	return k
}
