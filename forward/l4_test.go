// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/peek/peektest"
	"github.com/egressd/egressd/policy"
)

// hello returns a ClientHello for the name.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	b, err := peektest.ClientHello(&tls.Config{ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// expectReset reads until the error that a RST makes.
func expectReset(t testing.TB, nc net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, nc); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("read: %v, want a reset", err)
	}
}

func readN(t testing.TB, nc net.Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(nc, b); err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(b)
}

func write(t testing.TB, nc net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(nc, s); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func TestTLSForwarded(t *testing.T) {
	for _, split := range []int{0, 1, 5, 700} {
		r := newRig(t, TLS)
		conns := r.accepts("a.example")
		b := hello(t, "A.example")
		nc := r.dial()
		for rest := b; len(rest) > 0; {
			n := len(rest)
			if split > 0 {
				n = min(n, split)
			}
			write(t, nc, string(rest[:n]))
			rest = rest[n:]
		}
		up := receive(t, conns)
		if got := readN(t, up, len(b)); got != string(b) {
			t.Errorf("split %d: the hello arrived changed", split)
		}
		write(t, up, "server")
		if got := readN(t, nc, 6); got != "server" {
			t.Errorf("split %d: read %q", split, got)
		}
		up.Close()
		nc.Close()
		d, c := r.sink.wait(t, flow.Decision, 1), r.sink.wait(t, flow.Close, 1)
		if !d.Allowed || d.Name != "a.example" || d.Proto != "tls" || d.Reason != policy.ReasonAllowed || d.Workload != "w" {
			t.Errorf("decision %+v", d)
		}
		if c.BytesSent != int64(len(b)) || c.BytesReceived != 6 || c.Upstream != relay.AddrPort(up.LocalAddr()) || c.Duration <= 0 {
			t.Errorf("close %+v", c)
		}
	}
}

func TestRefusals(t *testing.T) {
	deny := policy.Decision{Verdict: policy.Deny, Reason: policy.ReasonName, Rule: &policy.Ref{Name: "near"}}
	short := func(o *Options) { o.PeekTimeout = 30 * time.Millisecond }
	tests := []struct {
		name     string
		protocol Handling
		send     []byte
		end      bool // the client half-closes after send
		option   rigOption
		want     policy.Reason
	}{
		{"refused", Refuse, nil, false, nil, policy.ReasonNoRule},
		{"sni not allowed", TLS, hello(t, "evil.example"), false, nil, policy.ReasonName},
		{"sni an address", TLS, bytes.Replace(hello(t, "evil.example"), []byte("evil.example"), []byte("192.0.2.1234"[:12]), 1), false, nil, policy.ReasonName},
		{"sni an IPv4 address", TLS, bytes.Replace(hello(t, "192-000-02-1"), []byte("192-000-02-1"), []byte("192.100.20.1"), 1), false, nil, policy.ReasonName},
		{"malformed hello", TLS, []byte("\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00"), false, nil, policy.ReasonMalformed},
		{"hello cut off", TLS, hello(t, "a.example")[:100], true, nil, policy.ReasonMalformed},
		{"not tls", TLS, []byte("GET / HTTP/1.1\r\n\r\n"), false, nil, policy.ReasonNotTLS},
		{"silent", TLS, nil, false, short, policy.ReasonPeekTimeout},
		{"slow hello", TLS, []byte("\x16\x03\x01"), false, short, policy.ReasonPeekTimeout},
		{"not http", HTTP, []byte("\x00\x01\x02"), false, nil, policy.ReasonNotHTTP},
		{"tls on http", HTTP, hello(t, "a.example"), false, nil, policy.ReasonNotHTTP},
		{"silent http", HTTP, nil, false, short, policy.ReasonPeekTimeout},
		{"half a method", Sniff, []byte("GE"), false, short, policy.ReasonPeekTimeout},
		{"unknown where nothing opaque is allowed", Sniff, []byte("SSH-2.0-x\r\n"), false, nil, policy.ReasonNoName},
		{"silent where nothing opaque is allowed", Sniff, nil, false, short, policy.ReasonPeekTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			options := []rigOption{}
			if tt.option != nil {
				options = append(options, tt.option)
			}
			r := newRig(t, tt.protocol, options...)
			if tt.protocol == Refuse {
				r.open = func(*Conn) Admission { return Admission{Decision: denied(policy.ReasonNoRule, nil)} }
			}
			r.tls = func(string) (policy.Decision, *policy.Upstream) { return deny, upstreamOf("evil.example") }
			if tt.protocol == Refuse {
				dialReset(t, r.addr())
			} else {
				nc := r.dial()
				write(t, nc, string(tt.send))
				if tt.end {
					if err := nc.CloseWrite(); err != nil {
						t.Fatal(err)
					}
				}
				expectReset(t, nc)
			}
			d := r.sink.wait(t, flow.Decision, 1)
			if d.Allowed || d.Verdict != policy.Deny || d.Reason != tt.want {
				t.Errorf("decision %+v, want reason %s", d, tt.want)
			}
			if n := len(r.sink.all(flow.Close)); n != 0 {
				t.Errorf("%d close events for a refused connection", n)
			}
		})
	}
}

