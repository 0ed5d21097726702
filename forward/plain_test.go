// SPDX-License-Identifier: Apache-2.0

//go:build !race

// The race detector has pools forget what they are given.

package forward

import (
	"io"
	"net"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// counter is a Sink that keeps nothing.
type counter struct{ n int }

func (c *counter) Record(e *flow.Event) { c.n++ }

// plain is a client on a connection of whose requests no rule says anything, and an
// origin that answers each. Neither allocates. renew makes another connection.
func plain(t testing.TB, options ...rigOption) (ask, renew func()) {
	t.Helper()
	const request = "GET /index.html HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n"
	const response = "HTTP/1.1 200 OK\r\nServer: o\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
	r := newRig(t, HTTP, append(options, func(o *Options) { o.Sink = &counter{} })...)
	r.origin("a.example", func(nc *net.TCPConn) {
		b, answer := make([]byte, 4096), []byte(response)
		for {
			if n, err := nc.Read(b); err != nil || string(b[:n]) != request {
				return
			}
			if _, err := nc.Write(answer); err != nil {
				return
			}
		}
	})
	d := policy.HTTPDecision{Decision: allowed, Upstream: upstreamOf("a.example")}
	r.http = func(*policy.Request) policy.HTTPDecision { return d }
	nc := r.dial()
	b, out := make([]byte, 4096), []byte(request)
	ask = func() {
		if _, err := nc.Write(out); err != nil {
			t.Fatal(err)
		}
		if n, err := io.ReadAtLeast(nc, b, len(response)); err != nil || string(b[:n]) != response {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
	return ask, func() {
		nc.Close()
		nc = r.dial()
	}
}

// TestPlainAllocations: a request of which no rule says anything allocates nothing.
func TestPlainAllocations(t *testing.T) {
	ask, _ := plain(t)
	ask()
	if n := testing.AllocsPerRun(500, ask); n >= 1 {
		t.Errorf("%v allocations for each request", n)
	}
}

// nobody observes, and keeps nothing.
type nobody struct{ n int }

func (o *nobody) Observe(s *flow.Observation) { o.n += len(s.Request) }

// TestObservedAllocations: neither does one that somebody observes.
func TestObservedAllocations(t *testing.T) {
	o := &nobody{}
	ask, _ := plain(t, func(opts *Options) { opts.Observer = o })
	ask()
	if n := testing.AllocsPerRun(500, ask); n >= 1 || o.n == 0 {
		t.Errorf("%v allocations for each request, %d fields seen", n, o.n)
	}
}

func BenchmarkPlain(b *testing.B) {
	ask, _ := plain(b)
	b.ReportAllocs()
	for b.Loop() {
		ask()
	}
}

// BenchmarkConnections has the allocations of the client and the origin as well.
func BenchmarkConnections(b *testing.B) {
	ask, renew := plain(b)
	b.ReportAllocs()
	for b.Loop() {
		renew()
		ask()
	}
}
