// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/policy"
)

// Programs that resolve a name once and connect for days (nginx, HAProxy, some
// JVMs) must go on after the answer's time. So names that a workload has asked
// for are asked again while the policy names them exactly, and what they still
// answer stays open. Nothing is opened that no workload was told: an address
// that the name has given up goes, and with the last one the name.

const (
	// keepFloor is the least time between two resolutions of a kept name.
	keepFloor = 30 * time.Second
	// keepAgain is when a name is asked again after no server answered.
	keepAgain = 10 * time.Second
	// maxKept bounds the names that are kept, maxKeptOfPolicy those of one
	// policy. Those asked for last are.
	maxKept         = 4096
	maxKeptOfPolicy = 1024
	// keepInterval is the time between two rounds: less than the shortest time
	// that an answer and its grace can be set to.
	keepInterval = time.Second
	// keepAtOnce is how many are resolved at once, maxKeepRound how many in a
	// round.
	keepAtOnce   = 8
	maxKeepRound = 1024
)

// keeper is when each name is asked again.
type keeper struct {
	s     *Server
	names map[string]*keptName
	// failures counts those in a row within a round. When as many failed as
	// are asked at once, no server answers, and the others don't wait for it.
	failures atomic.Int32
}

type keptName struct {
	policies []policy.PolicyID
	at       time.Time
	// last is until when it is kept while no server answers: Config.Stale after
	// the time of the last answer.
	last time.Time
}

// KeepResolved asks again for the names that are to be kept, until ctx is done.
func (s *Server) KeepResolved(ctx context.Context) {
	k := &keeper{s: s, names: map[string]*keptName{}}
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.round(ctx)
		}
	}
}

// round asks for the names whose time it is.
func (k *keeper) round(ctx context.Context) {
	now := k.s.now()
	k.look(now)
	var due []string
	for name, n := range k.names {
		if !now.Before(n.at) {
			due = append(due, name)
		}
	}
	slices.SortFunc(due, func(a, b string) int {
		return cmp.Or(k.names[a].at.Compare(k.names[b].at), cmp.Compare(a, b))
	})
	due = due[:min(len(due), maxKeepRound)]
	k.failures.Store(0)
	var asking sync.WaitGroup
	room := make(chan struct{}, keepAtOnce)
	for _, name := range due {
		room <- struct{}{}
		asking.Go(func() {
			defer func() { <-room }()
			k.ask(ctx, name, k.names[name])
		})
	}
	asking.Wait()
}

// look brings the list of names to what was learned.
func (k *keeper) look(now time.Time) {
	found := k.s.names.ExactNames(maxKept, maxKeptOfPolicy)
	for name := range k.names {
		if _, ok := found[name]; !ok {
			delete(k.names, name)
		}
	}
	for name, f := range found {
		n := k.names[name]
		if n == nil {
			// Asked before its time is over, or those who connect would be
			// refused meanwhile.
			at := f.Until.Add(-2 * k.s.names.Options().Interval)
			n = &keptName{at: at.Add(-jitter(max(0, at.Sub(now)))), last: f.Until.Add(k.s.stale)}
			k.names[name] = n
		}
		n.policies = f.Policies
	}
}

// jitter is a random part of a tenth of d, so that names that were asked for
// together are not for ever.
func jitter(d time.Duration) time.Duration { return rand.N(d/10 + 1) }

// ask resolves one name and keeps what it answers.
func (k *keeper) ask(ctx context.Context, name string, n *keptName) {
	s := k.s
	answers, err := []learned.Record(nil), ErrUpstream
	if k.failures.Load() < keepAtOnce {
		s.stats.add(cKept)
		answers, err = s.lookupCached(ctx, name, 0)
	}
	now := s.now()
	slack := 2 * s.names.Options().Interval
	switch {
	case err == nil:
		k.failures.Store(0)
		ttl := s.names.Options().Cap
		for _, a := range answers {
			ttl = min(ttl, a.TTL)
		}
		every := max(ttl, keepFloor)
		n.at, n.last = now.Add(every-jitter(every)), now.Add(max(ttl, s.names.Options().Floor)+s.stale)
		for i := range answers {
			answers[i].TTL = max(answers[i].TTL, every+slack)
		}
		for _, id := range n.policies {
			s.names.Keep(id, name, answers)
		}
	case errors.Is(err, ErrUpstream):
		// That no server answers says nothing about the name (RFC 8767).
		s.stats.add(cKeptFailed)
		k.failures.Add(1)
		n.at = now.Add(keepAgain)
		if until := n.at.Add(slack); until.Before(n.last) {
			for _, id := range n.policies {
				s.names.KeepUntil(id, name, until)
			}
		}
	default:
		n.at = now.Add(keepFloor)
	}
}
