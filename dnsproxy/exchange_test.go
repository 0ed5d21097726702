// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/policy"
)

// says is what a server of a lab does: it answers with a code after a time,
// fails, or is silent for ever.
type says struct {
	after  time.Duration
	rcode  int
	err    error
	silent bool
}

// lab are servers in a bubble, where time goes by as soon as everybody waits.
type lab struct {
	*upstream
	log bytes.Buffer

	mu    sync.Mutex
	by    map[netip.AddrPort]says
	asked []string // "NUMBER NAME"
}

// serverOf is the address of the n-th server of a lab, from 0.
func serverOf(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 53)
}

func newLab(u Upstreams, all ...says) *lab {
	l := &lab{by: map[netip.AddrPort]says{}}
	for i, s := range all {
		u.Servers = append(u.Servers, serverOf(i))
		l.by[serverOf(i)] = s
	}
	setDefault(&u.Timeout, DefaultTimeout)
	setDefault(&u.Attempts, DefaultAttempts)
	log := slog.New(slog.NewTextHandler(&l.log, nil))
	l.upstream = &upstream{ask: l.answer, stats: new(stats), log: log, health: health{
		log: log, now: time.Now, all: 1024, each: 256, by: map[netip.AddrPort]*server{},
	}}
	l.set.Store(&u)
	return l
}

func (l *lab) become(n int, s says) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.by[serverOf(n)] = s
}

func (l *lab) takeAsked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.asked
	l.asked = nil
	return out
}

func (l *lab) answer(ctx context.Context, q *dns.Msg, addr netip.AddrPort) (*dns.Msg, error) {
	l.mu.Lock()
	s := l.by[addr]
	l.asked = append(l.asked, fmt.Sprintf("%d %s", addr.Addr().As4()[3], q.Question[0].Name))
	l.mu.Unlock()
	after := time.After(s.after)
	if s.silent {
		after = nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-after:
	}
	if s.err != nil {
		return nil, s.err
	}
	m := new(dns.Msg).SetRcode(q, s.rcode)
	m.Extra = []dns.RR{&dns.TXT{Hdr: header(".", dns.TypeTXT), Txt: []string{addr.String()}}} // who says so
	return m, nil
}

