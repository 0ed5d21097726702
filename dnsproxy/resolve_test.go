// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

func TestResolve(t *testing.T) {
	tests := []struct {
		name string
		want string
		err  error
	}{
		{"www.example.com", "[203.0.113.1 2001:4860::1]", nil},
		{"WWW.example.com.", "[203.0.113.1 2001:4860::1]", nil},
		{"other.example.com", "[203.0.113.2]", nil},
		{"mixed.wild.test", "[203.0.113.3]", nil},
		{"bad.wild.test", "[]", learned.ErrAddress},
		{"none.wild.test", "[]", ErrNotFound},
		{"evil.test", "[]", learned.ErrName},
		{"no name", "[]", learned.ErrName},
	}
	z := newZone(t, internet...)
	for _, tt := range tests {
		r := newRig(t, Config{}, z.addr)
		got, err := r.Resolve(context.Background(), policy.DefaultPolicy, tt.name)
		if fmt.Sprint(got) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, %v; want %s, %v", tt.name, got, err, tt.want, tt.err)
		}
		if open := fmt.Sprint(r.kernel.Addresses()); len(got) != len(r.kernel.Addresses()) {
			t.Errorf("%s: opened %s", tt.name, open)
		}
	}
	r := newRig(t, Config{}, z.addr)
	if _, err := r.Resolve(context.Background(), 9, "www.example.com"); !errors.Is(err, learned.ErrName) {
		t.Errorf("unknown policy: %v", err)
	}
}

func TestResolveForEndpoints(t *testing.T) {
	z := newZone(t, "backend.test. 60 A 203.0.113.4", "svc.test. 60 A 10.0.0.4")
	r := newRig(t, Config{}, z.addr)
	match := r.pol.Policy(policy.DefaultPolicy).Lookup("www.example.com")
	got, err := r.ResolveFor(context.Background(), policy.DefaultPolicy, "backend.test", match)
	if err != nil || fmt.Sprint(got) != "[203.0.113.4]" {
		t.Errorf("endpoint: %v, %v", got, err)
	}
	got, err = r.ResolveFor(context.Background(), policy.DefaultPolicy, "svc.test", nil)
	if err != nil || fmt.Sprint(got) != "[10.0.0.4]" {
		t.Errorf("service: %v, %v", got, err)
	}
	wild := r.pol.Policy(policy.DefaultPolicy).Lookup("a.wild.test")
	if _, err = r.ResolveFor(context.Background(), policy.DefaultPolicy, "svc.test", wild); !errors.Is(err, learned.ErrAddress) {
		t.Errorf("a private address for a wildcard: %v", err)
	}
	if got := r.kernel.Addresses(); len(got) != 0 {
		t.Errorf("names that are not allowed opened %v", got)
	}
}

func TestResolveCaches(t *testing.T) {
	z := newZone(t, internet...)
	r := newRig(t, Config{Stale: -1}, z.addr)
	resolve := func() (string, error) {
		got, err := r.Resolve(context.Background(), policy.DefaultPolicy, "www.example.com")
		return fmt.Sprint(got), err
	}
	steps := []struct {
		name  string
		after time.Duration
		rcode int
		asked int // 2 for each resolution, one of each family
		want  string
		err   error
	}{
		{"first", 0, 0, 2, "[203.0.113.1 2001:4860::1]", nil},
		{"cached", 59 * time.Second, 0, 0, "[203.0.113.1 2001:4860::1]", nil},
		{"time is over", 2 * time.Second, 0, 2, "[203.0.113.1 2001:4860::1]", nil},
		{"stale while no server answers", 61 * time.Second, dns.RcodeServerFailure, 2, "[203.0.113.1 2001:4860::1]", nil},
		{"a failure is kept for a second", 0, dns.RcodeServerFailure, 0, "[203.0.113.1 2001:4860::1]", nil},
		{"nothing is open any more", 66 * time.Second, dns.RcodeServerFailure, 2, "[]", ErrUpstream},
		{"gone", 2 * time.Second, dns.RcodeNameError, 2, "[]", ErrNotFound},
		{"gone, cached", 4 * time.Second, dns.RcodeNameError, 0, "[]", ErrNotFound},
		{"back", 2 * time.Second, 0, 2, "[203.0.113.1 2001:4860::1]", nil},
	}
	for _, s := range steps {
		r.clock.Advance(s.after)
		if err := r.names.Expire(); err != nil {
			t.Fatal(err)
		}
		z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
			if s.rcode != 0 {
				_ = w.WriteMsg(new(dns.Msg).SetRcode(q, s.rcode))
				return
			}
			_ = w.WriteMsg(zoneReply(q, internet))
		})
		got, err := resolve()
		if got != s.want || !errors.Is(err, s.err) {
			t.Errorf("%s: %s, %v; want %s, %v", s.name, got, err, s.want, s.err)
		}
		if asked := z.takeAsked(); len(asked) != s.asked {
			t.Errorf("%s: asked %v", s.name, asked)
		}
	}
}

