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
