// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/policy"
)

// upgrade passes a 101 response on and then copies both ways (WebSocket and
// the like; RFC 9110, 7.8).
func (x *exchange) upgrade(resp *message.Response, dest *policy.RouteDestination) {
	asked, got := message.UpgradeType(x.r.Header), message.UpgradeType(resp.Header)
	c := x.up.conn
	if asked == "" || !strings.EqualFold(asked, got) || c == nil || c.HTTP1 == nil || x.h1 == nil {
		x.reason, x.detail = policy.ReasonUpstreamProtocol, "upstream switched to a protocol that was not asked for"
		x.reply(http.StatusBadGateway, "egressd: "+x.req.Host+": unexpected protocol switch")
		return
	}
	if x.body != nil && !x.body.Complete() {
		// The rest of the body and the first bytes of the other protocol could
		// not be told apart.
		x.reason, x.detail = policy.ReasonUpstreamProtocol, "upstream switched protocols before it had the request's body"
		x.reply(http.StatusBadGateway, "egressd: "+x.req.Host+": unexpected protocol switch")
		return
	}
	h := x.w.Header()
	*h = append((*h)[:0], resp.Header...)
	o := message.ConnectionOptions{Upgrade: true}
	o.Apply(h, false, false)
	x.responseHeaders(h, dest)
	x.stall.stop() // watchIdle takes over
	x.stopTimer()  // Envoy's route timeout ends with an upgrade
	x.w.Passes(resp)
	x.writeStatus(resp.StatusCode)
	x.h1.answer.close = true // there is no HTTP behind it
	if x.h1.answer.Flush2() == nil {
		x.tunnel(c)
	}
	switch cause := x.life.why(); {
	case errors.Is(cause, errPolicyChanged):
		x.decision.Verdict, x.reason = policy.Deny, policy.ReasonPolicyChanged
	case errors.Is(cause, errTooOld):
		x.reason, x.detail = policy.ReasonStreamDuration, cause.Error()
	}
}

// tunnel copies both ways, until both ends have ended.
func (x *exchange) tunnel(c *upstream.HTTPConn) {
	t := x.conn
	x.h1.tunnel()
	stop := context.AfterFunc(x.context(), func() { relay.Reset(t.NC); c.Conn.Close() })
	defer stop()
	defer relay.WatchIdle(t.NC, t.NC, x.core.o.IdleTimeout, t.KillFlagged)()
	early, first := x.h1.reader.Buffered(), c.HTTP1.Reader.Buffered()
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.upstream.received.Store(x.carry(t.Stream, c.Conn, first))
	}()
	x.tunnelled = x.carry(c.Conn, t.Stream, early)
	<-done
}

// carry copies from src to dst, behind what has come of it already, and passes the
// end on.
func (x *exchange) carry(dst, src net.Conn, first []byte) (n int64) {
	m, err := dst.Write(first)
	n = int64(m)
	if err == nil {
		var more int64
		more, err = x.conn.Relay.Copy(dst, src)
		n += more
	}
	x.passEnd(dst, err)
	return n
}

// passEnd passes the end of one direction on to the other end's reader, or
// ends both directions after an error.
func (x *exchange) passEnd(dst io.Closer, err error) {
	if err == nil {
		if h, ok := dst.(interface{ CloseWrite() error }); ok && h.CloseWrite() == nil {
			return
		}
	}
	x.cancel(errDone)
}
