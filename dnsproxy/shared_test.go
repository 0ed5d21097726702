// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

// twoViews has a policy that takes private answers and one that does not.
type twoViews struct{ strict, lax *policy.Policy }

func (v twoViews) Policy(id policy.PolicyID) *policy.Policy {
	switch id {
	case policy.DefaultPolicy:
		return v.strict
	case policy.DefaultPolicy + 1:
		return v.lax
	}
	return nil
}

// TestOneQueryForAll: who asks the same at the same time waits for one query,
// whoever it is, and each gets what its own policy lets it see.
func TestOneQueryForAll(t *testing.T) {
	const askers = 200
	z := newZone(t)
	hold := make(chan struct{})
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		<-hold
		_ = w.WriteMsg(zoneReply(q, []string{"x.wild.test. 60 A 203.0.113.1", "x.wild.test. 60 A 10.0.0.1"}))
	})
	lax := learnedtest.Service("*.wild.test")
	lax.AllowPrivate = true
	views := twoViews{learnedtest.Compile(t, learnedtest.Service("*.wild.test")).Policy(id), learnedtest.Compile(t, lax).Policy(id)}
	r := newRig(t, Config{}, z.addr)
	r.names = learned.New(r.kernel, views, learned.Options{})
	r.Server.policies, r.Server.names = views, r.names
	var wg sync.WaitGroup
	for i := range askers {
		wg.Go(func() {
			c := Client{Workload: fmt.Sprint("w", i%7), Policy: policy.DefaultPolicy + policy.PolicyID(i%2), Server: z.addr}
			name := []string{"x.wild.test.", "X.Wild.TEST."}[i/2%2]
			req := question(name, dns.TypeA)
			m := r.handle(context.Background(), c, policy.UDP, req)
			want := []string{name + " 60 IN A 203.0.113.1"}
			if i%2 == 1 {
				want = append(want, name+" 60 IN A 10.0.0.1")
			}
			got := texts(m.Answer)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("asker %d: %v, want %v", i, got, want)
			}
		})
	}
	for r.Stats()["upstream_shared"] < askers-1 {
		time.Sleep(time.Millisecond) // polling, not waiting: all have joined then
	}
	close(hold)
	wg.Wait()
	if asked := z.takeAsked(); len(asked) != 1 {
		t.Errorf("%d queries left: %v", len(asked), asked)
	}
	for id, want := range map[policy.PolicyID]string{id: "[203.0.113.1]", id + 1: "[10.0.0.1 203.0.113.1]"} {
		if got := fmt.Sprint(r.names.AddrsOf(id, "x.wild.test")); got != want {
			t.Errorf("policy %d learned %s, want %s", id, got, want)
		}
	}
	// Nothing is kept: the next one asks anew.
	r.handle(context.Background(), Client{Policy: id, Server: z.addr}, policy.UDP, question("x.wild.test.", dns.TypeA))
	if asked := z.takeAsked(); len(asked) != 1 {
		t.Errorf("afterwards %v", asked)
	}
}

// TestNotTheSameQuery: what differs in a way that changes the answer is asked
// for itself.
func TestNotTheSameQuery(t *testing.T) {
	one, two := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")
	base := func() *dns.Msg { return question("x.wild.test.", dns.TypeA) }
	key := func(m *dns.Msg, servers ...netip.AddrPort) sameQuery {
		return keyOf(newQuery(m.Question[0], m), servers)
	}
	want := key(base(), one, two)
	for what, change := range map[string]func(m *dns.Msg){
		"id":      func(m *dns.Msg) { m.Id++ },
		"case":    func(m *dns.Msg) { m.Question[0].Name = "X.wild.TEST." },
		"options": func(m *dns.Msg) { m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: []byte("x")}} },
		"RD":      func(m *dns.Msg) { m.RecursionDesired = false },
	} {
		m := base()
		if change(m); key(m, one, two) != want {
			t.Errorf("%s makes another query", what)
		}
	}
	for what, change := range map[string]func(m *dns.Msg){
		"name": func(m *dns.Msg) { m.Question[0].Name = "y.wild.test." },
		"type": func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"DO":   func(m *dns.Msg) { m.IsEdns0().SetDo() },
		"CD":   func(m *dns.Msg) { m.CheckingDisabled = true },
		"AD":   func(m *dns.Msg) { m.AuthenticatedData = true },
	} {
		m := base()
		if change(m); key(m, one, two) == want {
			t.Errorf("%s makes no other query", what)
		}
	}
	if key(base(), two, one) == want {
		t.Error("another server makes no other query")
	}
}

// TestAskersGiveUp: one that gives up does not take the answer from another,
// and when all did the query ends.
func TestAskersGiveUp(t *testing.T) {
	ended := make(chan error, 2)
	answer := make(chan struct{})
	s := &shared{stats: new(stats), flights: map[sameQuery]*sharedFlight{}}
	s.ask = func(ctx context.Context, _ string, q *dns.Msg, _ []netip.AddrPort) (*dns.Msg, error) {
		select {
		case <-ctx.Done():
			ended <- ctx.Err()
			return nil, ctx.Err()
		case <-answer:
			ended <- nil
			return new(dns.Msg).SetReply(q), nil
		}
	}
	ask := func(ctx context.Context) chan error {
		out := make(chan error, 1)
		go func() {
			_, err := s.exchange(ctx, "w", newQuery(question("x.wild.test.", dns.TypeA).Question[0], nil), nil)
			out <- err
		}()
		return out
	}
	joined := func(n int) {
		for {
			s.mu.Lock()
			total := 0
			for _, f := range s.flights {
				total += f.askers
			}
			s.mu.Unlock()
			if total == n {
				return
			}
			time.Sleep(time.Millisecond) // polling
		}
	}
	gone, cancel := context.WithCancel(context.Background())
	first := ask(gone)
	joined(1)
	second := ask(context.Background())
	joined(2)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUpstream) {
		t.Errorf("who gave up: %v", err)
	}
	close(answer)
	if err := <-second; err != nil {
		t.Errorf("who stayed: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the query: %v", err)
	}

	answer = make(chan struct{})
	all, cancel := context.WithCancel(context.Background())
	third := ask(all)
	joined(1)
	cancel()
	<-third
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits, and the query ended with %v", err)
	}
}

// TestPanicCostsOneQuery: what panics in a query that is shared is an error of
// those who wait for it.
func TestPanicCostsOneQuery(t *testing.T) {
	s := &shared{stats: new(stats), flights: map[sameQuery]*sharedFlight{}}
	s.ask = func(context.Context, string, *dns.Msg, []netip.AddrPort) (*dns.Msg, error) { panic("broken") }
	_, err := s.exchange(context.Background(), "w", newQuery(question("x.wild.test.", dns.TypeA).Question[0], nil), nil)
	if !errors.Is(err, ErrUpstream) || s.stats[cPanic].Load() != 1 {
		t.Errorf("%v, %d panics", err, s.stats[cPanic].Load())
	}
}