// tlsData is a record of application data.
var tlsData = []byte{23, 3, 3, 0, 1, 'x'}

// TestSecondHello: the hello that a HelloRetryRequest asks for has the name of the
// first, or the connection ends, however it is cut.
func TestSecondHello(t *testing.T) {
	ccs := []byte{20, 3, 3, 0, 1, 1}
	good, bad := hello(t, "opaque.example"), hello(t, "evil.example")
	for name, tt := range map[string]struct {
		second []byte
		passes bool
	}{
		"the same name":                  {slices.Concat(ccs, good, tlsData), true},
		"application data":               {slices.Concat(ccs, tlsData), true},
		"another name":                   {slices.Concat(ccs, bad), false},
		"another name, no change_cipher": {bad, false},
		"another name behind an alert":   {slices.Concat([]byte{21, 3, 3, 0, 2, 1, 90}, bad), false},
	} {
		for _, together := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", in the first bytes ", together), func(t *testing.T) {
				r := newRig(t, TLS)
				conns := r.accepts("opaque.example")
				nc := r.dial()
				if together {
					write(t, nc, string(good)+string(tt.second))
				} else {
					write(t, nc, string(good))
				}
				if together && !tt.passes {
					// Refused at once, or at the end if the first read brought
					// the first hello alone.
					expectReset(t, nc)
					if d := r.sink.wait(t, flow.Decision, 1); d.Reason == policy.ReasonName {
						return
					}
					if c := r.sink.wait(t, flow.Close, 1); c.Reason != policy.ReasonName {
						t.Errorf("close %+v", c)
					}
					return
				}
				up := receive(t, conns)
				readN(t, up, len(good))
				if !together {
					write(t, nc, string(tt.second))
				}
				if tt.passes {
					readN(t, up, len(tt.second))
					write(t, up, "answer")
					readN(t, nc, len("answer"))
					return
				}
				expectReset(t, nc)
				if c := r.sink.wait(t, flow.Close, 1); c.Reason != policy.ReasonName || c.Allowed {
					t.Errorf("close %+v", c)
				}
				if got, _ := io.ReadAll(up); bytes.Contains(got, []byte("evil.example")) {
					t.Errorf("the upstream got the other name")
				}
			})
		}
	}
}

