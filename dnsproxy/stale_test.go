// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/learned/learnedtest"
)

// outages are the ways in which servers have no answer.
var outages = map[string]func(w dns.ResponseWriter, q *dns.Msg){
	"SERVFAIL": func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	},
	"REFUSED": func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused))
	},
	"silence": func(dns.ResponseWriter, *dns.Msg) {},
}

// TestStale: while no server has an answer, a host that is named exactly has its
// last one, whose addresses are open; what a wildcard allows has not.
func TestStale(t *testing.T) {
	records := []string{
		"www.example.com. 60 CNAME edge.test.", "edge.test. 60 A 203.0.113.1", "edge.test. 60 A 203.0.113.2",
		"a.wild.test. 60 A 203.0.113.3",
	}
	for how, outage := range outages {
		t.Run(how, func(t *testing.T) {
			z := newZone(t, records...)
			r := newRig(t, Config{Upstreams: Upstreams{Timeout: 300 * time.Millisecond}}, z.addr).serve()
			ask := func(name string, qtype uint16) *dns.Msg {
				return r.ask("udp", r.udp[0], question(name, qtype))
			}
			for _, name := range []string{"www.example.com.", "a.wild.test."} {
				ask(name, dns.TypeA)
				ask(name, dns.TypeAAAA)
			}
			z.setHandle(outage)
			r.clock.Advance(30 * time.Minute)
			if err := r.names.Expire(); err != nil || len(r.kernel.Addresses()) != 0 {
				t.Fatalf("open: %v, %v", r.kernel.Addresses(), err)
			}
			m := ask("www.example.com.", dns.TypeA)
			want := []string{"www.example.com. 30 IN CNAME edge.test.", "edge.test. 30 IN A 203.0.113.1", "edge.test. 30 IN A 203.0.113.2"}
			if got := texts(m.Answer); !slices.Equal(got, want) || edeOf(m) != int(dns.ExtendedErrorCodeStaleAnswer) {
				t.Errorf("the old answer: %v", m)
			}
			if got := r.kernel.Addresses(); !slices.Equal(got, []string{"203.0.113.1", "203.0.113.2"}) {
				t.Errorf("open: %v", got)
			}
			if m := ask("www.example.com.", dns.TypeAAAA); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
				t.Errorf("of the other family there is but the alias, which is an answer: %v", m)
			}
			for _, tt := range []struct {
				name  string
				qtype uint16
			}{{"a.wild.test.", dns.TypeA}, {"www.example.com.", dns.TypeTXT}, {"other.example.com.", dns.TypeA}} {
				if m := ask(tt.name, tt.qtype); m.Rcode != dns.RcodeServerFailure {
					t.Errorf("%s %d: %v", tt.name, tt.qtype, m)
				}
			}
			if n := r.Stats()["stale"]; n != 2 {
				t.Errorf("stale = %d", n)
			}
			// Not longer than the bound, and not what is not allowed any more.
			was := r.pol.Load()
			r.pol.Store(learnedtest.Compile(t, learnedtest.Service("other.example.com")))
			if m := ask("www.example.com.", dns.TypeA); m.Rcode != dns.RcodeNameError {
				t.Errorf("a name that was removed: %v", m)
			}
			r.pol.Store(was)
			r.clock.Advance(31 * time.Minute)
			if m := ask("www.example.com.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
				t.Errorf("after the bound: %v", m)
			}
			z.setHandle(nil)
			if m := ask("www.example.com.", dns.TypeA); len(m.Answer) != 3 || edeOf(m) >= 0 {
				t.Errorf("when the server is back: %v", m)
			}
		})
	}
}

