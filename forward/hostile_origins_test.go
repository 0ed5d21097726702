// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/egressd/egressd/policy"
)

// hostileHTTP2 is what an origin of HTTP/2 does when it has the head of a request. It
// is called again and again as long as it returns nil, and the connection is open.
var hostileHTTP2 = map[string]struct {
	do     func(f *http2.Framer, stream uint32, turn int) error
	reason policy.Reason
	limits rigOption // of time, that end it
	whole  bool      // a client of HTTP/1 has all that was promised, and no more
}{
	"PING flood":          {do: func(f *http2.Framer, _ uint32, _ int) error { return f.WritePing(false, [8]byte{}) }, reason: policy.ReasonUpstreamProtocol},
	"PING answers flood":  {do: func(f *http2.Framer, _ uint32, _ int) error { return f.WritePing(true, [8]byte{}) }, reason: policy.ReasonUpstreamProtocol},
	"SETTINGS flood":      {do: func(f *http2.Framer, _ uint32, _ int) error { return f.WriteSettings() }, reason: policy.ReasonUpstreamProtocol},
	"WINDOW_UPDATE flood": {do: func(f *http2.Framer, _ uint32, _ int) error { return f.WriteWindowUpdate(0, 1) }, reason: policy.ReasonUpstreamProtocol},
	"PRIORITY flood": {do: func(f *http2.Framer, s uint32, _ int) error {
		return f.WritePriority(s, http2.PriorityParam{StreamDep: s + 2})
	}, reason: policy.ReasonUpstreamProtocol},
	"unknown frames": {do: func(f *http2.Framer, _ uint32, _ int) error { return f.WriteRawFrame(0x77, 0, 0, nil) }, reason: policy.ReasonUpstreamProtocol},
	"RST flood": {do: func(f *http2.Framer, s uint32, turn int) error {
		if turn == 0 {
			return nil // of streams that there are not
		}
		return f.WriteRSTStream(s+2, http2.ErrCodeCancel)
	}, reason: policy.ReasonUpstreamProtocol},
	"GOAWAY loop": {do: func(f *http2.Framer, s uint32, _ int) error { return f.WriteGoAway(s, http2.ErrCodeNo, nil) }, reason: policy.ReasonUpstreamProtocol},
	"CONTINUATION flood": {do: func(f *http2.Framer, s uint32, turn int) error {
		if turn == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200")})
		}
		return f.WriteContinuation(s, false, h2block("a", strings.Repeat("b", 8000)))
	}, reason: policy.ReasonUpstreamProtocol},
	"empty CONTINUATION flood": {do: func(f *http2.Framer, s uint32, turn int) error {
		if turn == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200")})
		}
		return f.WriteContinuation(s, false, nil)
	}, reason: policy.ReasonUpstreamProtocol},
	"HPACK bomb": {do: func(f *http2.Framer, s uint32, turn int) error {
		if turn > 0 {
			return nil
		}
		// One field of 4000 bytes in the table, and 10000 references to it.
		block := h2block(":status", "200")
		block = append(block, 0x40, 1, 'a', 0x7f, 0xa1, 0x1e)
		block = append(block, make([]byte, 4000)...)
		for range 10000 {
			block = append(block, 0xbe)
		}
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: block, EndHeaders: true})
	}, reason: policy.ReasonUpstreamProtocol},
	"1xx without end": {do: func(f *http2.Framer, s uint32, _ int) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "103", "link", "</a>"), EndHeaders: true})
	}, reason: policy.ReasonUpstreamProtocol},
	"1xx that drips": {do: func(f *http2.Framer, s uint32, _ int) error {
		drip(func() error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "102"), EndHeaders: true})
		})
		return io.EOF
	}, limits: quick, reason: policy.ReasonStreamIdle},
	"101": {do: func(f *http2.Framer, s uint32, turn int) error {
		if turn > 0 {
			return io.EOF
		}
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "101", "upgrade", "x", "connection", "upgrade"), EndHeaders: true})
	}, reason: policy.ReasonUpstreamProtocol},
	"empty DATA": {do: func(f *http2.Framer, s uint32, turn int) error {
		if turn == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200"), EndHeaders: true})
		}
		return f.WriteData(s, false, nil)
	}, reason: policy.ReasonUpstreamProtocol},
	"trailers without end": {do: func(f *http2.Framer, s uint32, turn int) error {
		switch turn {
		case 0:
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200"), EndHeaders: true})
		case 1:
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block("a", "b"), EndStream: true})
		}
		return f.WriteContinuation(s, false, h2block("a", strings.Repeat("b", 8000)))
	}, reason: policy.ReasonUpstreamProtocol},
	"PUSH_PROMISE": {do: func(f *http2.Framer, s uint32, _ int) error {
		return f.WritePushPromise(http2.PushPromiseParam{StreamID: s, PromiseID: 2, BlockFragment: h2block(":path", "/"), EndHeaders: true})
	}, reason: policy.ReasonUpstreamProtocol},
	"an answer on an even stream": {do: func(f *http2.Framer, _ uint32, _ int) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2, BlockFragment: h2block(":status", "200"), EndHeaders: true})
	}, reason: policy.ReasonUpstreamProtocol},
	"DATA of a stream that was not asked for": {do: func(f *http2.Framer, s uint32, _ int) error { return f.WriteData(s+20, false, []byte("x")) }, reason: policy.ReasonUpstreamProtocol},
	"DATA before the head":                    {do: func(f *http2.Framer, s uint32, _ int) error { return f.WriteData(s, false, []byte("x")) }, reason: policy.ReasonUpstreamProtocol},
	"a window that overflows":                 {do: func(f *http2.Framer, _ uint32, _ int) error { return f.WriteWindowUpdate(0, 1<<31-1) }, reason: policy.ReasonUpstreamProtocol},
	"a window of nothing more":                {do: func(f *http2.Framer, _ uint32, _ int) error { return f.WriteWindowUpdate(0, 0) }, reason: policy.ReasonUpstreamProtocol},
	"an initial window that is none": {do: func(f *http2.Framer, _ uint32, _ int) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
	}, reason: policy.ReasonUpstreamProtocol},
	"more than the window": {do: func(f *http2.Framer, s uint32, turn int) error {
		if turn == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200"), EndHeaders: true})
		}
		return f.WriteData(s, false, make([]byte, 16<<10))
	}, reason: policy.ReasonUpstreamProtocol},
	"more than its Content-Length": {do: func(f *http2.Framer, s uint32, turn int) error {
		if turn == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200", "content-length", "1"), EndHeaders: true})
		}
		return f.WriteData(s, false, []byte("xx"))
	}, reason: policy.ReasonUpstreamProtocol, whole: true},
	"two statuses": {do: func(f *http2.Framer, s uint32, _ int) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200", ":status", "201"), EndHeaders: true})
	}, reason: policy.ReasonUpstreamProtocol},
	"a field with a line end": {do: func(f *http2.Framer, s uint32, _ int) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200", "a", "b\r\nc: d"), EndHeaders: true})
	}, reason: policy.ReasonUpstreamProtocol},
	"HTTP/1": {do: func(f *http2.Framer, _ uint32, _ int) error {
		return f.WriteRawFrame('H', 'T', 0x54502f31, []byte("HTTP/1.1 200 OK\r\n\r\n"))
	}, reason: policy.ReasonUpstreamProtocol},
	"DATA that drips": {do: afterHead(func(f *http2.Framer, s uint32) error { return f.WriteData(s, false, []byte("x")) }), limits: soon, reason: policy.ReasonStreamDuration},
	"padding that drips": {do: afterHead(func(f *http2.Framer, s uint32) error {
		return f.WriteDataPadded(s, false, nil, make([]byte, 10))
	}), limits: quick, reason: policy.ReasonStreamIdle},
	"trailers that drip": {do: afterHead(func(f *http2.Framer, s uint32) error {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block("a", "b"), EndStream: true})
		drip(func() error { return f.WriteContinuation(s, false, h2block("a", "b")) })
		return io.EOF
	}), limits: quick, reason: policy.ReasonStreamIdle},
	"a head that drips": {do: func(f *http2.Framer, s uint32, _ int) error {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200")})
		drip(func() error { return f.WriteContinuation(s, false, h2block("a", "b")) })
		return io.EOF
	}, limits: quick, reason: policy.ReasonStreamIdle},
	"silence": {do: func(*http2.Framer, uint32, int) error { return io.EOF }, reason: policy.ReasonStreamIdle, limits: quick},
	"silence behind the head": {do: func(f *http2.Framer, s uint32, turn int) error {
		if turn > 0 {
			return io.EOF
		}
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200"), EndHeaders: true})
	}, reason: policy.ReasonStreamIdle, limits: quick},
}