// try asks once, and says what came of it and how long it took.
func (l *lab) try() (rcode int, from string, took time.Duration, err error) {
	began := time.Now()
	q := newQuery(dns.Question{Name: "www.example.com.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, nil)
	rep, err := l.exchange(context.Background(), "w", q, l.set.Load().Servers)
	if err != nil {
		return -1, "", time.Since(began), err
	}
	return rep.Rcode, rep.Extra[0].(*dns.TXT).Txt[0], time.Since(began), nil
}

func (l *lab) state(n int) UpstreamStatus {
	return l.health.of([]netip.AddrPort{serverOf(n)})[0].status()
}

// TestWhichAnswerCounts: of several answers the best is taken, and none is
// waited for longer than a client would.
func TestWhichAnswerCounts(t *testing.T) {
	const ms = time.Millisecond
	ok, nx := says{after: 20 * ms}, says{after: 20 * ms, rcode: dns.RcodeNameError}
	servfail, refused := says{after: 20 * ms, rcode: dns.RcodeServerFailure}, says{after: 20 * ms, rcode: dns.RcodeRefused}
	silent, closed := says{silent: true}, says{err: unix.ECONNREFUSED}
	tests := []struct {
		name    string
		servers []says
		rcode   int // -1: an error
		from    int
		most    time.Duration
	}{
		{"the first", []says{ok, nx}, 0, 0, 20 * ms},
		{"SERVFAIL goes on at once", []says{servfail, ok}, 0, 1, 40 * ms},
		{"REFUSED goes on at once", []says{refused, nx}, dns.RcodeNameError, 1, 40 * ms},
		{"a closed port goes on at once", []says{closed, ok}, 0, 1, 20 * ms},
		{"a silent one is not waited for", []says{silent, ok}, 0, 1, 300 * ms},
		{"nor are two", []says{silent, silent, ok}, 0, 2, 500 * ms},
		{"NXDOMAIN behind a silent one", []says{silent, nx}, dns.RcodeNameError, 1, 700 * ms},
		{"NXDOMAIN waits for the slow first one", []says{{after: 400 * ms}, nx}, 0, 0, 400 * ms},
		{"which may say the same", []says{{after: 400 * ms, rcode: dns.RcodeNameError}, nx}, dns.RcodeNameError, 0, 400 * ms},
		{"or nothing of use", []says{{after: 400 * ms, rcode: dns.RcodeRefused}, nx}, dns.RcodeNameError, 1, 400 * ms},
		{"NXDOMAIN of the first", []says{nx, ok}, dns.RcodeNameError, 0, 20 * ms},
		{"all refuse: the first says why", []says{refused, servfail}, dns.RcodeRefused, 0, 40 * ms},
		{"a code is better than silence", []says{silent, servfail}, dns.RcodeServerFailure, 1, 4 * time.Second},
		{"a slow lone one", []says{{after: 2500 * ms}}, 0, 0, 2500 * ms},
		{"a lone one that refuses", []says{refused}, dns.RcodeRefused, 0, 20 * ms},
		{"a lone closed port", []says{closed}, -1, 0, 0},
		{"silence", []says{silent, silent}, -1, 0, 4 * time.Second},
		{"none", nil, -1, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(Upstreams{}, tt.servers...)
				rcode, from, took, err := l.try()
				if rcode != tt.rcode || err == nil && from != serverOf(tt.from).String() || took > tt.most {
					t.Errorf("code %d of %s after %s, %v; want %d of %s within %s", rcode, from, took, err, tt.rcode, serverOf(tt.from), tt.most)
				}
				if err != nil && !errors.Is(err, ErrUpstream) {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

// TestDeadServerIsRemembered: it costs the first questions a moment and the
// others nothing, is tried again ever more seldom, and has its place back when
// it answers.
func TestDeadServerIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(Upstreams{}, says{silent: true}, says{after: 20 * time.Millisecond})
		for i := range maxFailures {
			if rcode, _, took, err := l.try(); rcode != 0 || took > 300*time.Millisecond {
				t.Fatalf("question %d: %d, %v after %s", i, rcode, err, took)
			}
			synctest.Wait()
		}
		if s := l.state(0); s.State != "down" || s.Failed != maxFailures || s.LastError == "" || !s.Since.Equal(s.LastErrorAt) {
			t.Fatalf("after %d questions: %+v", maxFailures, s)
		}
		l.takeAsked()
		ask := func(d time.Duration) (first, probes int) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(80 * time.Millisecond) { // of the bubble
				if rcode, _, took, err := l.try(); rcode != 0 || took > 20*time.Millisecond {
					t.Fatalf("while it is down: %d, %v after %s", rcode, err, took)
				}
			}
			for _, q := range l.takeAsked() {
				switch q {
				case "0 .":
					probes++
				case "0 www.example.com.":
					first++
				}
			}
			return first, probes
		}
		if first, probes := ask(10 * time.Minute); first != 0 || probes < 10 || probes > 30 {
			t.Errorf("in ten minutes it was asked %d times, and probed %d times", first, probes)
		}
		l.become(0, says{after: 10 * time.Millisecond})
		if _, probes := ask(maxBackoff + 3*time.Second); probes > 2 {
			t.Errorf("%d probes of one that is back", probes)
		} else if _, from, _, _ := l.try(); from != serverOf(0).String() {
			t.Errorf("%s answers, and the first is back", from)
		}
		log := l.log.String()
		if strings.Count(log, "does not answer") != 1 || strings.Count(log, "answers again") != 1 || strings.Count(log, "192.0.2.0:53") != 2 {
			t.Errorf("log:\n%s", log)
		}
		if s := l.state(0); s.State != "up" || s.Since.Before(s.LastErrorAt) {
			t.Errorf("at last: %+v", s)
		}
	})
}

// TestAllDown: when nobody answers everybody is asked, and whoever comes back
// is heard at once.
func TestAllDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(Upstreams{}, says{silent: true}, says{silent: true})
		for range maxFailures {
			if _, _, took, err := l.try(); err == nil || took != 4*time.Second {
				t.Fatalf("%v after %s", err, took)
			}
		}
		if l.state(0).State != "down" || l.state(1).State != "down" {
			t.Fatalf("%+v, %+v", l.state(0), l.state(1))
		}
		time.Sleep(time.Hour) // of the bubble
		l.become(1, says{after: 10 * time.Millisecond})
		if rcode, _, took, err := l.try(); rcode != 0 || took > 500*time.Millisecond {
			t.Errorf("%d, %v after %s", rcode, err, took)
		}
		synctest.Wait()
		if l.state(1).State != "up" {
			t.Errorf("%+v", l.state(1))
		}
		if _, from, took, _ := l.try(); from != serverOf(1).String() || took != 10*time.Millisecond {
			t.Errorf("%s after %s", from, took)
		}
		time.Sleep(10 * time.Second) // a probe ends
	})
}