// TestStaleIsQuick: one client waits a moment for a silent server, those after
// it do not, and what comes late counts.
func TestStaleIsQuick(t *testing.T) {
	z := newZone(t, "www.example.com. 60 A 203.0.113.1")
	r := newRig(t, Config{}, z.addr).serve()
	first := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
	if len(first.Answer) != 1 {
		t.Fatal(first)
	}
	release := make(chan struct{})
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		<-release
		_ = w.WriteMsg(zoneReply(q, []string{"www.example.com. 60 A 203.0.113.9"}))
	})
	z.takeAsked()
	began := time.Now()
	m, _, err := (&dns.Client{Timeout: 3 * time.Second}).Exchange(question("www.example.com.", dns.TypeA), r.udp[0].String())
	if err != nil || edeOf(m) != int(dns.ExtendedErrorCodeStaleAnswer) {
		t.Fatal(m, err)
	}
	if took := time.Since(began); took < staleWait {
		t.Errorf("the server had %s, want %s", took, staleWait)
	}
	for range 50 {
		if m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)); edeOf(m) != int(dns.ExtendedErrorCodeStaleAnswer) {
			t.Fatal(m)
		}
	}
	if asked := z.takeAsked(); len(asked) != 1 {
		t.Errorf("asked %v", asked)
	}
	close(release)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // polling
		m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
		if got := fmt.Sprint(texts(m.Answer)); got == "[www.example.com. 60 IN A 203.0.113.9]" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server answers, and the old answer is given")
		}
	}
}

// TestStaleEndsWithTheName: that a name is gone is an answer, and then there is
// no older one.
func TestStaleEndsWithTheName(t *testing.T) {
	z := newZone(t, "www.example.com. 60 A 203.0.113.1")
	r := newRig(t, Config{}, z.addr).serve()
	rcodes := func() (out []int) {
		for _, h := range []func(dns.ResponseWriter, *dns.Msg){nil, outages["SERVFAIL"]} {
			z.setHandle(h)
			out = append(out, r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)).Rcode)
		}
		return out
	}
	if got := rcodes(); !slices.Equal(got, []int{dns.RcodeSuccess, dns.RcodeSuccess}) {
		t.Errorf("%v", got)
	}
	z.set()
	if got := rcodes(); !slices.Equal(got, []int{dns.RcodeNameError, dns.RcodeServerFailure}) {
		t.Errorf("after the name's end: %v", got)
	}
}

// TestStaleOff: without the setting there is none.
func TestStaleOff(t *testing.T) {
	z := newZone(t, "www.example.com. 60 A 203.0.113.1")
	r := newRig(t, Config{Stale: -1}, z.addr).serve()
	r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
	z.setHandle(outages["SERVFAIL"])
	if m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Error(m)
	}
}

// TestStaleOfAForwarder: what a captured forwarder hears from a server of its
// own is not told to others.
func TestStaleOfAForwarder(t *testing.T) {
	trusted, own := newZone(t), newZone(t, "www.example.com. 60 A 203.0.113.66")
	trusted.setHandle(outages["SERVFAIL"])
	const forwarder = 9
	r := newRig(t, Config{Serves: func(c Client, a netip.AddrPort) bool { return c.Process.PID == forwarder && a == trusted.addr }}, trusted.addr).serve()
	c := Client{Workload: "w", Policy: id, Server: own.addr, Process: flow.Process{PID: forwarder}}
	r.setClient(c)
	if m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)); len(m.Answer) != 1 {
		t.Fatal(m)
	}
	c.Process.PID = 7
	r.setClient(c)
	if m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Error(m)
	}
}

// TestStaleBounds: of more answers than are kept any may go.
func TestStaleBounds(t *testing.T) {
	l, now := lastAnswers{by: map[sameQuery]*lastAnswer{}}, learnedtest.NewClock().Now()
	for i := range maxLast + 10 {
		l.put(sameQuery{name: fmt.Sprint(i)}, nil, now, now.Add(-time.Hour))
	}
	if len(l.by) != maxLast {
		t.Errorf("%d are kept", len(l.by))
	}
	l.put(sameQuery{name: "later"}, nil, now.Add(2*time.Hour), now.Add(time.Hour))
	if len(l.by) != 1 {
		t.Errorf("%d are kept, and all but one are over", len(l.by))
	}
}

