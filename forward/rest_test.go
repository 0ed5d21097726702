// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// allRest waits until no goroutine serves a connection of HTTP/1.
func allRest(t testing.TB) {
	t.Helper()
	stacks := make([]byte, 64<<20)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		n := bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("(*http1Conn).Serve("))
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections have a goroutine although nothing passes on them", n)
		}
	}
}

func rests(o *Options) { o.RestAfter = short }

// restful is a rig with two origins that answer each request, one of which ends its
// connections when ends is closed. ask is a client's first request; again is each other.
func restful(t *testing.T, options ...rigOption) (r *rig, ask func(host string) (nc *net.TCPConn, again func() error), ends chan struct{}) {
	t.Helper()
	r, ends = newRig(t, HTTP, append(options, rests)...), make(chan struct{})
	for _, host := range []string{"a.example", "ends.example"} {
		r.origin(host, func(nc *net.TCPConn) {
			in := bufio.NewReader(nc)
			if host == "ends.example" {
				go func() { <-ends; nc.Close() }()
			}
			for {
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				if _, err := io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
					return
				}
			}
		})
	}
	return r, func(host string) (*net.TCPConn, func() error) {
		nc := r.dial()
		in := bufio.NewReader(nc)
		again := func() error {
			write(t, nc, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				return err
			}
			body, err := io.ReadAll(resp.Body)
			if err == nil && string(body) != "ok" {
				err = errors.New("an answer of another request")
			}
			return err
		}
		if err := again(); err != nil {
			t.Fatal(err)
		}
		return nc, again
	}, ends
}

// atEnd says that a connection has ended in order.
func atEnd(t *testing.T, what string, nc net.Conn) {
	t.Helper()
	if n, err := nc.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%s: %d bytes, %v; want the end", what, n, err)
	}
}

// TestRest: a connection that nobody serves goes on with what comes, and ends with
// whatever would have ended it otherwise.
func TestRest(t *testing.T) {
	r, ask, ends := restful(t)
	drained, askDrained, unused := restful(t)
	close(unused)

	again, more := ask("a.example")
	half, _ := ask("a.example")
	gone, _ := ask("a.example")
	loses, _ := ask("ends.example")
	part, _ := ask("a.example")
	killed, _ := ask("a.example")
	idle, _ := askDrained("a.example")
	allRest(t)

	for range 3 {
		if err := more(); err != nil {
			t.Error("a request after the rest:", err)
		}
	}
	if err := half.CloseWrite(); err != nil {
		t.Error(err)
	}
	atEnd(t, "the client has ended its side", half)
	r.sink.wait(t, flow.Close, 1)
	gone.Close()
	r.sink.wait(t, flow.Close, 2)
	close(ends)
	atEnd(t, "the upstream has ended its connection", loses)
	r.sink.wait(t, flow.Close, 3)
	write(t, part, "GET / HTTP/1.1\r\n")
	write(t, part, "Host: a.example\r\n\r\n")
	if n, err := io.ReadAtLeast(part, make([]byte, 100), 15); err != nil {
		t.Error("a request in parts:", n, err)
	}
	allRest(t)
	if err := more(); err != nil {
		t.Error("a request after the second rest:", err)
	}
	allRest(t)

	r.change(func() {
		r.fakes.open = func(*Conn) Admission {
			return Admission{Protocol: Refuse, Decision: policy.Decision{Verdict: policy.Deny, Reason: policy.ReasonNoRule}}
		}
	})
	r.core.Recheck()
	for _, nc := range []net.Conn{again, part, killed} {
		expectReset(t, nc)
	}
	for n := range 3 {
		if e := r.sink.wait(t, flow.Close, n+4); e.Reason != policy.ReasonPolicyChanged {
			t.Errorf("event %+v", e)
		}
	}

	if err := drained.core.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	atEnd(t, "egressd ends", idle)
	for _, r := range []*rig{r, drained} {
		if n := r.core.Stats().Open; n != 0 || !r.core.Idle() {
			t.Errorf("%d connections are left; idle %v", n, r.core.Idle())
		}
	}
}

// TestRestIsIdle: a connection that rests has the time of one that is served.
func TestRestIsIdle(t *testing.T) {
	r, ask, unused := restful(t, func(o *Options) { o.IdleTimeout = time.Second })
	close(unused)
	nc, _ := ask("a.example")
	atEnd(t, "it is idle for too long", nc)
	r.sink.wait(t, flow.Close, 1)
}
