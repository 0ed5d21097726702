// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/egressd/egressd/policy"
)

// upgrade passes a 101 response on and then copies both ways (WebSocket and
// the like; RFC 9110, 7.8).
func (x *exchange) upgrade(resp *http.Response, dest *policy.RouteDestination) {
	asked, got := upgradeType(x.r.Header), upgradeType(resp.Header)
	up, ok := resp.Body.(io.ReadWriteCloser)
	if asked == "" || !strings.EqualFold(asked, got) || !ok {
		x.reason, x.detail = policy.ReasonUpstreamProtocol, "upstream switched to a protocol that was not asked for"
		x.reply(http.StatusBadGateway, "egressd: "+x.req.Host+": unexpected protocol switch")
		return
	}
	if x.body != nil && !x.body.complete() {
		// The rest of the body and the first bytes of the other protocol could
		// not be told apart.
		x.reason, x.detail = policy.ReasonUpstreamProtocol, "upstream switched protocols before it had the request's body"
		x.reply(http.StatusBadGateway, "egressd: "+x.req.Host+": unexpected protocol switch")
		return
	}
	h := resp.Header
	removeHopByHop(h)
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{got}
	x.responseHeaders(h, dest)
	nc, brw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.reason, x.detail = policy.ReasonUpstream, "upgrade: "+err.Error()
		x.reply(http.StatusBadGateway, "egressd: "+x.req.Host+": protocol switch is not possible")
		return
	}
	defer nc.Close()
	x.in.heads.stop() // upgrades are HTTP/1's
	x.stall.stop()    // watchIdle takes over
	x.stopTimer()     // Envoy's route timeout ends with an upgrade
	x.answered, x.status = true, resp.StatusCode

	stop := context.AfterFunc(x.ctx, func() { reset(x.conn.nc); up.Close() })
	defer stop()
	idle := x.conn.watchIdle(x.conn.nc, x.core.o.IdleTimeout)
	defer idle()
	x.lookLike(x.up.head(resp), nil)
	if err := writeSwitching(nc, h); err != nil {
		return
	}
	// What the client sent right after its request is in the server's buffer.
	early := make([]byte, brw.Reader.Buffered())
	_, _ = io.ReadFull(brw.Reader, early) // they are there: Buffered says so

	done := make(chan struct{})
	go func() {
		defer close(done)
		n, err := io.Copy(nc, up)
		x.upstream.received.Add(n)
		x.passEnd(nc, err)
	}()
	x.tunnelled, err = io.Copy(up, io.MultiReader(bytes.NewReader(early), nc))
	x.passEnd(up, err)
	<-done
	if errors.Is(context.Cause(x.ctx), errPolicyChanged) {
		x.decision.Verdict, x.reason = policy.Deny, policy.ReasonPolicyChanged
	}
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

func writeSwitching(w io.Writer, h http.Header) error {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(&b) // a bytes.Buffer takes everything
	b.WriteString("\r\n")
	_, err := w.Write(b.Bytes())
	return err
}
