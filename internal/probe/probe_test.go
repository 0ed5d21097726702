// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const short = 300 * time.Millisecond

// listen opens a TCP listener in a family until the test ends, and greets whom it
// accepts.
func listen(t *testing.T, f Family, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	at := map[Family]string{IPv4: "127.0.0.1:0", IPv6: "[::1]:0"}[f]
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	if serve != nil {
		serving.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				serve(c)
				_ = c.Close()
			}
		})
	}
	t.Cleanup(func() { _ = ln.Close(); serving.Wait() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func greet(c net.Conn) { _, _ = c.Write([]byte(Greeting)) }

// TestDial: what is answered is well; else the outcome says how far the socket
// came.
func TestDial(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		announced := netip.AddrPort{}
		target := Attempt{Path: Proxy, Family: f, Addr: listen(t, f, greet), Announce: func(src netip.AddrPort) func() {
			announced = src
			return func() {}
		}}
		if o := Dial(t.Context(), target, time.Minute); o.Stage != "" || !o.Redirected || FamilyOf(announced.Addr()) != f || announced.Port() == 0 {
			t.Errorf("%s: %+v, announced %s", f, o, announced)
		}
		target.Announce = nil
		target.Addr = listen(t, f, func(c net.Conn) { _, _ = c.Write([]byte("somebody")) })
		if o := Dial(t.Context(), target, time.Minute); o.Stage != StageAnswer || o.Error != errAnswer.Error() {
			t.Errorf("%s, somebody else answers: %+v", f, o)
		}
		target.Addr = listen(t, f, nil) // the kernel accepts, and nobody else
		if o := Dial(t.Context(), target, short); o.Stage != StageAnswer || o.Errno != syscall.ETIMEDOUT {
			t.Errorf("%s, nobody accepts: %+v", f, o)
		}
		target.Addr = listen(t, f, func(net.Conn) {})
		if o := Dial(t.Context(), target, time.Minute); cause(o, true, 0, false, false) != CauseOverload {
			t.Errorf("%s, turned away: %+v", f, o)
		}
		// It is not captured here.
		for _, target := range Captured([]Family{f}) {
			if o := Dial(t.Context(), target, short); o.Redirected || cause(o, true, 0, false, false) != CauseHook {
				t.Errorf("%+v: %+v", target, o)
			}
		}
	}
}

// TestDNS: an answer to another question, or an error, is none.
func TestDNS(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	var code, id atomic.Int32
	var serving sync.WaitGroup
	defer serving.Wait()
	defer pc.SetDeadline(time.Now())
	serving.Go(func() {
		buf := make([]byte, 512)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil || m.Questions[0].Name.String() != Name {
				t.Errorf("the question: %+v, %v", m, err)
			}
			m.Response, m.RCode, m.ID = true, dnsmessage.RCode(code.Load()), m.ID+uint16(id.Load())
			raw, err := m.Pack()
			if err != nil {
				t.Error(err)
			}
			_, _ = pc.WriteTo(raw, from)
		}
	})
	target := Attempt{Path: DNSUDP, Family: IPv4, Addr: pc.LocalAddr().(*net.UDPAddr).AddrPort()}
	for _, tt := range []struct {
		code, id int32
		want     string
	}{
		{0, 0, ""}, {2, 0, errOverload.Error()}, {3, 0, errAnswer.Error()}, {0, 1, errAnswer.Error()},
	} {
		code.Store(tt.code)
		id.Store(tt.id)
		if o := Dial(t.Context(), target, time.Minute); o.Error != tt.want {
			t.Errorf("%+v: %+v", tt, o)
		}
	}
}

