// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// say sends a request on nc and returns the answer's status and body; 0 when the
// connection ended without one.
func say(t testing.TB, nc net.Conn, request string) (int, string) {
	t.Helper()
	_, err := io.WriteString(nc, request)
	var resp *http.Response
	if err == nil {
		method, _, _ := strings.Cut(request, " ")
		resp, err = http.ReadResponse(bufio.NewReader(nc), &http.Request{Method: method})
	}
	if err != nil {
		if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
			t.Errorf("%q: %v", request, err)
		}
		return 0, ""
	}
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func getOf(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }

func postOf(host string) string {
	return "POST / HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 2\r\n\r\nhi"
}

// expectEnd waits until nc has ended in order.
func expectEnd(t testing.TB, nc net.Conn, what string) {
	t.Helper()
	if b, err := io.ReadAll(nc); err != nil || len(b) > 0 {
		t.Errorf("%s: %q, %v; want the connection's end", what, b, err)
	}
}

// closing is an origin that serves one request on each connection.
func closing(said string) func(nc *net.TCPConn) {
	return func(nc *net.TCPConn) {
		req, err := http.ReadRequest(bufio.NewReader(nc))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\n%sContent-Length: 2\r\n\r\nok", said)
	}
}

// TestUpstreamEndIsPassedOn: a client learns when its upstream connection has
// ended, whether the origin announces it or not.
func TestUpstreamEndIsPassedOn(t *testing.T) {
	for name, said := range map[string]string{"said": "Connection: close\r\n", "not said": ""} {
		r := newRig(t, HTTP)
		r.origin("a.example", closing(said))
		for range 20 {
			nc := r.dial()
			if status, _ := say(t, nc, postOf("a.example")); status != 200 {
				t.Errorf("%s: status %d", name, status)
			}
			expectEnd(t, nc, name)
		}
	}
	// A keep-alive time that is over ends it as well.
	r := newRig(t, HTTP)
	s := &http.Server{IdleTimeout: time.Second, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	ln := listen(t, "127.0.0.1:0")
	r.at("a.example", ln.Addr())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close(); <-done })
	nc := r.dial()
	for range 3 {
		if status, _ := say(t, nc, postOf("a.example")); status != 200 {
			t.Errorf("status %d", status)
		}
	}
	expectEnd(t, nc, "keep-alive time")
	if n := r.dialCount("a.example"); n != 1 {
		t.Errorf("%d upstream connections", n)
	}
}

// TestNoAnswerOfOursToPost: a client that goes on at once on a connection that its
// origin ends sees what it would see without egressd, the connection's end, or an
// answer of the origin; never one of ours.
func TestNoAnswerOfOursToPost(t *testing.T) {
	r := newRig(t, HTTP)
	r.origin("a.example", closing(""))
	answers := 0
	for range 100 {
		nc := r.dial()
		for status := 200; status != 0; {
			if status, _ = say(t, nc, postOf("a.example")); status != 0 && status != 200 {
				t.Fatalf("status %d", status)
			}
			answers += status / 200
		}
		nc.Close()
	}
	if answers < 100 {
		t.Errorf("%d answers on 100 connections", answers)
	}
}

// TestSpentConnection: what was sent on a connection that the origin then ended
// without an answer is not sent twice, and not answered by us: the client knows
// what it may repeat. On a connection that was fresh there is an answer.
func TestSpentConnection(t *testing.T) {
	for _, request := range []string{postOf("a.example"), getOf("a.example")} {
		r := newRig(t, HTTP)
		var requests atomic.Int32
		r.origin("a.example", func(nc *net.TCPConn) {
			br := bufio.NewReader(nc)
			for n := range 2 {
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				requests.Add(1)
				if n == 0 && req.URL.Path != "/no" {
					_, _ = io.WriteString(nc, okAnswer)
				} else {
					return
				}
			}
		})
		nc := r.dial()
		if status, _ := say(t, nc, request); status != 200 {
			t.Errorf("status %d", status)
		}
		if status, _ := say(t, nc, request); status != 0 {
			t.Errorf("%.4s: status %d, want none", request, status)
		}
		if n := requests.Load(); n != 2 {
			t.Errorf("%.4s: %d requests came, 2 were sent", request, n)
		}
		if e := r.sink.wait(t, flow.Request, 2); e.Reason != policy.ReasonUpstreamClosed || e.Status != 0 || e.Detail == "" {
			t.Errorf("event %+v", e)
		}
		if status, body := say(t, r.dial(), strings.Replace(request, " /", " /no", 1)); status != 503 || !strings.Contains(body, "closed the connection") {
			t.Errorf("on a fresh connection: %d %q", status, body)
		}
	}
}