// afterHead sends the head of an answer, and then again and again something else, with
// pauses.
func afterHead(send func(f *http2.Framer, stream uint32) error) func(*http2.Framer, uint32, int) error {
	return func(f *http2.Framer, s uint32, _ int) error {
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200"), EndHeaders: true}); err != nil {
			return err
		}
		drip(func() error { return send(f, s) })
		return io.EOF
	}
}

// serveHostile has an origin of HTTP/2 do its worst to a request, and returns how much
// it could send, in bytes.
func serveHostile(nc *net.TCPConn, do func(f *http2.Framer, stream uint32, turn int) error) int64 {
	if _, err := io.ReadFull(nc, make([]byte, len(http2.ClientPreface))); err != nil {
		return 0
	}
	w := &counting{Writer: nc}
	f := http2.NewFramer(w, nc)
	f.AllowIllegalWrites = true
	_ = f.WriteSettings()
	var stream uint32
	for stream == 0 {
		frame, err := f.ReadFrame()
		if err != nil {
			return 0
		}
		if h, ok := frame.(*http2.HeadersFrame); ok {
			stream = h.StreamID
		}
	}
	ended := make(chan struct{})
	go func() { // takes what it is told
		defer close(ended)
		_, _ = io.Copy(io.Discard, nc)
	}()
	for turn := 0; w.n < 2*mostSent; turn++ {
		if do(f, stream, turn) != nil {
			break
		}
		if turn > 1<<20 {
			break // it says nothing more
		}
	}
	<-ended
	return w.n
}

