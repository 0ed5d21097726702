// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

const short = 100 * time.Millisecond

func stalls(o *Options) { o.StallTimeout = short }

func idles(o *Options) { o.IdleTimeout, o.StallTimeout = short, short }

// TestStalledBody: a client that does not send what it began to gets 408, and
// the connection ends.
func TestStalledBody(t *testing.T) {
	for _, body := range []string{"Content-Length: 10\r\n\r\nabc", "Content-Length: 10\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nff\r\nabc"} {
		r := newRig(t, HTTP, stalls)
		r.accepts("a.example")
		if got := r.answers(post + body); len(got) != 1 || got[0] != 408 {
			t.Errorf("%q: answers %v, want 408 and the end", body, got)
		}
		if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonStreamIdle || e.Status != 408 {
			t.Errorf("event %+v", e)
		}
	}
}

// TestBodyNotTaken: an origin that does not take a request's body is at fault, and not
// the client that would send it, in any pair of versions: 504, where TestStalledBody has
// 408.
func TestBodyNotTaken(t *testing.T) {
	for _, up := range []bool{false, true} {
		for _, down := range []bool{false, true} {
			r := newRig(t, HTTP, stalls)
			if up {
				r.http2Only()
			}
			r.origin("a.example", func(nc *net.TCPConn) {
				if up {
					shutWindow(nc)
				}
				<-t.Context().Done()
			})
			c := r.client(down)
			go func() {
				resp, err := c.Post("http://a.example/", "x/y", io.LimitReader(endless("x"), 1<<30))
				if err == nil {
					resp.Body.Close()
				}
			}()
			e := r.sink.wait(t, flow.Request, 1)
			if e.Reason != policy.ReasonStreamIdle || e.Status != 504 || !strings.Contains(e.Detail, "did not take") || e.ResponseFlags != flow.FlagStreamIdle {
				t.Errorf("HTTP/2 upstream %v, downstream %v: event %+v", up, down, e)
			}
		}
	}
}

// shutWindow is an origin of HTTP/2 that takes heads and no bodies.
func shutWindow(nc net.Conn) {
	f := http2.NewFramer(nc, nc)
	_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	_, _ = io.Copy(io.Discard, nc)
}

// TestShutWindow: a client that never opens its window has its stream for the stall
// timeout and no longer, also when all of the answer is here; then there is room for
// another one, which is answered as soon as the window is open.
func TestShutWindow(t *testing.T) {
	r := newRig(t, HTTP, stalls)
	r.httpOrigin("a.example", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	c := r.frames()
	_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	_ = c.open(true)
	reset := func(f http2.Frame) bool {
		rst, ok := f.(*http2.RSTStreamFrame)
		return ok && rst.StreamID == 1
	}
	if s := c.read(reset); s.err != nil {
		t.Fatalf("%+v, want a reset of the stream", s)
	}
	connection := r.core.o.Limits.Memory.Use().Used
	_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16})
	_ = c.open(true)
	whole := func(f http2.Frame) bool {
		d, ok := f.(*http2.DataFrame)
		return ok && d.StreamID == 3 && d.StreamEnded()
	}
	if s := c.read(whole); s.err != nil {
		t.Errorf("the next stream: %+v", s)
	}
	r.sink.wait(t, flow.Request, 2)
	if now := r.core.o.Limits.Memory.Use().Used; now > connection {
		t.Errorf("%d bytes are held, and %d were", now, connection)
	}
}

// TestSilentOrigin: the idle timeout bounds it.
func TestSilentOrigin(t *testing.T) {
	r := newRig(t, HTTP, idles)
	r.accepts("a.example")
	nc := r.dial()
	write(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 504 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestStalledAnswer: an origin that stops within its answer.
func TestStalledAnswer(t *testing.T) {
	r := newRig(t, HTTP, idles)
	done := make(chan struct{})
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "some")
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
		close(done)
	})
	resp, err := r.client(false).Get("http://a.example/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the answer ended in good order")
	}
	resp.Body.Close()
	receive(t, done)
	if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonStreamIdle {
		t.Errorf("event %+v", e)
	}
}

// TestClientDoesNotRead: an answer that nobody takes ends, in its middle and at
// its end, in both versions of HTTP.
func TestClientDoesNotRead(t *testing.T) {
	big := func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 1<<20)
		for range 64 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	t.Run("HTTP/1", func(t *testing.T) {
		r := newRig(t, HTTP, stalls)
		r.httpOrigin("a.example", big)
		nc := r.dial()
		write(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
		if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonStreamIdle {
			t.Errorf("event %+v", e)
		}
		r.sink.wait(t, flow.Close, 1)
	})
	t.Run("HTTP/1, many small answers", func(t *testing.T) {
		r := newRig(t, HTTP, stalls)
		r.rule(&policy.HTTPAction{Rule: &policy.HTTPRule{DirectResponse: &policy.DirectResponse{Status: 200, Body: make([]byte, 1000)}}})
		nc := r.dial()
		go func() { _, _ = io.Copy(nc, endless("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")) }()
		r.sink.wait(t, flow.Close, 1)
	})
	t.Run("HTTP/2, shut windows", func(t *testing.T) {
		r := newRig(t, HTTP, stalls)
		r.httpOrigin("a.example", big)
		nc := r.dial()
		_, _ = io.WriteString(nc, http2.ClientPreface)
		f := http2.NewFramer(nc, nc)
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a.example"}, {":path", "/"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonStreamIdle {
			t.Errorf("event %+v", e)
		}
	})
}

// endless repeats a text.
type endless string

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n+len(e) <= len(p) {
		n += copy(p[n:], e)
	}
	return n, nil
}

// TestQuietStreamsLive: what may be silent is not ended by the stall timeout:
// events between which nothing happens, an answer that takes long, and streams
// of gRPC before their answer has begun.
func TestQuietStreamsLive(t *testing.T) {
	const quiet = 5 * short
	t.Run("events", func(t *testing.T) {
		r := newRig(t, HTTP, stalls)
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			for range 2 {
				<-time.After(quiet)
				_, _ = io.WriteString(w, "data: x\n\n")
				_ = http.NewResponseController(w).Flush()
			}
		})
		resp, body := get(t, r.client(false), "http://a.example/")
		if resp.StatusCode != 200 || strings.Count(body, "data") != 2 {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
	})
	t.Run("gRPC", func(t *testing.T) {
		r := newRig(t, HTTP, stalls)
		r.http = func(req *policy.Request) policy.HTTPDecision {
			u := upstreamOf(req.Host)
			u.Protocol = policy.ProtocolGRPC
			return policy.HTTPDecision{Decision: allowed, Upstream: u}
		}
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			w.WriteHeader(204)
		})
		body, send := net.Pipe()
		req, err := http.NewRequest("POST", "http://a.example/s/m", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		time.AfterFunc(quiet, func() { send.Close() })
		resp, err := r.client(true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 204 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
}