// forget drops what comes to a socket, as a firewall does that has forgotten a
// connection: there is neither an acknowledgement nor a reset.
func forget(t testing.TB, nc *net.TCPConn) {
	t.Helper()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	prog := unix.SockFprog{Len: 1, Filter: &drop}
	_ = raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestForgottenConnection: an upstream connection that has gone without a word
// holds up the client whose it is, as it would without egressd, and no other. The
// client's end is its end.
func TestForgottenConnection(t *testing.T) {
	r := newRig(t, HTTP)
	conns := make(chan *net.TCPConn, 8)
	r.origin("a.example", func(nc *net.TCPConn) {
		conns <- nc
		br := bufio.NewReader(nc)
		for {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			_, _ = io.WriteString(nc, okAnswer)
		}
	})
	nc := r.dial()
	if status, _ := say(t, nc, getOf("a.example")); status != 200 {
		t.Fatalf("status %d", status)
	}
	forget(t, receive(t, conns))
	write(t, nc, getOf("a.example"))
	other := r.dial()
	for range 3 {
		if status, _ := say(t, other, getOf("a.example")); status != 200 {
			t.Errorf("another client: status %d", status)
		}
	}
	_ = nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := nc.Read(make([]byte, 1)); n > 0 {
		t.Errorf("an answer over a connection that takes nothing (%v)", err)
	}
	_ = nc.SetLinger(0)
	nc.Close()
	if e := r.sink.wait(t, flow.Request, 5); e.Status != 0 {
		t.Errorf("event %+v", e)
	}
}

// TestEndpoints: each request is for one of a service's endpoints, by weight; a
// downstream connection has one connection to each.
func TestEndpoints(t *testing.T) {
	for _, layer := range []flow.Layer{flow.Egress, flow.Ingress} {
		var draws atomic.Uint64
		r := newRig(t, HTTP, func(o *Options) { o.Rand, o.Share = func() uint64 { return draws.Add(1) }, layer == flow.Ingress })
		r.layer = layer
		var endpoints []policy.UpstreamEndpoint
		for i, weight := range []uint32{3, 1} {
			r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, i) })
			endpoints = append(endpoints, policy.UpstreamEndpoint{Addr: r.addrs["a.example"], Weight: weight})
		}
		r.change(func() {
			r.http = func(req *policy.Request) policy.HTTPDecision {
				u := upstreamOf(req.Host)
				u.Endpoints = endpoints
				return policy.HTTPDecision{Decision: allowed, Upstream: u}
			}
		})
		c, got := r.client(false), map[string]int{}
		for range 40 {
			_, body := get(t, c, "http://a.example/")
			got[body]++
		}
		if got["0"] != 30 || got["1"] != 10 {
			t.Errorf("%s: shares %v, want 30 and 10", layer, got)
		}
		if n := r.dialCount("a.example"); n != 2 {
			t.Errorf("%s: %d upstream connections to two endpoints", layer, n)
		}
	}
}

// TestRetriesElsewhere: another attempt is made at another endpoint.
func TestRetriesElsewhere(t *testing.T) {
	var draws atomic.Uint64
	r := newRig(t, HTTP, func(o *Options) { o.Rand = func() uint64 { return draws.Add(1) } })
	r.httpOrigin("a.example", status(503))
	bad := r.addrs["a.example"]
	r.httpOrigin("a.example", status(200))
	a := routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 1, On: []string{"5xx"}, Backoff: time.Millisecond}}, "a.example")
	a.Destinations[0].Upstream.Endpoints = []policy.UpstreamEndpoint{{Addr: bad, Weight: 9}, {Addr: r.addrs["a.example"], Weight: 1}}
	r.rule(a)
	c := r.client(false)
	for range 20 {
		if resp, _ := get(t, c, "http://a.example/"); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
}

// TestNobodyListens: where an upstream can't be reached, HTTP gets an answer that
// says so, and other bytes are reset at once.
func TestNobodyListens(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	ln.Close()
	start := time.Now()
	r := newRig(t, Opaque)
	r.at("opaque.example", ln.Addr())
	dialReset(t, r.addr())
	r = newRig(t, HTTP)
	r.at("a.example", ln.Addr())
	if status, body := say(t, r.dial(), getOf("a.example")); status != 503 || !strings.Contains(body, "connection refused") {
		t.Errorf("HTTP: %d %q", status, body)
	}
	if d := time.Since(start); d > patience/2 {
		t.Errorf("after %v", d)
	}
}

// TestUnasked: an answer that nobody asked for ends its connection, in silence:
// what net/http would log is the origin's to choose.
func TestUnasked(t *testing.T) {
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	r := newRig(t, HTTP)
	conns := make(chan *net.TCPConn, 8)
	r.origin("a.example", func(nc *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(nc)); err != nil {
			return
		}
		_, _ = io.WriteString(nc, okAnswer)
		conns <- nc
		_, _ = io.Copy(io.Discard, nc)
	})
	nc := r.dial()
	if status, _ := say(t, nc, getOf("a.example")); status != 200 {
		t.Errorf("status %d", status)
	}
	write(t, receive(t, conns), "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
	expectEnd(t, nc, "behind an answer that nobody asked for")
	if logged.Len() > 0 {
		t.Errorf("logged %q", logged.String())
	}
}

// TestHeadOfDirectResponse: it says how long the body would be.
func TestHeadOfDirectResponse(t *testing.T) {
	r := newRig(t, HTTP)
	r.rule(&policy.HTTPAction{Rule: &policy.HTTPRule{DirectResponse: &policy.DirectResponse{Status: 200, Body: []byte("hello")}}})
	for _, method := range []string{"GET", "HEAD"} {
		req, err := http.NewRequest(method, "http://a.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := r.client(false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.ContentLength != 5 {
			t.Errorf("%s: Content-Length %d", method, resp.ContentLength)
		}
	}
}
