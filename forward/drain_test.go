// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestShutdownHTTP lets a request end, tells the client that the connection
// does, and closes idle connections.
func TestShutdownHTTP(t *testing.T) {
	r := newRig(t, HTTP)
	started, release := make(chan struct{}, 1), make(chan struct{})
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/slow" {
			started <- struct{}{}
			<-release
		}
		fmt.Fprint(w, "ok")
	})
	idle, busy := r.dial(), r.dial()
	write(t, idle, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	idleReader := bufio.NewReader(idle)
	resp, err := http.ReadResponse(idleReader, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	write(t, busy, "GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n")
	receive(t, started)
	done := make(chan error, 1)
	go func() { done <- r.core.Shutdown(context.Background()) }()
	if _, err := idleReader.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("idle connection: %v, want its end", err)
	}
	close(release)
	resp, err = http.ReadResponse(bufio.NewReader(busy), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "ok" || !resp.Close {
		t.Errorf("%q, %v, close %v", body, err, resp.Close)
	}
	if err := receive(t, done); err != nil {
		t.Error(err)
	}
	dialReset(t, r.addr())
}

// TestShutdownHTTP2: a client of HTTP/2 is told that its connection ends (GOAWAY), has
// the answer to what it has asked, and then the end; so is one whose first bytes come
// when egressd is about to end, and which nobody serves any more.
func TestShutdownHTTP2(t *testing.T) {
	r := newRig(t, HTTP)
	started, release := make(chan struct{}, 1), make(chan struct{})
	r.httpOrigin("a.example", func(w http.ResponseWriter, _ *http.Request) {
		started <- struct{}{}
		<-release
		fmt.Fprint(w, "ok")
	})
	busy, idle, late := r.frames(), r.frames(), r.dial()
	_ = busy.open(true)
	receive(t, started)
	// The server has taken the idle one when it has said so.
	if f, err := idle.ReadFrame(); err != nil || f.Header().Type != http2.FrameSettings {
		t.Fatalf("%v, %v", f, err)
	}
	write(t, late, http2.ClientPreface[:10])
	for end := time.Now().Add(patience); r.core.Stats().Open < 3 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	done := make(chan error, 1)
	go func() { done <- r.core.Shutdown(context.Background()) }()
	away := func(f http2.Frame) bool { return f.Header().Type == http2.FrameGoAway }
	if s := busy.read(away); s.err != nil || s.away.ErrCode != http2.ErrCodeNo {
		t.Fatalf("busy: %+v", s)
	}
	if s := idle.read(nil); s.away == nil || s.away.ErrCode != http2.ErrCodeNo || !errors.Is(s.err, io.EOF) {
		t.Errorf("idle: %+v", s)
	}
	write(t, late, http2.ClientPreface[10:])
	c := &framesClient{nc: late, Framer: http2.NewFramer(late, late)}
	_ = c.WriteSettings()
	if s := c.read(nil); s.away == nil || s.away.ErrCode != http2.ErrCodeNo || s.away.LastStreamID != 0 || !errors.Is(s.err, io.EOF) {
		t.Errorf("late: %+v", s)
	}
	late.Close()
	close(release)
	if s := busy.read(nil); s.answers != 1 || !errors.Is(s.err, io.EOF) {
		t.Errorf("busy, then: %+v", s)
	}
	busy.nc.Close()
	if err := receive(t, done); err != nil {
		t.Error(err)
	}
}

// TestShutdownDeadline closes what has not ended by then.
func TestShutdownDeadline(t *testing.T) {
	r := newRig(t, Sniff)
	r.open = func(*Conn) Admission {
		return Admission{Protocol: Sniff, Decision: allowed, Upstream: upstreamOf("opaque.example")}
	}
	conns := r.accepts("opaque.example")
	started := make(chan struct{}, 1)
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		started <- struct{}{}
		<-req.Context().Done()
	})
	opaque, request := r.dial(), r.dial()
	write(t, opaque, "\x00")
	readN(t, receive(t, conns), 1)
	write(t, request, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	receive(t, started)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.core.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	expectReset(t, opaque)
	expectReset(t, request)
	if n := r.core.Stats().Open; n != 0 {
		t.Errorf("%d connections open", n)
	}
}

func TestPolicyChangeEndsWebSocket(t *testing.T) {
	r := newRig(t, HTTP)
	ended := make(chan error, 1)
	r.origin("a.example", func(nc *net.TCPConn) {
		br := bufio.NewReader(nc)
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		_, err := io.Copy(io.Discard, br)
		ended <- err
	})
	nc := r.dial()
	write(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil {
		t.Fatal(err)
	}
	r.core.Recheck() // nothing changed: it stays
	write(t, nc, "still")
	r.change(func() {
		r.http = func(*policy.Request) policy.HTTPDecision {
			return policy.HTTPDecision{Decision: denied(policy.ReasonName, nil)}
		}
	})
	r.core.Recheck()
	expectReset(t, nc)
	receive(t, ended)
	if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonPolicyChanged || e.Allowed {
		t.Errorf("event %+v", e)
	}
}

// flaky is a listener whose first Accepts fail.
type flaky struct {
	net.Listener
	errs []error
}

func (l *flaky) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

func TestServeSurvivesPassingErrors(t *testing.T) {
	r := newRig(t, Opaque)
	conns := r.accepts("opaque.example")
	op := func(e error) error { return &net.OpError{Op: "accept", Net: "tcp", Err: e} }
	ln := &flaky{listen(t, "127.0.0.1:0"), []error{op(syscall.EMFILE), op(syscall.ENFILE), op(syscall.ECONNABORTED)}}
	served := make(chan error, 1)
	go func() { served <- r.core.Serve(context.Background(), ln, r.identify) }()
	dialTo(t, ln.Addr().String())
	receive(t, conns)
	ln.Close()
	if err := receive(t, served); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}

// TestAudit: a verdict that lets pass with a denial's reason is a would-deny.
func TestAudit(t *testing.T) {
	r := newRig(t, HTTP)
	would := policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonName}
	r.http = func(req *policy.Request) policy.HTTPDecision {
		return policy.HTTPDecision{Decision: would, Upstream: upstreamOf(req.Host)}
	}
	r.httpOrigin("evil.example", func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, "ok") })
	if resp, _ := get(t, r.client(false), "http://evil.example/"); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
	if e := r.sink.wait(t, flow.Request, 1); !e.Allowed || !e.WouldDeny || e.Reason != policy.ReasonName {
		t.Errorf("event %+v", e)
	}
}
