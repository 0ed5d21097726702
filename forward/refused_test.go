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

// TestRefusedStreams: a stream that net/http resets by itself is seen: an event says
// which, and why. The connection goes on, and so do its requests.
func TestRefusedStreams(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		spoil  func(c *framesClient)
		reason policy.Reason
		detail string
	}{
		"a field in capitals": {func(c *framesClient) {
			c.headers(":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/", "X-Big", "1")
		}, policy.ReasonMalformed, "stream 1 was reset: PROTOCOL_ERROR"},
		"no path": {func(c *framesClient) {
			c.headers(":method", "GET", ":scheme", "http", ":authority", "a.example")
		}, policy.ReasonMalformed, "stream 1 was reset: PROTOCOL_ERROR"},
		"two paths": {func(c *framesClient) {
			c.headers(":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/", ":path", "/x")
		}, policy.ReasonMalformed, "stream 1 was reset: PROTOCOL_ERROR"},
		"a window that grows by nothing": {func(c *framesClient) {
			_ = c.WriteWindowUpdate(c.open(false), 0)
		}, policy.ReasonMalformed, "stream 1 was reset: PROTOCOL_ERROR"},
		"a window without end": {func(c *framesClient) {
			id := c.open(false)
			_ = c.WriteWindowUpdate(id, 1<<31-1)
		}, policy.ReasonMalformed, "stream 1 was reset: FLOW_CONTROL_ERROR"},
		"more at once than there may be": {func(c *framesClient) {
			for range 251 {
				c.open(false)
			}
		}, "", "stream 501 was reset: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, HTTP)
			held := make(chan struct{})
			defer close(held)
			r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path == "/good" {
					_, _ = io.WriteString(w, "hi")
					return
				}
				select {
				case <-held:
				case <-req.Context().Done():
				}
			})
			c := r.frames()
			tt.spoil(c)
			if name == "more at once than there may be" { // leave room for another
				_ = c.WriteRSTStream(1, http2.ErrCodeCancel)
			}
			id := c.headers(":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/good")
			resets := 0
			s := c.read(func(f http2.Frame) bool {
				if reset, ok := f.(*http2.RSTStreamFrame); ok && reset.ErrCode != http2.ErrCodeCancel {
					resets++
				}
				d, ok := f.(*http2.DataFrame)
				return ok && d.StreamID == id
			})
			if s.err != nil || s.away != nil || resets != 1 {
				t.Fatalf("%d resets, %v, GOAWAY %v", resets, s.err, s.away)
			}
			found := false
			for i := 1; !found && i < 4; i++ {
				e := r.sink.wait(t, flow.Request, i)
				found = strings.Contains(e.Detail, tt.detail) && !e.Allowed && (tt.reason == "" || e.Reason == tt.reason)
			}
			if !found {
				t.Errorf("events %+v", r.sink.all(flow.Request))
			}
		})
	}
}

// headers opens a stream with the fields, and ends it.
func (c *framesClient) headers(fields ...string) uint32 {
	id := c.stream
	c.stream += 2
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h2block(fields...), EndHeaders: true, EndStream: true}); err != nil {
		panic(fmt.Errorf("headers: %w", err))
	}
	return id
}