// TestHostileHTTP2Origins: an origin that is allowed and means harm; see hostileOrigin.
func TestHostileHTTP2Origins(t *testing.T) {
	origins := map[string]hostileOrigin{}
	for name, tt := range hostileHTTP2 {
		origins[name] = hostileOrigin{
			http2: true, limits: tt.limits, reason: tt.reason, whole: tt.whole,
			serve: func(nc *net.TCPConn) int64 { return serveHostile(nc, tt.do) },
		}
	}
	tryOrigins(t, origins)
}

// TestBusyOrigins: an origin that says with each answer all that it may, is never
// taken for a flood, however long it goes on.
func TestBusyOrigins(t *testing.T) {
	t.Parallel()
	r := newRig(t, HTTP)
	r.http2Only()
	r.origin("a.example", func(nc *net.TCPConn) {
		_ = nc.SetDeadline(time.Time{})
		serveFrames(nc, func(f *http2.Framer, s uint32, body string) bool {
			_ = f.WritePing(false, [8]byte{})
			_ = f.WriteSettings()
			_ = f.WriteWindowUpdate(0, uint32(len(body)))
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "103"), EndHeaders: true})
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200"), EndHeaders: true})
			_ = f.WriteData(s, false, []byte(body))
			_ = f.WriteData(s, false, nil)
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block("a", "b"), EndHeaders: true, EndStream: true})
			return true
		})
	})
	c := r.client(true)
	for i := range 500 {
		resp, err := c.Post("http://a.example/", "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || string(body) != "body" {
			t.Fatalf("after %d: %d %q, %v", i, resp.StatusCode, body, err)
		}
	}
	if n := r.dialCount("a.example"); n != 1 {
		t.Errorf("%d connections", n)
	}
}
