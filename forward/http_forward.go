// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/policy"
)

// upstreamSeen is what the transport's goroutines tell about an exchange.
type upstreamSeen struct {
	mu       sync.Mutex
	peer     netip.AddrPort
	received atomic.Int64 // body bytes
}

func (u *upstreamSeen) set(a net.Addr) {
	u.mu.Lock()
	u.peer = addrPort(a)
	u.mu.Unlock()
}

func (u *upstreamSeen) addr() netip.AddrPort {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.peer
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
	if err != nil {
		x.reason, x.detail = policy.ReasonUpstream, err.Error()
		x.reply(http.StatusInternalServerError, "egressd: rewrite failed")
		return
	}
	x.pickMirrors(dest)
	if x.body == nil {
		x.startTimer()
	}
	resp, err := x.roundTrip(u, out)
	if err != nil {
		x.fail(err)
		return
	}
	defer resp.Body.Close()
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
	x.body.trailer = x.r.Trailer
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
		x.timer = time.AfterFunc(timeout, func() { x.cancel(errRouteTimeout) })
	}
}

func (x *exchange) stopTimer() {
	x.timerMu.Lock()
	defer x.timerMu.Unlock()
	x.ended = true
	if x.timer != nil {
		x.timer.Stop()
	}
}

// outgoing builds the request without its body. What the rule doesn't change
// goes as it came: no field is added that would name us.
func (x *exchange) outgoing(u *policy.Upstream, dest *policy.RouteDestination) (*http.Request, error) {
	r := x.r
	seen := x.decision.Request(&x.req)
	header := http.Header(seen.Header).Clone()
	upgrade := upgradeType(r.Header)
	trailers := hasToken(r.Header, "Te", "trailers")
	own := x.own(u) && !x.wantsHTTP2(u)
	came, persists := header["Connection"], persistenceOf(header)
	removeHopByHop(header)
	delete(header, "Host") // HTTP/2 may have both; they are equal
	x.forwarded(header)
	var options []string
	if own {
		if persists.keepAlive {
			options = append(options, "keep-alive")
		}
		persists.apply(header)
	}
	if upgrade != "" {
		options = append(options, "Upgrade")
		header["Upgrade"] = []string{upgrade}
	}
	if trailers {
		header["Te"] = []string{"trailers"}
		if !x.wantsHTTP2(u) && (x.r.ProtoMajor == 2 || hasToken(x.r.Header, "Connection", "te")) {
			options = append(options, "TE") // RFC 9110, 10.1.4
		}
	}
	if c := connection(came, options...); c != nil {
		header["Connection"] = c
	}
	path, authority := seen.Path, seen.Authority
	if a := x.decision.Action; a != nil {
		path = a.RewritePath(path)
		if rw := a.Rule.Rewrite; rw != nil && rw.Authority != "" {
			authority = rw.Authority
		}
		if dest != nil && dest.Headers != nil {
			authority = or(dest.Headers.Request.Apply(header), authority)
		}
		if a.Rule.Headers != nil {
			authority = or(a.Rule.Headers.Request.Apply(header), authority)
		}
	}
	if err := checkPath(path); err != nil {
		return nil, err // by a rule's rewrite
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = nil // or net/http would invent one
	}
	return &http.Request{
		Method:        r.Method,
		URL:           outgoingURL(authority, path, x.target),
		Close:         x.passesClose(u),
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Host:          authority,
		ContentLength: r.ContentLength,
		Trailer:       announcedTrailer(r.Trailer),
	}, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// respond passes the response on.
func (x *exchange) respond(resp *http.Response, dest *policy.RouteDestination) {
	h := x.w.Header()
	x.persist(resp)
	for k, vv := range resp.Header {
		h[k] = vv
	}
	// What the origin did not say is not said in its name.
	for _, k := range []string{"Date", "Content-Type"} {
		if _, ok := h[k]; !ok {
			h[k] = nil
		}
	}
	announced := len(resp.Trailer)
	for k := range resp.Trailer {
		h.Add("Trailer", k)
	}
	if announced > 0 && x.r.ProtoMajor == 1 {
		delete(h, "Content-Length") // HTTP/1.1 has trailers in chunked bodies only
		resp.ContentLength = -1
	}
	x.setCookie(h)
	x.applyResponseHeaders(dest)
	x.writeResponseStatus(resp)
	if err := x.copyBody(resp); err != nil {
		if cause := context.Cause(x.ctx); cause != nil || errors.Is(err, errDownstream) {
			x.aborted(cause)
		}
		x.reason, x.detail = closedReason(err), "response body: "+err.Error()
		if x.r.ProtoMajor == 1 && resp.ContentLength < 0 {
			reset(x.conn.nc) // an orderly end would be the end of a whole body to some clients
		}
		panic(http.ErrAbortHandler)
	}
	if len(resp.Trailer) == announced {
		for k, vv := range resp.Trailer {
			h[k] = vv
		}
		return
	}
	for k, vv := range resp.Trailer { // more than were announced
		h[http.TrailerPrefix+k] = vv
	}
}

// persist removes from an answer what is for its own hop, but for what says how
// long a connection lives that is the client's own on both sides.
func (x *exchange) persist(resp *http.Response) {
	persists := persistenceOf(resp.Header)
	removeHopByHop(resp.Header)
	if !x.up.ownHTTP1() || x.r.ProtoMajor != 1 {
		return
	}
	persists.apply(resp.Header)
	if persists.keepAlive {
		resp.Header["Connection"] = []string{"keep-alive"}
	}
	if resp.Close && x.r.ProtoAtLeast(1, 1) {
		resp.Header["Connection"] = []string{"close"}
	}
}

// writeResponseStatus writes the status of an origin's answer; what it looks like
// and where it ends is as the origin has it.
func (x *exchange) writeResponseStatus(resp *http.Response) {
	h := x.w.Header()
	if x.r.ProtoMajor == 1 && resp.ProtoMajor == 1 && resp.ContentLength < 0 && resp.Close && len(resp.TransferEncoding) == 0 {
		h["Transfer-Encoding"] = []string{"identity"} // up to the connection's end
	}
	var more http.Header
	if resp.StatusCode == http.StatusNotModified {
		// net/http leaves out what is about the body that there would be.
		more = http.Header{"Content-Length": h["Content-Length"], "Content-Type": h["Content-Type"]}
	}
	x.writeStatus(resp.StatusCode)
	x.lookLike(x.up.head(resp), more)
}

// errDownstream: the client can't be written to.
var errDownstream = errors.New("the client went away")

// copyBody streams the body: whatever is there is written and flushed before
// more is waited for.
func (x *exchange) copyBody(resp *http.Response) error {
	if resp.ContentLength < 0 {
		x.flush() // the header may be long before the first byte
	}
	buf := x.core.buffers.get()
	defer x.core.buffers.pool.Put(buf)
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

func (x *exchange) flush() {
	_ = http.NewResponseController(x.w).Flush() // the next write shows a failure
}