// TestOneBadNameIsNoDeadServer: names that nobody can resolve in time do not
// take a server from its place for those that it can.
func TestOneBadNameIsNoDeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(Upstreams{}, says{after: 10 * time.Millisecond}, says{after: 10 * time.Millisecond})
		plain := l.ask
		l.upstream.ask = func(ctx context.Context, q *dns.Msg, a netip.AddrPort) (*dns.Msg, error) {
			if q.Question[0].Name == "slow.wild.test." {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return plain(ctx, q, a)
		}
		slow := newQuery(dns.Question{Name: "slow.wild.test.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, nil)
		for range 20 {
			if _, err := l.exchange(context.Background(), "w", slow, l.set.Load().Servers); err == nil {
				t.Fatal("an answer")
			}
			if _, from, took, err := l.try(); err != nil || from != serverOf(0).String() || took != 10*time.Millisecond {
				t.Fatalf("%s after %s, %v", from, took, err)
			}
		}
	})
}

// TestShareOfADeadServer: what waits for a server that is down is little, so
// that its questions do not take the places of others.
func TestShareOfADeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(Upstreams{}, says{silent: true})
		for range maxFailures {
			_, _, _, _ = l.try()
		}
		ask := func(account string, n int) (busy int) {
			errs := make(chan error, n)
			for i := range n {
				go func() {
					q := newQuery(dns.Question{Name: fmt.Sprintf("n%d.wild.test.", i), Qtype: dns.TypeA, Qclass: dns.ClassINET}, nil)
					_, err := l.exchange(context.Background(), account, q, l.set.Load().Servers)
					errs <- err
				}()
			}
			time.Sleep(time.Millisecond) // of the bubble: much less than those wait that do
			for range len(errs) {
				if err := <-errs; errors.Is(err, errBusy) && errors.Is(err, ErrUpstream) {
					busy++
				}
			}
			return busy
		}
		for _, account := range []string{"a", "b"} {
			if busy := ask(account, 300); busy != 300-downShare {
				t.Errorf("%d of 300 questions of %s were refused at once, want %d", busy, account, 300-downShare)
			}
		}
		time.Sleep(10 * time.Second)
		if busy := ask("a", downShare); busy != 0 {
			t.Errorf("%d refused after the others ended", busy)
		}
		if n := l.stats[cUpstreamBusy].Load(); n == 0 {
			t.Error("not counted")
		}
		time.Sleep(10 * time.Second)
	})
}

// TestNodeLacksDescriptors: that is no server's fault, and is said as what it is.
func TestNodeLacksDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(Upstreams{}, says{err: fmt.Errorf("socket: %w", unix.EMFILE)}, says{err: fmt.Errorf("socket: %w", unix.EMFILE)})
		for range 10 {
			if _, _, _, err := l.try(); !localFailure(err) {
				t.Fatal(err)
			}
		}
		if s := l.state(0); s.State == "down" || s.Failed != 0 {
			t.Errorf("%+v", s)
		}
		if log := l.log.String(); strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, "too many open files") {
			t.Errorf("log:\n%s", log)
		}
		if n := l.stats[cLocalFailed].Load(); n != 20 {
			t.Errorf("counted %d", n)
		}
	})
}

// silence is a port that takes questions and says nothing.
func silence(t testing.TB) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// TestHastyClients: with the first of two servers dead, clients that wait for a
// second are served, from the first question on.
func TestHastyClients(t *testing.T) {
	z := newZone(t, "*.wild.test. 60 A 203.0.113.1")
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(zoneReply(q, []string{q.Question[0].Name + " 60 A 203.0.113.1"}))
	})
	r := newRig(t, Config{Upstreams: Upstreams{Timeout: 2 * time.Second}}, silence(t), z.addr).serve()
	c := dns.Client{Timeout: time.Second}
	ask := func(i int) error {
		_, _, err := c.Exchange(question(fmt.Sprintf("n%d.wild.test.", i), dns.TypeA), r.udp[0].String())
		return err
	}
	if err := ask(0); err != nil {
		t.Errorf("the first question: %v", err)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 25 {
				if err := ask(1 + w*25 + i); err != nil {
					t.Errorf("question %d of %d: %v", i, w, err)
				}
			}
		})
	}
	wg.Wait()
	got := r.Upstreams()
	if len(got) != 2 || got[0].State != "down" || got[1].State != "up" || got[1].Answered != 201 {
		t.Errorf("Upstreams: %+v", got)
	}
}

