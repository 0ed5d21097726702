// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// upstreamSeen is what is known of an exchange's upstream.
type upstreamSeen struct {
	peer     netip.AddrPort
	received atomic.Int64 // body bytes; both ends of a tunnel tell
}

// forward sends the request to u and its response back. dest is the route's
// destination, nil without a route.
func (x *exchange) forward(u *policy.Upstream, dest *policy.RouteDestination) {
	if u == nil {
		x.reason, x.detail = policy.ReasonUpstream, "no upstream"
		x.reply(http.StatusServiceUnavailable, "egressd: no upstream for "+x.req.Host)
		return
	}
	u = u.WithName(x.req.Host)
	out, err := x.outgoing(u, dest)
	if err == nil && u.Transport() != "" {
		u = u.For(hostOf(out.Authority))
	}
	if err != nil {
		x.reason, x.detail = policy.ReasonUpstream, err.Error()
		x.reply(http.StatusInternalServerError, "egressd: rewrite failed")
		return
	}
	x.goesTo(u, out)
	x.pickMirrors(dest)
	if x.body == nil {
		x.startTimer()
	}
	resp, err := x.roundTrip(u, out)
	if err != nil {
		x.fail(err)
		return
	}
	defer resp.Done()
	x.answers()
	if resp.StatusCode < 100 || resp.StatusCode > 999 {
		x.reason, x.detail = policy.ReasonUpstreamProtocol, fmt.Sprintf("the upstream answered with status %d", resp.StatusCode)
		x.reply(http.StatusBadGateway, "egressd: "+x.req.Host+": the upstream answered with a bad status")
		return
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.upgrade(resp, dest)
		return
	}
	x.respond(resp, dest)
}

// received is called when the request's body was read to its end.
func (x *exchange) received() {
	x.body.Trailer = x.r.Trailer()
	x.startTimer()
	x.sendCopies()
}

// startTimer starts the route's timeout: it counts from the moment the
// request was received completely (Envoy's route timeout).
func (x *exchange) startTimer() {
	timeout := x.decision.Timeout()
	if timeout <= 0 {
		return
	}
	x.timerMu.Lock()
	defer x.timerMu.Unlock()
	if x.timer == nil && !x.ended {
		life, serial := x.life, x.life.now()
		x.timer = time.AfterFunc(timeout, func() { life.endIf(serial, errRouteTimeout) })
	}
}

func (x *exchange) stopTimer() {
	if x.body == nil && x.timer == nil {
		return // nobody else starts one
	}
	x.timerMu.Lock()
	defer x.timerMu.Unlock()
	x.ended = true
	if x.timer != nil {
		x.timer.Stop()
	}
}

// outgoing builds the request without its body. What the rule doesn't change
// goes as it came: no field is added that would name us.
func (x *exchange) outgoing(u *policy.Upstream, dest *policy.RouteDestination) (*message.Outgoing, error) {
	r := x.r
	seen := x.decision.Request(&x.req)
	path, authority := seen.Path, seen.Authority
	out := &x.scratch.out
	*out = message.Outgoing{Method: r.Method, Header: append(out.Header[:0], seen.Header...), Length: r.ContentLength}
	if out.Length < 0 {
		out.Length = http1.Chunked
	}
	if i := strings.IndexByte(x.target, '?'); i >= 0 {
		out.Query = x.target[i:]
	}
	if out.Length == http1.Chunked || x.h1 == nil {
		out.Trailer = message.GoingOn(message.Announced(r.Header))
	}
	http2 := x.wantsHTTP2(u)
	x.nextHop(&out.Header, x.own(u) && !http2, x.passesClose(u), http2)
	x.forwarded(&out.Header)
	if a := x.decision.Action; a != nil {
		path = a.RewritePath(path)
		if rw := a.Rule.Rewrite; rw != nil && rw.Authority != "" {
			authority = rw.Authority
		}
		if dest != nil && dest.Headers != nil {
			authority = or(dest.Headers.Request.Apply(&out.Header), authority)
		}
		if a.Rule.Headers != nil {
			authority = or(a.Rule.Headers.Request.Apply(&out.Header), authority)
		}
	}
	if a := x.decision.Action; a != nil {
		withhold(out, a.Rule.Credentials)
	}
	if err := message.CheckPath(path); err != nil {
		return nil, err // by a rule's rewrite
	}
	out.Path, out.Authority = path, authority
	if !http2 {
		x.frame(out)
	}
	return out, nil
}

