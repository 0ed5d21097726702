// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/policy"
)

// attempted is the upstream connection of an exchange's latest attempt.
type attempted struct {
	mu   sync.Mutex
	conn *upstreamConn
	key  upstreamKey
}

// flushTime is how long net/http may take to write what is in its buffer, if
// there is anything, before nothing was there.
const flushTime = time.Second

// outgoingURL keeps the target's bytes as they are: Opaque is written verbatim.
// After "//" net/url reads a host out of Opaque, and puts the scheme before it;
// HTTP/2 takes off both, and the request line of HTTP/1 is our own.
func outgoingURL(authority, path, target string) *url.URL {
	out := &url.URL{Scheme: "http", Host: authority, Opaque: path}
	_, query, found := strings.Cut(target, "?")
	out.RawQuery, out.ForceQuery = query, found && query == ""
	if strings.HasPrefix(path, "//") {
		out.Opaque = "//" + authority + path
	}
	return out
}

// requestLine is the first line of an HTTP/1 request.
func requestLine(r *http.Request) []byte {
	line := append(make([]byte, 0, 256), r.Method...)
	line = append(line, ' ')
	line = append(line, strings.TrimPrefix(r.URL.Opaque, "//"+r.URL.Host)...)
	if r.URL.ForceQuery || r.URL.RawQuery != "" {
		line = append(append(line, '?'), r.URL.RawQuery...)
	}
	return append(line, " HTTP/1.1"...)
}

// attempt sends out once.
func (x *exchange) attempt(u *policy.Upstream, out *http.Request, perTry time.Duration, fresh bool) (resp *http.Response, o outcome, err error) {
	ctx, cancel := context.WithCancelCause(x.ctx)
	x.release(func() { cancel(errDone) })
	if perTry > 0 {
		// Ends with the response's header: what has begun is the route
		// timeout's (as in Envoy).
		timer := time.AfterFunc(perTry, func() { cancel(errPerTry) })
		defer timer.Stop()
	}
	x.settle()
	defer func() { x.report(u, resp, o, err) }()
	if x.on, err = x.conn.draw(ctx, u, x.hashKey(out.Header), x.tried); err != nil {
		return nil, outcome{unprocessed: true}, err
	}
	c, err := x.conn.ups.acquire(ctx, &x.on, x.wantsHTTP2(u), fresh)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		x.up.key = keyOf(x.on.up, x.wantsHTTP2(u))
		return nil, outcome{unprocessed: true}, err
	}
	if c.key != keyOf(x.on.up, c.key.http2) {
		x.on.elsewhere() // somebody has authenticated there
	}
	x.up.set(c)
	x.upstream.set(c.RemoteAddr())
	if authenticates(out.Header) {
		c.setPrivate()
	}
	var wrote atomic.Bool
	informational := &informational{x: x, c: c}
	req := out.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders:   func() { wrote.Store(true) },
		WroteRequest:   func(i httptrace.WroteRequestInfo) { c.wroteRequest(i.Err) },
		Got1xxResponse: informational.got,
		PutIdleConn:    func(error) { c.waiting.Store(false) },
	}))
	if x.body != nil {
		body := x.body.next(announcedTrailer(out.Trailer))
		req.Body, req.Trailer = body, body.trailer
	}
	if !c.key.http2 {
		c.begin(x, requestLine(req), x.head.raw)
	}
	c.waiting.Store(true)
	resp, err = c.client.RoundTrip(req)
	informational.stop()
	if err != nil {
		o = c.outcome(err, wrote.Load())
		if cause := context.Cause(ctx); cause != nil {
			return nil, o, cause
		}
		if o.spent {
			err = errSpent
		}
		return nil, o, err
	}
	c.answered.Store(true)
	if asksToAuthenticate(resp) {
		c.setPrivate()
	}
	return resp, outcome{sent: true}, nil
}

func (a *attempted) set(c *upstreamConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn, a.key = c, c.key
}

// ownHTTP1 says whether it is of HTTP/1, and no other client's after this one's.
func (a *attempted) ownHTTP1() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conn != nil && !a.conn.key.http2 && !a.conn.shares()
}

// head is the head of an answer as it came; HTTP/2 has none.
func (a *attempted) head(resp *http.Response) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil || resp.ProtoMajor != 1 {
		return nil
	}
	return a.conn.in.take(strconv.Itoa(resp.StatusCode))
}

