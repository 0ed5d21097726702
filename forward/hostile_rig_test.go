// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// mostSent is how much a hostile origin gets rid of, in bytes, before it is ended: what
// the kernel's buffers hold is in it.
const mostSent = 32 << 20

// hostileOrigin is an origin that is allowed and means harm, and what comes of it.
type hostileOrigin struct {
	http2 bool
	// serve does its worst on a connection, until that is ended, and returns how much
	// it could send, in bytes.
	serve  func(nc *net.TCPConn) int64
	limits rigOption // that end it; nil: time has no part in it
	reason policy.Reason
	status int  // of the client's answer; 0: the client has none that is whole
	unread bool // the client takes nothing but the head
	whole  bool // what was promised is whole, and there is more
}

// test asks it once. Its client gets an answer or an end, with a reason that is
// counted; the connection to it ends before much has come; other origins' clients are
// not concerned. What is left is seen by TestMain: goroutines, and descriptors.
func (h hostileOrigin) test(t *testing.T, down bool) {
	t.Parallel()
	var options []rigOption
	if h.limits != nil {
		options = append(options, h.limits)
	}
	r := newRig(t, HTTP, options...)
	r.http = func(req *policy.Request) policy.HTTPDecision {
		u := upstreamOf(req.Host)
		if h.http2 && req.Host == "a.example" {
			u.Protocol = policy.ProtocolHTTP2
		}
		return policy.HTTPDecision{Decision: allowed, Upstream: u}
	}
	gone := make(chan int64, 8)
	r.origin("a.example", func(nc *net.TCPConn) { gone <- h.serve(nc) })
	r.httpOrigin("b.example", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hi") })
	c := r.client(down)
	resp, err := c.Get("http://a.example/")
	status := 0
	if err == nil {
		status = resp.StatusCode
		if !h.unread {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		resp.Body.Close()
	}
	if !h.expected(status, err, down) {
		t.Errorf("the client got %d, %v", status, err)
	}
	if e := r.sink.wait(t, flow.Request, 1); e.Reason != h.reason || e.ResponseFlags == "" || e.Detail == "" {
		t.Errorf("event %+v", e)
	}
	if resp, body := get(t, c, "http://b.example/"); resp.StatusCode != 200 || body != "hi" {
		t.Errorf("another origin: %d %q", resp.StatusCode, body)
	}
	c.CloseIdleConnections()
	if n := receive(t, gone); n > mostSent {
		t.Errorf("it got rid of %d bytes", n)
	}
}

// expected says whether the client has what it is to have.
func (h hostileOrigin) expected(status int, err error, down bool) bool {
	switch {
	case h.unread:
		return true
	case h.status != 0:
		return err == nil && status == h.status
	case h.whole && !down:
		return true
	case h.http2 && status >= 500:
		return true // net/http has seen it before anything was passed on
	}
	return err != nil
}

// tryOrigins tries hostile origins with clients of both versions.
func tryOrigins(t *testing.T, origins map[string]hostileOrigin) {
	for name, h := range origins {
		for _, down := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", HTTP/2 ", down), func(t *testing.T) { h.test(t, down) })
		}
	}
}

// quick are the limits of what stands still, soon those of what goes on for ever.
func quick(o *Options) {
	o.IdleTimeout, o.StallTimeout, o.PeekTimeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
}

func soon(o *Options) { o.MaxStreamDuration = 300 * time.Millisecond }

// dripEvery is the pause between two bytes of somebody who sends one at a time: far less
// than the limits that are to end it.
const dripEvery = 20 * time.Millisecond

// drip calls send again and again, until it fails.
func drip(send func() error) {
	tick := time.NewTicker(dripEvery)
	defer tick.Stop()
	for range tick.C {
		if send() != nil {
			return
		}
	}
}

// counting counts what was written.
type counting struct {
	io.Writer
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}