func TestResolveOnce(t *testing.T) {
	z := newZone(t)
	arrived, release := make(chan struct{}, 64), make(chan struct{})
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		arrived <- struct{}{}
		<-release
		_ = w.WriteMsg(zoneReply(q, internet))
	})
	r := newRig(t, Config{}, z.addr)
	ctx, cancel := context.WithCancel(context.Background())
	gaveUp := make(chan error, 1)
	go func() {
		_, err := r.Resolve(ctx, policy.DefaultPolicy, "www.example.com")
		gaveUp <- err
	}()
	<-arrived
	<-arrived
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			got, err := r.Resolve(context.Background(), policy.DefaultPolicy, "www.example.com")
			if err != nil || len(got) != 2 {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	cancel() // who waits for the same answer must not lose it
	if err := <-gaveUp; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUpstream) {
		t.Errorf("the caller that gave up: %v", err)
	}
	close(release)
	wg.Wait()
	if asked := z.takeAsked(); len(asked) != 2 {
		t.Errorf("asked %v", asked)
	}
}

func TestResolveForgivesOneFamily(t *testing.T) {
	z := newZone(t)
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		if q.Question[0].Qtype == dns.TypeAAAA {
			_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
			return
		}
		_ = w.WriteMsg(zoneReply(q, internet))
	})
	r := newRig(t, Config{}, z.addr)
	got, err := r.Resolve(context.Background(), policy.DefaultPolicy, "www.example.com")
	if err != nil || fmt.Sprint(got) != "[203.0.113.1]" {
		t.Errorf("%v, %v", got, err)
	}
	z.takeAsked()
	r.clock.Advance(failureTime)
	if _, err := r.Resolve(context.Background(), policy.DefaultPolicy, "www.example.com"); err != nil || !slices.Contains(z.takeAsked(), "www.example.com. AAAA udp") {
		t.Errorf("the missing family was not asked for again (%v)", err)
	}
}

func TestResolveFollowsThePolicy(t *testing.T) {
	z := newZone(t, "a.lax.test. 600 A 10.0.0.1")
	r := newRig(t, Config{}, z.addr)
	if _, err := r.Resolve(context.Background(), policy.DefaultPolicy, "a.lax.test"); err != nil {
		t.Fatal(err)
	}
	r.pol.Store(learnedtest.Compile(t, learnedtest.Service("*.lax.test")))
	if _, err := r.Resolve(context.Background(), policy.DefaultPolicy, "a.lax.test"); !errors.Is(err, learned.ErrAddress) {
		t.Errorf("a cached private address under the stricter policy: %v", err)
	}
}

func TestCacheEvicts(t *testing.T) {
	c, now := newCache(), time.Now()
	for i := range maxCached {
		c.entries[fmt.Sprint(i)] = &entry{until: now.Add(time.Hour), over: now.Add(time.Hour)}
	}
	c.evict(now, 0)
	if len(c.entries) != maxCached-1 {
		t.Errorf("%d entries", len(c.entries))
	}
	c.evict(now.Add(2*time.Hour), 0)
	if len(c.entries) != 0 {
		t.Errorf("%d old entries", len(c.entries))
	}
}