// frame says in the header of a request of HTTP/1 whom it is for and where its body
// ends.
func (x *exchange) frame(out *message.Outgoing) {
	h := &out.Header
	if h.Has("Host") {
		h.Set("Host", out.Authority)
	} else {
		*h = slices.Insert(*h, 0, field.Entry{Name: "Host", Value: out.Authority})
	}
	if out.Length == http1.Chunked {
		h.Del("Content-Length")
		h.Set("Transfer-Encoding", "chunked")
		if len(out.Trailer) == 0 {
			h.Del("Trailer")
		} else if h.Index("Trailer", 0) < 0 || len(out.Trailer) != len(message.Announced(*h)) {
			h.Set("Trailer", strings.Join(out.Trailer, ", "))
		}
		return
	}
	h.Del("Transfer-Encoding")
	h.Del("Trailer")
	if out.Length > 0 || h.Has("Content-Length") || x.h1 == nil && (out.Method == http.MethodPost || out.Method == http.MethodPut || out.Method == http.MethodPatch) {
		message.SetLength(h, out.Length)
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// respond passes the response on.
func (x *exchange) respond(resp *message.Response, dest *policy.RouteDestination) {
	h := x.w.Header()
	x.persist(resp)
	*h = append(slices.Grow((*h)[:0], len(resp.Header)+1), resp.Header...) // and a Connection
	if len(resp.Announced) > 0 && x.h1 != nil && resp.Length >= 0 && bodyAllowed(resp.StatusCode) {
		resp.Length = http1.Chunked // HTTP/1.1 has trailers in chunked bodies only
	}
	if len(resp.Announced) > 0 && x.h1 != nil && !h.Has("Trailer") {
		h.Set("Trailer", strings.Join(resp.Announced, ", "))
	}
	x.setCookie(h)
	x.applyResponseHeaders(dest)
	x.w.Passes(resp)
	x.writeStatus(resp.StatusCode)
	if err := x.copyBody(resp); err != nil {
		if x.h1 != nil && resp.Length < 0 {
			relay.Reset(x.conn.NC) // an orderly end would be the end of a whole body to some clients
		}
		if cause := x.life.why(); cause != nil || errors.Is(err, errDownstream) {
			x.aborted(cause)
		}
		x.reason, x.detail = upstream.ClosedReason(err), "response body: "+err.Error()
		panic(http.ErrAbortHandler)
	}
	if x.body != nil && !x.body.Complete() {
		// The client learns that the answer is complete when nothing more of its
		// request goes on. net/http's HTTP/2 ends an answer when whoever sends the
		// request has ended, who may wait for a client that waits for this end.
		x.stopSenders()
	}
	if t := message.GoingBack(resp.Trailer()); len(t) > 0 {
		x.w.Trailer(t)
	}
}

// persist removes from an answer what is for its own hop, but for what says how
// long a connection lives that is the client's own on both sides.
func (x *exchange) persist(resp *message.Response) {
	h := &resp.Header
	own := x.up.ownHTTP1() && x.r.ProtoMajor == 1
	var o message.ConnectionOptions
	if own {
		o.KeepAlive = resp.KeepAlive
		o.Close = resp.Close && x.r.ProtoAtLeast(1, 1)
	}
	if resp.ProtoMajor == 1 && resp.Length == http1.Chunked {
		resp.Announced = message.Announced(*h)
	}
	coding := x.r.ProtoAtLeast(1, 1) && x.r.ProtoMajor == 1 && h.Has("Transfer-Encoding")
	o.Apply(h, own, coding)
}

// errDownstream: the client can't be written to.
var errDownstream = errors.New("the client went away")

// copyBody streams the body: whatever is there is written and flushed before
// more is waited for.
func (x *exchange) copyBody(resp *message.Response) error {
	if x.h1 != nil {
		return x.h1.answer.passFrom(x, resp)
	}
	if resp.Length < 0 {
		x.flush() // the header may be long before the first byte
	}
	buf := x.core.buffers.Get()
	defer x.core.buffers.Put(buf)
	for {
		n, err := resp.Body.Read(*buf)
		x.upstream.received.Add(int64(n))
		if n > 0 {
			x.stall.moved()
			x.stall.writing.Store(true)
			if _, err := x.w.Write((*buf)[:n]); err != nil {
				return errDownstream
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		x.flush()
		x.stall.writing.Store(false)
		x.stall.moved()
	}
}

func (x *exchange) flush() { x.w.Flush() }