// TestCause: what a failure means.
func TestCause(t *testing.T) {
	timeout := func(p Path, s Stage) Outcome {
		return Outcome{Path: p, Stage: s, Errno: syscall.ETIMEDOUT, Redirected: true}
	}
	for _, tt := range []struct {
		o             Outcome
		queued        int
		served, spent bool
		want          Cause
	}{
		{o: timeout(DNSUDP, StageAnswer), want: CauseDropped},
		{o: timeout(DNSUDP, StageAnswer), queued: -1, want: CauseDropped},
		{o: timeout(DNSUDP, StageAnswer), queued: 40, want: CauseStuck},
		{o: timeout(DNSUDP, StageAnswer), queued: 40, served: true, want: CauseSlow},
		{o: timeout(DNSUDP, StageAnswer), spent: true, want: CauseDropped}, // its socket is open
		{o: timeout(DNSTCP, StageConnect), want: CauseDropped},
		{o: timeout(DNSTCP, StageConnect), queued: 4096, want: CauseStuck}, // a full queue
		{o: timeout(Proxy, StageAnswer), want: CauseStuck},
		{o: timeout(Proxy, StageAnswer), served: true, want: CauseSlow},
		{o: timeout(Proxy, StageAnswer), spent: true, want: CauseDescriptors},
		{o: Outcome{Stage: StageConnect, Errno: syscall.ECONNREFUSED, Redirected: true}, want: CauseRefused},
		{o: Outcome{Stage: StageAnswer, Errno: syscall.EPERM, Redirected: true}, want: CauseDropped},
		{o: Outcome{Stage: StageConnect}, want: CauseHook},
		{o: Outcome{Stage: StageConnect, Errno: syscall.EADDRNOTAVAIL, Redirected: true}, want: CausePorts},
		{o: Outcome{Stage: StageSocket, Errno: syscall.EMFILE, Redirected: true}, want: CauseDescriptors},
		{o: Outcome{Stage: StageSocket, Errno: syscall.EPERM, Redirected: true}, want: CauseOther},
	} {
		if got := cause(tt.o, true, tt.queued, tt.served, tt.spent); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
	for _, c := range []Cause{CauseHook, CauseRefused, CauseDropped, CauseStuck, CauseSlow, CauseDescriptors, CauseOverload, CausePorts, CauseLoopback} {
		if texts[c] == "" {
			t.Errorf("%s has no text", c)
		}
	}
}

// scripted is a Prober whose rounds are what the test says.
type scripted struct {
	*Prober
	log      bytes.Buffer
	outcomes []Outcome
	err      error
}

func newScripted() *scripted {
	s := &scripted{}
	s.Prober = New(Options{
		Interval: time.Hour, Families: []Family{IPv4}, Log: slog.New(slog.NewTextHandler(&s.log, nil)),
		Captured:  func(context.Context) ([]Outcome, error) { return s.outcomes, s.err },
		Listeners: func() []Attempt { return nil },
		Queued:    func(Path, Family) int { return 1 },
		Spent:     func() bool { return false },
	})
	return s
}

// do runs n rounds in which the proxy's outcome is o.
func (s *scripted) do(t *testing.T, n int, o Outcome) {
	o.Path, o.Family, o.Redirected = Proxy, IPv4, true
	s.outcomes = []Outcome{{Path: DNSUDP, Family: IPv4}, {Path: DNSTCP, Family: IPv4}, o}
	for range n {
		s.round(t.Context())
	}
}

// TestProber: a path fails when it failed three times in a row; who makes progress
// is not stuck; each change is logged once.
func TestProber(t *testing.T) {
	silent := Outcome{Stage: StageAnswer, Errno: syscall.ETIMEDOUT}
	s := newScripted()
	s.do(t, 1, Outcome{})
	s.do(t, 2, silent)
	if err := s.NotReady(); err != nil {
		t.Errorf("two failures: %v", err)
	}
	s.do(t, 1, Outcome{})
	s.do(t, 2, silent)
	if err := errors.Join(s.NotReady()); err != nil || s.log.Len() > 0 {
		t.Errorf("two failures after a success: %v, %s", err, &s.log)
	}
	if err := s.Stuck(); err == nil || !strings.Contains(err.Error(), "proxy over ipv4: egressd has it and does not answer") {
		t.Errorf("stuck: %v", err)
	}
	s.do(t, 3, silent)
	if err := s.NotReady(); err == nil || strings.Contains(err.Error(), "dns") || strings.Count(s.log.String(), "\n") != 1 {
		t.Errorf("five failures: %v\n%s", err, &s.log)
	}
	st := s.Status()
	if p := st.Paths[2]; p.OK || p.Cause != CauseStuck || p.Failures != 5 || !p.Failing() || p.LastSuccess.IsZero() || !st.Paths[0].OK || st.Rounds != 9 {
		t.Errorf("%+v", st)
	}
	s.Served(Proxy, IPv4)
	s.do(t, 1, silent)
	if err := s.Stuck(); err != nil || s.NotReady() == nil || s.Status().Paths[2].Cause != CauseSlow {
		t.Errorf("it was served: %v, %+v", err, s.Status())
	}
	s.log.Reset()
	s.do(t, 2, Outcome{})
	if err := errors.Join(s.NotReady(), s.Stuck()); err != nil || strings.Count(s.log.String(), "succeeds again") != 1 {
		t.Errorf("well again: %v\n%s", err, &s.log)
	}
	s.log.Reset()
	s.err = errors.New("read-only file system")
	s.do(t, 2, Outcome{})
	if st := s.Status(); st.Captured || st.Uncaptured != "read-only file system" || strings.Count(s.log.String(), "read-only") != 1 {
		t.Errorf("%+v\n%s", st, &s.log)
	}
}

// TestBeat: the prober is alive during a round, and stuck when one does not end.
func TestBeat(t *testing.T) {
	s := newScripted()
	s.o.Interval = time.Millisecond
	block := make(chan struct{})
	s.o.Captured = func(context.Context) ([]Outcome, error) {
		<-block
		return nil, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	for range 3 {
		if err := s.Beat(ctx); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	close(block)
	<-done
	if err := s.Beat(ctx); err == nil {
		t.Error("it beats when it has ended")
	}
	s.o.Interval = overdue
	s.ticks(false) // Run counted as many ticks as its round took
	s.ticks(true)
	if err := s.Stuck(); err != nil {
		t.Error(err)
	}
	s.ticks(true)
	if err := s.Stuck(); !errors.Is(err, errHangs) {
		t.Errorf("a round that hangs: %v", err)
	}
	s.ticks(false)
	if err := s.Stuck(); err != nil {
		t.Error(err)
	}
}

// TestRunEndsAtOnce: when ctx ends nobody waits for a round under way, whoever
// tries: who takes the daemon's place serves nobody until then.
func TestRunEndsAtOnce(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	deaf, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	targets := []Attempt{
		{Path: Proxy, Family: IPv4, Addr: silent.Addr().(*net.TCPAddr).AddrPort()},
		{Path: DNSUDP, Family: IPv4, Addr: deaf.LocalAddr().(*net.UDPAddr).AddrPort()},
	}
	for name, captured := range map[string]func(context.Context) ([]Outcome, error){
		"captured":  func(ctx context.Context) ([]Outcome, error) { <-ctx.Done(); return nil, ctx.Err() },
		"listeners": func(context.Context) ([]Outcome, error) { return nil, errors.New("no cgroup") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripted()
			trying := make(chan struct{})
			s.o.Captured = func(ctx context.Context) ([]Outcome, error) { close(trying); return captured(ctx) }
			s.o.Listeners = func() []Attempt { return targets }
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); s.Run(ctx) }()
			<-trying
			cancel()
			began := time.Now()
			<-done
			if took := time.Since(began); took > Timeout/2 {
				t.Errorf("it took %v", took)
			}
		})
	}
}
