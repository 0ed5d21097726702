// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// perTry is a route to a.example, spoken to in HTTP/2 or not, each attempt of which
// has a short time, and the attempts given.
func (r *rig) perTry(http2 bool, attempts int, on ...string) {
	a := routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: attempts, On: on, PerTryTimeout: 100 * time.Millisecond, Backoff: time.Millisecond}}, "a.example")
	if http2 {
		a.Destinations[0].Upstream.Protocol = policy.ProtocolHTTP2
	}
	r.rule(a)
}

// heldWrites is a connection of which a Write that has a request in it returns when
// it is let: what it wrote has arrived by then.
type heldWrites struct {
	net.Conn
	let <-chan struct{}
}

func (c heldWrites) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if len(p) > 9 && p[3] == byte(http2.FrameHeaders) {
		<-c.let
	}
	return n, err
}

// writesHeld is a Dialer of them.
type writesHeld struct {
	upstream.Dialer
	let chan struct{}
}

func (d writesHeld) Dial(ctx context.Context, c *Conn, u *policy.Upstream) (net.Conn, error) {
	nc, err := d.Dialer.Dial(ctx, c, u)
	if err != nil {
		return nil, err
	}
	return heldWrites{nc, d.let}, nil
}

// TestPerTryIsNotUnprocessed: the time of an attempt is over when its request is on
// its way and net/http does not know yet that it is. It may have had its effect, so
// it is not sent again.
func TestPerTryIsNotUnprocessed(t *testing.T) {
	t.Parallel()
	r := newRig(t, HTTP)
	let := make(chan struct{})
	r.dialer.Dialer = writesHeld{r.fakes, let}
	r.perTry(true, 0)
	var seen atomic.Int32
	r.origin("a.example", func(nc *net.TCPConn) {
		serveFrames(nc, func(*http2.Framer, uint32, string) bool {
			seen.Add(1)
			return true
		})
	})
	resp, err := r.client(false).Post("http://a.example/", "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	close(let)
	if e := r.sink.wait(t, flow.Request, 1); resp.StatusCode != http.StatusGatewayTimeout || e.Retries != 0 || e.Reason != policy.ReasonTimeout {
		t.Errorf("status %d, event %+v", resp.StatusCode, e)
	}
}

// hangs is a Dialer that never connects.
type hangs struct {
	upstream.Dialer
	dials atomic.Int32
}

func (d *hangs) Dial(ctx context.Context, _ *Conn, _ *policy.Upstream) (net.Conn, error) {
	d.dials.Add(1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestPerTryWhileConnecting: an attempt whose time is over before there is a
// connection is one of those that the rule allows.
func TestPerTryWhileConnecting(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		for attempts, on := range map[int]string{0: "5xx", 1: "5xx", 2: "connect-failure"} {
			r := newRig(t, HTTP)
			d := &hangs{Dialer: r.fakes}
			r.dialer.Dialer = d
			r.perTry(http2, attempts, on)
			resp, _ := get(t, r.client(false), "http://a.example/")
			if e := r.sink.wait(t, flow.Request, 1); resp.StatusCode != http.StatusGatewayTimeout || e.Retries > attempts || int(d.dials.Load()) != e.Retries+1 {
				t.Errorf("HTTP/2 %v, %d attempts on %s: status %d, %d dials, event %+v", http2, attempts, on, resp.StatusCode, d.dials.Load(), e)
			}
		}
	}
}

// TestGoAwayIsNotRefusal: what a server says of the end of its connection is no word
// about a request that it has taken, whatever the words are.
func TestGoAwayIsNotRefusal(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(f *http2.Framer, stream uint32){
		"an error that is called REFUSED_STREAM": func(f *http2.Framer, s uint32) { _ = f.WriteGoAway(s, http2.ErrCodeRefusedStream, nil) },
		"debug data": func(f *http2.Framer, s uint32) {
			_ = f.WriteGoAway(s, http2.ErrCodeNo, []byte("graceful shutdown GOAWAY: client conn not usable, REFUSED_STREAM"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, HTTP)
			r.http2Only()
			var mu sync.Mutex
			seen := 0
			r.origin("a.example", func(nc *net.TCPConn) {
				serveFrames(nc, func(f *http2.Framer, stream uint32, _ string) bool {
					mu.Lock()
					defer mu.Unlock()
					seen++
					end(f, stream)
					return false // and the connection ends
				})
			})
			resp, err := r.client(false).Post("http://a.example/", "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			if e := r.sink.wait(t, flow.Request, 1); resp.StatusCode != http.StatusServiceUnavailable || seen != 1 || e.Reason != policy.ReasonUpstreamClosed {
				t.Errorf("status %d, the origin has seen it %d times, event %+v", resp.StatusCode, seen, e)
			}
		})
	}
}
