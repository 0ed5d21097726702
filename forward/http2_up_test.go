// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/egressd/egressd/policy"
)

// http2Only has requests go upstream in HTTP/2.
func (r *rig) http2Only() {
	r.http = func(req *policy.Request) policy.HTTPDecision {
		u := upstreamOf(req.Host)
		u.Protocol = policy.ProtocolHTTP2
		return policy.HTTPDecision{Decision: allowed, Upstream: u}
	}
}

// TestUnprocessed: what an HTTP/2 upstream says it has not looked at is sent again,
// with its body, and nothing else is.
func TestUnprocessed(t *testing.T) {
	for name, tt := range map[string]struct {
		refuse func(f *http2.Framer, stream uint32)
		status int
	}{
		"a connection that is ended": {func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) }, 200},
		"a refused stream":           {func(f *http2.Framer, s uint32) { _ = f.WriteRSTStream(s, http2.ErrCodeRefusedStream) }, 200},
		"a stream that failed":       {func(f *http2.Framer, s uint32) { _ = f.WriteRSTStream(s, http2.ErrCodeInternal) }, 503},
	} {
		for _, down := range []bool{false, true} {
			r := newRig(t, HTTP)
			r.http2Only()
			var seen atomic.Int32
			var got sync.Map
			r.origin("a.example", func(nc *net.TCPConn) {
				serveFrames(nc, func(f *http2.Framer, stream uint32, body string) bool {
					got.Store(seen.Load(), body)
					if seen.Add(1) == 1 {
						tt.refuse(f, stream)
						return name != "a connection that is ended"
					}
					var block bytes.Buffer
					_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
					_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
					return true
				})
			})
			resp, err := r.client(down).Post("http://a.example/", "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("%s, HTTP/2 %t: status %d, want %d", name, down, resp.StatusCode, tt.status)
			}
			if body, _ := got.Load(int32(1)); tt.status == 200 && body != "body" {
				t.Errorf("%s: the second time the body is %q", name, body)
			}
		}
	}
}

// serveFrames calls answer for each request; false ends the connection.
func serveFrames(nc *net.TCPConn, answer func(f *http2.Framer, stream uint32, body string) bool) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(nc, preface); err != nil {
		return
	}
	f := http2.NewFramer(nc, nc)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = f.WriteSettings()
	bodies := map[uint32]string{}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.DataFrame:
			bodies[frame.StreamID] += string(frame.Data())
			if frame.StreamEnded() && !answer(f, frame.StreamID, bodies[frame.StreamID]) {
				return
			}
		}
	}
}

// TestFewStreams: more requests at once than an upstream takes on one connection,
// from the moment at which nothing is known of it.
func TestFewStreams(t *testing.T) {
	r := newRig(t, HTTP)
	r.http2Only()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &p, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 5}, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		time.Sleep(time.Millisecond) // requests are to overlap
		fmt.Fprint(w, string(body))
	})}
	ln := listen(t, "127.0.0.1:0")
	r.at("a.example", ln.Addr())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close(); <-done })
	c := r.client(true)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			body := fmt.Sprint(i)
			resp, err := c.Post("http://a.example/", "text/plain", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || string(got) != body {
				t.Errorf("%d: %d %q", i, resp.StatusCode, got)
			}
		})
	}
	wg.Wait()
}

// TestHTTP2Keepalive: where a DestinationRule says how often an upstream connection is
// asked whether it lives, one that is dead is left soon, and its requests with it.
func TestHTTP2Keepalive(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		pool *policy.ConnectionPool
		dead bool
	}{
		"asked":             {&policy.ConnectionPool{HTTP2Keepalive: &policy.HTTP2Keepalive{Interval: 50 * time.Millisecond, Timeout: 50 * time.Millisecond}}, true},
		"asked in a minute": {&policy.ConnectionPool{HTTP2Keepalive: &policy.HTTP2Keepalive{Interval: time.Minute, Timeout: time.Minute}}, false},
		"not asked":         {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, HTTP)
			r.http = func(req *policy.Request) policy.HTTPDecision {
				u := upstreamOf(req.Host)
				u.Protocol, u.Traffic = policy.ProtocolHTTP2, &policy.TrafficPolicy{Pool: tt.pool}
				return policy.HTTPDecision{Decision: allowed, Upstream: u}
			}
			r.origin("a.example", func(nc *net.TCPConn) {
				serveFrames(nc, func(*http2.Framer, uint32, string) bool { return true }) // says nothing, not to PINGs either
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if !tt.dead {
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://a.example/", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := r.client(false).Do(req)
			if err != nil {
				if tt.dead || !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				return
			}
			resp.Body.Close()
			if !tt.dead || resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
}

// h2block is a header, coded so that every block can stand alone.
func h2block(fields ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	enc.SetMaxDynamicTableSize(0)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}