// TestResolveStaleIsQuick: with old addresses the core does not wait for silent
// servers, and what they say in the end counts.
func TestResolveStaleIsQuick(t *testing.T) {
	z := newZone(t, "www.example.com. 60 A 203.0.113.1")
	r := newRig(t, Config{}, z.addr)
	resolve := func() string {
		got, err := r.Resolve(context.Background(), id, "www.example.com")
		return fmt.Sprint(got, err)
	}
	if got := resolve(); got != "[203.0.113.1] <nil>" {
		t.Fatal(got)
	}
	release := make(chan struct{})
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		<-release
		_ = w.WriteMsg(zoneReply(q, []string{"www.example.com. 60 A 203.0.113.9"}))
	})
	r.clock.Advance(10 * time.Minute)
	began := time.Now()
	for range 20 {
		if got := resolve(); got != "[203.0.113.1] <nil>" {
			t.Fatal(got)
		}
	}
	if took := time.Since(began); took < staleWait || took > 4*staleWait {
		t.Errorf("20 resolutions took %s, and the first waits %s", took, staleWait)
	}
	close(release)
	for deadline := time.Now().Add(10 * time.Second); resolve() != "[203.0.113.9] <nil>"; time.Sleep(time.Millisecond) { // polling
		if time.Now().After(deadline) {
			t.Fatal("the server answers, and the old addresses are given")
		}
	}
}

// TestStaleIsGuarded: an address that is the node's own by now is in no old
// answer.
func TestStaleIsGuarded(t *testing.T) {
	z := newZone(t, "www.example.com. 60 A 203.0.113.1", "www.example.com. 60 A 203.0.113.2")
	r := newRig(t, Config{}, z.addr)
	var own ipguard.Addresses
	r.guard = ipguard.NewLive(&own)
	r.names = learned.New(r.kernel, r.pol, learned.Options{Guard: r.guard, Now: r.clock.Now})
	r.Server.names = r.names
	r.serve()
	ask := func() string {
		return fmt.Sprint(texts(r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)).Answer))
	}
	ask()
	z.setHandle(outages["SERVFAIL"])
	if got := ask(); got != "[www.example.com. 30 IN A 203.0.113.1 www.example.com. 30 IN A 203.0.113.2]" {
		t.Errorf("before: %s", got)
	}
	own.Set([]netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")})
	if got := ask(); got != "[www.example.com. 30 IN A 203.0.113.2]" {
		t.Errorf("after: %s", got)
	}
}

// TestResolveStale: the core goes on with old addresses as well, longer for a
// host that is named exactly.
func TestResolveStale(t *testing.T) {
	z := newZone(t, "www.example.com. 60 A 203.0.113.1", "a.wild.test. 60 A 203.0.113.3")
	r := newRig(t, Config{}, z.addr)
	steps := []struct {
		after       time.Duration
		handle      func(dns.ResponseWriter, *dns.Msg)
		exact, wild string
	}{
		{0, nil, "[203.0.113.1]", "[203.0.113.3]"},
		{90 * time.Second, outages["SERVFAIL"], "[203.0.113.1]", "[203.0.113.3]"},
		{30 * time.Minute, outages["SERVFAIL"], "[203.0.113.1]", "[]"},
		{29 * time.Minute, outages["SERVFAIL"], "[203.0.113.1]", "[]"},
		{2 * time.Minute, outages["SERVFAIL"], "[]", "[]"},
		{2 * time.Second, nil, "[203.0.113.1]", "[203.0.113.3]"},
	}
	for i, s := range steps {
		z.setHandle(s.handle)
		r.clock.Advance(s.after)
		if err := r.names.Expire(); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"www.example.com": s.exact, "a.wild.test": s.wild} {
			got, err := r.Resolve(context.Background(), id, name)
			if fmt.Sprint(got) != want || (want == "[]") != errors.Is(err, ErrUpstream) {
				t.Errorf("step %d, %s: %v, %v; want %s", i, name, got, err, want)
			}
		}
	}
}