// TestTruncatedAndNoTCP: a server whose TCP is dead is followed by the next one,
// and is not taken for dead.
func TestTruncatedAndNoTCP(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bad := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Truncated = true
		_ = w.WriteMsg(m)
	})}
	up, done := make(chan struct{}), make(chan struct{})
	bad.NotifyStartedFunc = func() { close(up) }
	go func() { defer close(done); _ = bad.ActivateAndServe() }()
	<-up
	t.Cleanup(func() { _ = bad.Shutdown(); <-done })
	r := newRig(t, Config{}, pc.LocalAddr().(*net.UDPAddr).AddrPort(), newZone(t, internet...).addr).serve()
	for range 2 * maxFailures {
		m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
		if got := texts(m.Answer); len(got) != 1 {
			t.Errorf("answer %v", m)
		}
	}
	if s := r.Upstreams()[0]; s.State == "down" {
		t.Errorf("%+v", s)
	}
}

// TestSetUpstreams: other servers are asked from the next question on, and what
// is known of those that stay is kept.
func TestSetUpstreams(t *testing.T) {
	first, second := newZone(t, "www.example.com. 60 A 203.0.113.1"), newZone(t, "www.example.com. 60 A 203.0.113.2")
	hold := make(chan struct{})
	arrived := make(chan struct{}, 8)
	first.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		arrived <- struct{}{}
		<-hold
		_ = w.WriteMsg(zoneReply(q, []string{"www.example.com. 60 A 203.0.113.1"}))
	})
	r := newRig(t, Config{}, first.addr).serve()
	open := make(chan *dns.Msg, 1)
	go func() {
		m, _, _ := (&dns.Client{Timeout: 10 * time.Second}).Exchange(question("www.example.com.", dns.TypeA), r.udp[0].String())
		open <- m
	}()
	<-arrived
	r.SetUpstreams(Upstreams{Servers: []netip.AddrPort{second.addr}, Search: []string{"corp.test"}})
	m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
	if got := fmt.Sprint(texts(m.Answer)); got != "[www.example.com. 60 IN A 203.0.113.2]" {
		t.Errorf("the next question: %s", got)
	}
	close(hold)
	if m := <-open; m == nil || fmt.Sprint(texts(m.Answer)) != "[www.example.com. 60 IN A 203.0.113.1]" {
		t.Errorf("the question that was under way: %v", m)
	}
	m = r.ask("udp", r.udp[0], question("www.example.com.corp.test.", dns.TypeA))
	if m.Rcode != dns.RcodeNameError || r.Stats()["search_suffix"] != 1 {
		t.Errorf("a search step: %v", m)
	}
	if got := r.Upstreams(); len(got) != 1 || got[0].Server != second.addr.String() {
		t.Errorf("Upstreams: %+v", got)
	}
}

// TestBusyServerIsNamed: a question for which there was no room says so.
func TestBusyServerIsNamed(t *testing.T) {
	r := newRig(t, Config{Stale: -1}, silence(t))
	r.upstream.ask = func(context.Context, *dns.Msg, netip.AddrPort) (*dns.Msg, error) { return nil, errBusy }
	c := *r.origins.client.Load()
	m := new(dns.Msg)
	if err := m.Unpack(r.reply(context.Background(), c, policy.UDP, mustPack(t, question("www.example.com.", dns.TypeA)))); err != nil {
		t.Fatal(err)
	}
	if m.Rcode != dns.RcodeServerFailure || edeOf(m) != int(dns.ExtendedErrorCodeOther) {
		t.Errorf("%v", m)
	}
	r.expectEvent(policy.ReasonOverload, false)
}

// BenchmarkOneDeadServer is how fast questions are answered, over real sockets,
// with the first of two servers dead, and without it.
func BenchmarkOneDeadServer(b *testing.B) {
	for _, dead := range []bool{false, true} {
		b.Run(fmt.Sprintf("dead=%v", dead), func(b *testing.B) {
			z := newZone(b)
			z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
				_ = w.WriteMsg(zoneReply(q, []string{q.Question[0].Name + " 60 A 203.0.113.1"}))
			})
			servers := []netip.AddrPort{z.addr}
			if dead {
				servers = []netip.AddrPort{silence(b), z.addr}
			}
			r := newRig(b, Config{}, servers...)
			c := *r.origins.client.Load()
			var failed atomic.Int64
			b.SetParallelism(8)
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for i := 0; p.Next(); i++ {
					m := r.handle(context.Background(), c, policy.UDP, question(fmt.Sprintf("n%d.wild.test.", i%256), dns.TypeA))
					if m.Rcode != dns.RcodeSuccess {
						failed.Add(1)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
			b.ReportMetric(100*float64(failed.Load())/float64(b.N), "%failed")
		})
	}
}