// TestHalfClose ends each side in each order; the other side must go on.
func TestHalfClose(t *testing.T) {
	for _, protocol := range []Handling{Opaque, TLS} {
		for _, clientFirst := range []bool{true, false} {
			r := newRig(t, protocol)
			conns := r.accepts("opaque.example")
			first, record := "", ""
			if protocol == TLS {
				first, record = string(hello(t, "opaque.example")), string(tlsData)
			}
			nc := r.dial()
			write(t, nc, first)
			up := receive(t, conns)
			readN(t, up, len(first))
			a, b := nc, up
			if !clientFirst {
				a, b = up, nc
			}
			write(t, nc, record) // behind a ClientHello comes TLS
			readN(t, up, len(record))
			first += record
			write(t, a, "last words")
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(b); err != nil || string(got) != "last words" {
				t.Fatalf("read %q, %v", got, err)
			}
			write(t, b, strings.Repeat("x", 1<<20))
			if err := b.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(a); err != nil || len(got) != 1<<20 {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
			if c := r.sink.wait(t, flow.Close, 1); c.BytesSent+c.BytesReceived != int64(len(first)+10+1<<20) {
				t.Errorf("close %+v", c)
			}
		}
	}
}

func TestResetPassedOn(t *testing.T) {
	for _, fromClient := range []bool{true, false} {
		r := newRig(t, Opaque)
		conns := r.accepts("opaque.example")
		nc := r.dial()
		up := receive(t, conns)
		write(t, nc, "x")
		readN(t, up, 1)
		a, b := nc, up
		if !fromClient {
			a, b = up, nc
		}
		relay.Reset(a)
		expectReset(t, b)
		r.sink.wait(t, flow.Close, 1)
	}
}

func TestDialFailures(t *testing.T) {
	tests := []struct {
		err  error
		want policy.Reason
	}{
		{dial.ErrConnect, policy.ReasonUpstream},
		{dial.ErrResolve, policy.ReasonResolve},
		{dial.ErrAddress, policy.ReasonAddress},
		{dial.ErrUnsupported, policy.ReasonNotSupported},
		{dial.ErrEndpoint, policy.ReasonEndpoint},
	}
	for _, tt := range tests {
		r := newRig(t, Opaque)
		r.fails["opaque.example"] = tt.err
		dialReset(t, r.addr())
		if c := r.sink.wait(t, flow.Close, 1); c.Reason != tt.want {
			t.Errorf("close %+v, want %s", c, tt.want)
		}
	}
}

func TestSniff(t *testing.T) {
	sniffing := func(t *testing.T, o ...rigOption) *rig {
		r := newRig(t, Sniff, o...)
		r.open = func(*Conn) Admission {
			return Admission{Protocol: Sniff, Decision: allowed, Upstream: upstreamOf("opaque.example")}
		}
		return r
	}
	t.Run("server first", func(t *testing.T) {
		r := sniffing(t, func(o *Options) { o.SniffTimeout = 10 * time.Millisecond })
		conns := r.accepts("opaque.example")
		nc := r.dial()
		write(t, receive(t, conns), "220 ready\r\n")
		if got := readN(t, nc, 11); got != "220 ready\r\n" {
			t.Errorf("read %q", got)
		}
	})
	t.Run("unknown protocol", func(t *testing.T) {
		r := sniffing(t)
		conns := r.accepts("opaque.example")
		nc := r.dial()
		write(t, nc, "\x00\x01")
		if got := readN(t, receive(t, conns), 2); got != "\x00\x01" {
			t.Errorf("read %q", got)
		}
	})
	t.Run("client has nothing to say", func(t *testing.T) {
		r := sniffing(t)
		conns := r.accepts("opaque.example")
		nc := r.dial()
		if err := nc.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		write(t, receive(t, conns), "hi")
		if got := readN(t, nc, 2); got != "hi" {
			t.Errorf("read %q", got)
		}
	})
	t.Run("tls", func(t *testing.T) {
		r := sniffing(t)
		conns := r.accepts("a.example")
		write(t, r.dial(), string(hello(t, "a.example")))
		receive(t, conns)
	})
}

func TestNoSNIIsAsked(t *testing.T) {
	r := newRig(t, TLS)
	r.tls = func(sni string) (policy.Decision, *policy.Upstream) {
		if sni == "" {
			return denied(policy.ReasonNoName, nil), nil
		}
		return allowed, upstreamOf(sni)
	}
	nc := r.dial()
	write(t, nc, string(hello(t, "")))
	expectReset(t, nc)
	if d := r.sink.wait(t, flow.Decision, 1); d.Reason != policy.ReasonNoName {
		t.Errorf("decision %+v", d)
	}
}

func TestIdleTimeout(t *testing.T) {
	r := newRig(t, Opaque, func(o *Options) { o.IdleTimeout = 50 * time.Millisecond })
	conns := r.accepts("opaque.example")
	nc := r.dial()
	up := receive(t, conns)
	expectReset(t, nc)
	expectReset(t, up)
	if c := r.sink.wait(t, flow.Close, 1); !strings.HasPrefix(c.Detail, "idle") {
		t.Errorf("close %+v", c)
	}
}

func TestRecheck(t *testing.T) {
	t.Run("tls", func(t *testing.T) {
		r := newRig(t, TLS)
		goodConns, badConns := r.accepts("good.example"), r.accepts("bad.example")
		good, bad := r.dial(), r.dial()
		goodHello, badHello := string(hello(t, "good.example")), string(hello(t, "bad.example"))
		write(t, good, goodHello)
		write(t, bad, badHello)
		goodUp, badUp := receive(t, goodConns), receive(t, badConns)
		readN(t, goodUp, len(goodHello))
		readN(t, badUp, len(badHello))
		r.change(func() {
			r.tls = func(sni string) (policy.Decision, *policy.Upstream) {
				if sni == "bad.example" {
					return denied(policy.ReasonName, nil), nil
				}
				return allowed, upstreamOf(sni)
			}
		})
		r.core.Recheck()
		expectReset(t, bad)
		expectReset(t, badUp)
		if c := r.sink.wait(t, flow.Close, 1); c.Reason != policy.ReasonPolicyChanged || c.Name != "bad.example" || c.Allowed {
			t.Errorf("close %+v", c)
		}
		write(t, goodUp, "still")
		if got := readN(t, good, 5); got != "still" {
			t.Errorf("read %q", got)
		}
	})
	t.Run("while peeking", func(t *testing.T) {
		r := newRig(t, TLS)
		opened := make(chan struct{}, 8)
		open := r.open
		r.open = func(c *Conn) Admission { opened <- struct{}{}; return open(c) }
		nc := r.dial()
		receive(t, opened)
		r.change(func() { r.open = func(*Conn) Admission { return Admission{} } })
		r.core.Recheck()
		expectReset(t, nc)
		if d := r.sink.wait(t, flow.Decision, 1); d.Reason != policy.ReasonPolicyChanged || d.Allowed {
			t.Errorf("decision %+v", d)
		}
	})
	t.Run("opaque no more", func(t *testing.T) {
		r := newRig(t, Opaque)
		conns := r.accepts("opaque.example")
		nc := r.dial()
		receive(t, conns)
		r.change(func() { r.open = func(*Conn) Admission { return Admission{Protocol: TLS, Decision: allowed} } })
		r.core.Recheck()
		expectReset(t, nc)
	})
}

// TestRecheckDuringSniff changes the policy between the opening and the
// moment when the bytes turn out to be opaque.
func TestRecheckDuringSniff(t *testing.T) {
	r := newRig(t, Sniff)
	opened := make(chan struct{}, 8)
	r.open = func(*Conn) Admission {
		opened <- struct{}{}
		return Admission{Protocol: Sniff, Decision: allowed, Upstream: upstreamOf("opaque.example")}
	}
	r.accepts("opaque.example")
	nc := r.dial()
	write(t, nc, "G")
	receive(t, opened)
	r.change(func() { r.open = func(*Conn) Admission { return Admission{Protocol: Sniff, Decision: allowed} } })
	r.core.Recheck()
	write(t, nc, "\x00")
	expectReset(t, nc)
	if n := r.dialCount("opaque.example"); n != 0 {
		t.Errorf("%d dials after the policy changed", n)
	}
}

func TestIdentifyFails(t *testing.T) {
	r := newRig(t, Opaque)
	ln := listen(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- r.core.Serve(ctx, ln, func(*net.TCPConn) (Conn, error) { return Conn{}, errors.New("no record") })
	}()
	dialReset(t, ln.Addr().String())
	if d := r.sink.wait(t, flow.Decision, 1); d.Reason != policy.ReasonNoOrigin || d.Detail != "no record" {
		t.Errorf("decision %+v", d)
	}
	cancel()
	if err := receive(t, served); err != nil {
		t.Error(err)
	}
}

func TestMaxConns(t *testing.T) {
	r := newRig(t, Opaque, func(o *Options) {
		o.Limits = &limits.Limits{Descriptors: limits.NewBudget(2 + 2*limits.SpliceDescriptors), Memory: limits.NewBudget(1 << 30)}
	})
	conns := r.accepts("opaque.example")
	r.dial()
	receive(t, conns)
	dialReset(t, r.addr())
	if d := r.sink.wait(t, flow.Decision, 2); d.Reason != policy.ReasonQuota {
		t.Errorf("decision %+v", d)
	}
	if s := r.core.Stats(); s.Open != 1 || s.Accepted != 1 || s.Refused != 1 {
		t.Errorf("stats %+v", s)
	}
}

// TestSpliceIsUsed looks for the pipe that splice(2) went through, which is kept for
// the next bytes, whosever they are.
func TestSpliceIsUsed(t *testing.T) {
	r := newRig(t, Opaque)
	conns := r.accepts("opaque.example")
	nc := r.dial()
	up := receive(t, conns)
	write(t, nc, "x")
	readN(t, up, 1)
	write(t, up, "y")
	readN(t, nc, 1)
	if n := pipes() - pipesAtStart; n != 2 && n != 4 {
		t.Errorf("%d pipe descriptors after bytes went both ways, want those of one pipe, or of one for each way", n)
	}
}

func TestShutdownDrains(t *testing.T) {
	r := newRig(t, Opaque)
	conns := r.accepts("opaque.example")
	nc := r.dial()
	up := receive(t, conns)
	done := make(chan error, 1)
	go func() { done <- r.core.Shutdown(context.Background()) }()
	write(t, nc, "x")
	readN(t, up, 1)
	nc.Close()
	up.Close()
	if err := receive(t, done); err != nil {
		t.Error(err)
	}
}

func BenchmarkSplice(b *testing.B) {
	r := newRig(b, Opaque)
	r.origin("opaque.example", func(nc *net.TCPConn) { _, _ = io.Copy(io.Discard, nc) })
	nc := r.dial()
	chunk := make([]byte, 256<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := nc.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}

// TestUnusedIsNoDenial: the loser of a race between addresses asked for nothing.
func TestUnusedIsNoDenial(t *testing.T) {
	for _, p := range []Handling{TLS, HTTP} {
		r := newRig(t, p)
		nc := r.dial()
		nc.Close()
		if e := r.sink.wait(t, flow.Close, 1); !e.Allowed || e.BytesSent != 0 {
			t.Errorf("close %+v", e)
		}
		if n := r.core.Stats().Refused; n != 0 {
			t.Errorf("%d connections refused", n)
		}
	}
}