// settle gives the connection of the latest attempt back.
func (x *exchange) settle() {
	x.up.mu.Lock()
	c := x.up.conn
	x.up.conn = nil
	x.up.mu.Unlock()
	if c != nil {
		c.request.Store(nil)
		x.conn.ups.release(c)
	}
	x.on.end()
}

// passClientEnd ends the sending side towards the upstream when the client has
// ended its own and the request is on its way: the upstream is to know what it
// would know without egressd. Whether the client waits for an answer or has gone
// can't be told apart, and is the upstream's to judge.
func (x *exchange) passClientEnd() {
	if !x.in.isLast() {
		return
	}
	x.up.mu.Lock()
	defer x.up.mu.Unlock()
	c := x.up.conn
	if c == nil || c.key.http2 {
		return
	}
	switch c.progress.Load() {
	case wroteIt:
		// A write follows, and calls again, unless the buffer was empty.
		time.AfterFunc(flushTime, func() {
			if c.progress.CompareAndSwap(wroteIt, flushedIt) {
				x.passClientEnd()
			}
		})
	case flushedIt:
		c.finish()
		_ = c.CloseWrite() // fails on a connection that has ended
	}
}

// passesClose says whether the request's "Connection: close" goes on to u: the
// connection there is this one's only.
func (x *exchange) passesClose(u *policy.Upstream) bool {
	_, shared := x.conn.ups.sharing(u)
	return x.r.ProtoMajor == 1 && x.r.Close && !shared && !x.wantsHTTP2(u)
}

// lookLike has the head that is written next to the client look like the origin's.
func (x *exchange) lookLike(head []byte, more http.Header) {
	if head != nil && x.in.heads != nil {
		x.in.reply.expect(nil, head, more)
	}
}

// authenticates says whether a request has credentials that count for its
// connection (RFC 4559, 5: NTLM and Negotiate).
func authenticates(h http.Header) bool {
	return boundScheme(h["Authorization"]) || len(h["Proxy-Authorization"]) > 0
}

// asksToAuthenticate says whether an answer begins such an authentication.
func asksToAuthenticate(resp *http.Response) bool {
	return resp.StatusCode == http.StatusUnauthorized && boundScheme(resp.Header["Www-Authenticate"]) ||
		resp.StatusCode == http.StatusProxyAuthRequired
}

func boundScheme(values []string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			scheme, _, _ := strings.Cut(textproto.TrimString(part), " ")
			if strings.EqualFold(scheme, "NTLM") || strings.EqualFold(scheme, "Negotiate") || strings.EqualFold(scheme, "Kerberos") {
				return true
			}
		}
	}
	return false
}

// wantsHTTP2 says whether u is spoken to in HTTP/2: its protocol decides;
// without one, the client's. HTTP/1.1 upgrades have no HTTP/2 form here.
func (x *exchange) wantsHTTP2(u *policy.Upstream) bool {
	if x.r.ProtoMajor == 1 && upgradeType(x.r.Header) != "" {
		return false
	}
	if t := u.Traffic; t != nil && t.Pool != nil {
		// What a rule says of it, for ports of any protocol (istio pilot
		// ClusterBuilder.applyH2Upgrade, setUseDownstreamProtocol).
		switch p := t.Pool; {
		case p.UseClientProtocol:
			return x.r.ProtoMajor == 2
		case p.UpgradeHTTP2 != nil && *p.UpgradeHTTP2:
			return true
		}
	}
	switch u.Protocol {
	case policy.ProtocolHTTP2, policy.ProtocolGRPC:
		return true
	case policy.ProtocolUnset:
		return x.r.ProtoMajor == 2
	}
	return false
}

// informational passes 1xx responses on, until the final one was received.
type informational struct {
	x    *exchange
	c    *upstreamConn
	mu   sync.Mutex
	over bool
}

func (i *informational) got(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over || !i.x.r.ProtoAtLeast(1, 1) {
		return nil
	}
	h := i.x.w.Header()
	for k, vv := range header {
		h[k] = append([]string(nil), vv...)
	}
	i.x.lookLike(i.c.in.take(strconv.Itoa(code)), nil)
	i.x.w.WriteHeader(code)
	clear(h) // they are this response's alone
	return nil
}

func (i *informational) stop() {
	i.mu.Lock()
	i.over = true
	i.mu.Unlock()
}
