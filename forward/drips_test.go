// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// dripping is what a client sends: begin, and then a byte or a line of drips at a time.
type dripping struct {
	begin, drips string
	limits       rigOption
	reason       policy.Reason
	status       int // of its answer
}

// TestDripsHTTP1: a client that sends something every now and then is not idle, and
// yet is ended by a limit that has a name, and a reason that is counted.
func TestDripsHTTP1(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: a.example\r\n"
	for name, tt := range map[string]dripping{
		"a request line":    {"GET /", "a", quick, policy.ReasonPeekTimeout, 408},
		"a field":           {"GET / HTTP/1.1\r\nHost: a.example\r\nA: ", "a", quick, policy.ReasonPeekTimeout, 408},
		"fields":            {"GET / HTTP/1.1\r\nHost: a.example\r\n", "a:\r\n", quick, policy.ReasonPeekTimeout, 408},
		"a size of a chunk": {post + "Transfer-Encoding: chunked\r\n\r\n", "0", quick, policy.ReasonStreamIdle, 408},
		"an extension":      {post + "Transfer-Encoding: chunked\r\n\r\n1;", "a", quick, policy.ReasonStreamIdle, 408},
		"a trailer":         {post + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: ", "a", quick, policy.ReasonStreamIdle, 408},
		"a body":            {post + "Content-Length: 1000000\r\n\r\n", "x", soon, policy.ReasonStreamDuration, 408},
		"chunks":            {post + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", soon, policy.ReasonStreamDuration, 408},
		"an upgrade":        {"GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "x", soon, policy.ReasonStreamDuration, 101},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, HTTP, tt.limits)
			r.httpOrigin("a.example", takesAll)
			nc := r.dial()
			write(t, nc, tt.begin)
			go drip(func() error {
				_, err := io.WriteString(nc, tt.drips)
				return err
			})
			answer, _ := io.ReadAll(nc) // to the end, or the reset behind it
			if !strings.HasPrefix(string(answer), fmt.Sprint("HTTP/1.1 ", tt.status, " ")) {
				t.Errorf("the client got %q", answer)
			}
			if e := r.sink.wait(t, flow.Request, 1); e.Reason != tt.reason || e.Detail == "" || e.Status != tt.status {
				t.Errorf("event %+v", e)
			}
			r.sink.wait(t, flow.Close, 1)
		})
	}
}

// takesAll reads requests to their end, and upgrades to what is asked for.
func takesAll(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path != "/ws" {
		_, _ = io.Copy(io.Discard, req.Body)
		return
	}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	_, _ = io.Copy(io.Discard, rw)
}

// TestDripsBetweenRequests: a connection is not kept open by what is no request.
func TestDripsBetweenRequests(t *testing.T) {
	for name, drips := range map[string]string{"empty lines": "\r\n", "a request line": "G"} {
		r := newRig(t, HTTP, quick)
		r.httpOrigin("a.example", takesAll)
		nc := r.dial()
		write(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
		if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonAllowed || e.Status != 200 {
			t.Fatalf("%s: event %+v", name, e)
		}
		go drip(func() error {
			_, err := io.WriteString(nc, drips)
			return err
		})
		e := r.sink.wait(t, flow.Close, 1)
		if want := map[bool]policy.Reason{true: policy.ReasonAllowed, false: policy.ReasonPeekTimeout}[drips == "\r\n"]; e.Reason != want {
			t.Errorf("%s: event %+v", name, e)
		}
	}
}

// TestDripsHTTP2: the same for HTTP/2.
func TestDripsHTTP2(t *testing.T) {
	open := func(c *framesClient) uint32 { // of a POST
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h2block(":method", "POST", ":scheme", "http", ":authority", "a.example", ":path", "/"), EndHeaders: true})
		return 1
	}
	for name, tt := range map[string]struct {
		drip   func(c *framesClient)
		limits rigOption
		kind   flow.Moment
		reason policy.Reason
	}{
		"a header": {func(c *framesClient) {
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block})
			drip(func() error { return c.WriteContinuation(1, false, h2block("a", "b")) })
		}, quick, flow.Close, policy.ReasonPeekTimeout},
		"a frame of a header": {func(c *framesClient) {
			_, _ = c.nc.Write([]byte{0, 0x10, 0, 1, 4, 0, 0, 0, 1})
			drip(func() error { _, err := c.nc.Write([]byte{0}); return err })
		}, quick, flow.Close, policy.ReasonPeekTimeout},
		"a header of a frame": {func(c *framesClient) {
			_, _ = c.nc.Write([]byte{0, 0x10})
			_, _ = io.Copy(io.Discard, c.nc)
		}, quick, flow.Close, policy.ReasonPeekTimeout},
		"trailers": {func(c *framesClient) {
			s := open(c)
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block("a", "b"), EndStream: true})
			drip(func() error { return c.WriteContinuation(s, false, h2block("a", "b")) })
		}, func(o *Options) { quick(o); o.StallTimeout = patience }, flow.Close, policy.ReasonPeekTimeout},
		"DATA": {func(c *framesClient) {
			s := open(c)
			drip(func() error { return c.WriteData(s, false, []byte("x")) })
		}, soon, flow.Request, policy.ReasonStreamDuration},
		"padding": {func(c *framesClient) {
			s := open(c)
			drip(func() error { return c.WriteDataPadded(s, false, nil, make([]byte, 10)) })
		}, quick, flow.Request, policy.ReasonStreamIdle},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, HTTP, tt.limits)
			r.httpOrigin("a.example", takesAll)
			c := r.frames()
			done := make(chan struct{})
			go func() { defer close(done); tt.drip(c) }()
			if e := r.sink.wait(t, tt.kind, 1); e.Reason != tt.reason || e.Detail == "" {
				t.Errorf("event %+v", e)
			}
			c.nc.Close()
			<-done
		})
	}
}

// TestSlowIsNoDrip: the twin. What comes as slowly, and whole in time, passes.
func TestSlowIsNoDrip(t *testing.T) {
	whole := strings.NewReader("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n0\r\nA: b\r\n\r\n")
	r := newRig(t, HTTP, func(o *Options) { o.MaxStreamDuration = patience })
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		n := 0
		drip(func() error {
			if n == len(body) {
				return io.EOF
			}
			_, err := w.Write(body[n : n+1])
			n++
			_ = http.NewResponseController(w).Flush()
			return err
		})
	})
	nc := r.dial()
	drip(func() error {
		_, err := io.CopyN(nc, whole, 1)
		return err
	})
	if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonAllowed || e.Status != 200 || e.BytesSent != 3 || e.BytesReceived != 3 {
		t.Errorf("event %+v", e)
	}
}
