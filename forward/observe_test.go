// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/frames"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// seenLog copies what it is told of.
type seenLog struct{ list chan string }

func (l seenLog) Observe(s *flow.Observation) {
	to := "-"
	if s.To != nil {
		to = s.To.Host
	}
	l.list <- fmt.Sprintf("%s %s begun=%t to=%s %s %s agent=%q server=%q trailer=%q answered=%t http/%d.%d src=%t", s.Kind, s.Proto, s.Begun, to, s.Method, s.Target,
		s.Request.Get("User-Agent"), s.Response.Get("Server"), s.Trailer.Get("X-Sum"), s.Answered > 0, s.Major, s.Minor, s.Src.IsValid())
}

func (l seenLog) want(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-l.list:
		if got != want {
			t.Errorf("seen %s, want %s", got, want)
		}
	case <-time.After(patience):
		t.Errorf("nothing was seen, want %s", want)
	}
}

// TestObserved: an observer sees requests with the fields of both sides while they
// are there, one after the other on a connection, and what was denied.
func TestObserved(t *testing.T) {
	l := seenLog{make(chan string, 16)}
	r := newRig(t, HTTP, func(o *Options) { o.Observer = l })
	r.origin("a.example", func(nc *net.TCPConn) {
		in := bufio.NewReader(nc)
		for n := 0; ; n++ {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: o%d\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: s%d\r\n\r\n", n, n)
			if _, err := io.WriteString(nc, answer); err != nil {
				return
			}
		}
	})
	nc := r.dial()
	in := bufio.NewReader(nc)
	for n := range 2 {
		fmt.Fprintf(nc, "GET /p?n=%d HTTP/1.1\r\nHost: a.example\r\nUser-Agent: u%d\r\nTE: trailers\r\n\r\n", n, n)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		l.want(t, fmt.Sprintf(`request http begun=false to=a.example GET /p?n=%d agent="u%d" server="o%d" trailer="s%d" answered=true http/1.1 src=true`, n, n, n, n))
	}
}

// TestObservedConnections: of a connection that nobody reads its begin and its end
// are seen, of one that is denied that.
func TestObservedConnections(t *testing.T) {
	l := seenLog{make(chan string, 16)}
	r := newRig(t, Opaque, func(o *Options) { o.Observer = l })
	r.origin("opaque.example", func(nc *net.TCPConn) { _, _ = io.Copy(nc, nc) })
	nc := r.dial()
	if _, err := io.WriteString(nc, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	const rest = ` to=opaque.example   agent="" server="" trailer="" answered=false http/0.0 src=true`
	l.want(t, "decision tcp begun=true"+rest)
	nc.Close()
	l.want(t, "close tcp begun=false"+rest)
	r.change(func() {
		r.open = func(*Conn) Admission { return Admission{Protocol: Refuse, Decision: denied("no-rule", nil)} }
	})
	if c, err := net.Dial("tcp", r.addr()); err == nil { // it may be reset before it is there
		defer c.Close()
		_, _ = c.Read(make([]byte, 1))
	}
	l.want(t, "decision tcp begun=false"+strings.Replace(rest, "opaque.example", "-", 1))
}

// TestObservedRefusals: what is refused before it is a request is seen as one, with
// what is known of it and Envoy's flag.
func TestObservedRefusals(t *testing.T) {
	type refusal struct {
		status        int
		reason        policy.Reason
		method, path  string
		flags         string
		major         int
		kind          flow.Moment
		allowed, size bool
	}
	got := make(chan refusal, 4)
	r := newRig(t, HTTP, func(o *Options) {
		o.Observer = observerFunc(func(s *flow.Observation) {
			got <- refusal{s.Status, s.Reason, s.Method, strings.Clone(s.Target), s.ResponseFlags, s.Major, s.Kind, s.Allowed, s.Src.IsValid()}
		})
	})
	r.httpOrigin("a.example", status(200))
	for name, c := range map[string]struct {
		sent string
		want refusal
	}{
		"no field":         {"GET / HTTP/1.1\r\nHost: a.example\r\nnothing\r\n\r\n", refusal{400, policy.ReasonMalformed, "GET", "/", "DPE", 1, flow.Request, false, true}},
		"two lengths":      {"POST /p?q HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", refusal{400, policy.ReasonMalformed, "POST", "/p?q", "DPE", 1, flow.Request, false, true}},
		"a head too large": {"GET / HTTP/1.1\r\nHost: a.example\r\nX: " + strings.Repeat("x", 80<<10), refusal{431, policy.ReasonMalformed, "", "", "DPE", 0, flow.Request, false, true}},
	} {
		nc := r.dial()
		_, _ = io.WriteString(nc, c.sent) // it may be refused before its end
		if x := receive(t, got); x != c.want {
			t.Errorf("%s: %+v, want %+v", name, x, c.want)
		}
	}
	c := r.frames()
	for range 20 * frames.Burst {
		if err := c.WritePing(false, [8]byte{}); err != nil {
			break
		}
	}
	if x, want := receive(t, got), (refusal{0, policy.ReasonFlood, "", "", "DPE", 2, flow.Request, false, true}); x != want {
		t.Errorf("a flood: %+v, want %+v", x, want)
	}
}

type observerFunc func(*flow.Observation)

func (f observerFunc) Observe(s *flow.Observation) { f(s) }

// marks is a Tracer that adds a field.
type marks struct{ ended chan string }

func (m marks) Begin(in field.List, h *field.List, _ time.Time, _ session.Course) session.Span {
	h.Set("Traceparent", "new after "+in.Get("Traceparent"))
	return markSpan(m)
}

type markSpan marks

func (markSpan) IDs() (trace, span string) { return "t", "s" }
func (m markSpan) End(s *flow.Observation) { m.ended <- fmt.Sprint(s.Status, s.TraceID) }

// TestTraced: a request goes on with what its span says, once however often it is
// tried, and the span ends with it.
func TestTraced(t *testing.T) {
	m := marks{make(chan string, 1)}
	r := newRig(t, HTTP, func(o *Options) { o.Tracer = m })
	r.origin("a.example", func(nc *net.TCPConn) {
		req, err := http.ReadRequest(bufio.NewReader(nc))
		if err != nil {
			return
		}
		text := req.Header.Get("Traceparent")
		fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	})
	nc := r.dial()
	fmt.Fprint(nc, "GET / HTTP/1.1\r\nHost: a.example\r\nTraceparent: old\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "new after old" {
		t.Errorf("%q, %v", body, err)
	}
	if got := <-m.ended; got != "200t" {
		t.Errorf("ended with %s", got)
	}
}
