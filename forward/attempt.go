// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// attempted is the upstream connection of an exchange's latest attempt.
type attempted struct {
	mu   sync.Mutex
	conn *upstreamConn
	key  upstreamKey
	// cause is why the attempt was interrupted; over: the exchange was.
	cause error
	over  bool
}

// attempt sends out once.
func (x *exchange) attempt(u *policy.Upstream, out *outgoing, perTry time.Duration, fresh bool) (resp *response, o outcome, err error) {
	x.settle()
	try := x.begin(perTry)
	defer try.stop()
	defer func() { x.report(u, resp, o, err) }()
	if x.on, err = x.conn.draw(try.context, u, x.hashKey(u, &out.Header), x.tried); err != nil {
		return nil, outcome{unprocessed: true}, err
	}
	http2 := x.wantsHTTP2(u)
	for {
		c, err := x.connection(try, http2, fresh)
		if err != nil {
			spent := err == errSpent //nolint:errorlint // as acquire has it
			x.up.key = keyOf(x.on.up, http2)
			return nil, outcome{unprocessed: !spent, spent: spent}, err
		}
		resp, o, err := x.attemptOn(try, c, out)
		if err != errSpoke { //nolint:errorlint // as source has it
			return resp, o, err
		}
		x.conn.ups.spent(c)
		if !c.used() {
			return nil, outcome{unprocessed: true}, &dialError{errAtOnce}
		}
		x.giveBack()
	}
}

// connection is one for the attempt at hand.
func (x *exchange) connection(try *try, http2, fresh bool) (*upstreamConn, error) {
	if c := x.conn.ups.ready(x.on.up, http2, fresh); c != nil {
		return c, nil
	}
	c, err := x.conn.ups.acquire(try.context(), &x.on, http2, fresh)
	if err != nil {
		if cause := context.Cause(try.context()); cause != nil {
			err = cause
		}
		return nil, err
	}
	return c, nil
}

// attemptOn sends out on c. The error is errSpoke when c has ended before.
func (x *exchange) attemptOn(try *try, c *upstreamConn, out *outgoing) (resp *response, o outcome, err error) {
	if c.key != keyOf(x.on.up, c.key.http2) {
		x.on.elsewhere() // somebody has authenticated there
	}
	x.up.set(c)
	x.upstream.set(c.peer)
	private := authenticates(out.Header)
	if private && c.http1 == nil {
		c.setPrivate()
	}
	var body *attemptBody
	if x.body != nil {
		body = x.body.next()
	}
	wrote := false
	if c.http1 != nil {
		x.moved()
		resp, err = x.roundTrip1(c, out, body)
	} else {
		resp, wrote, err = x.roundTrip2(try.context(), c, out, body)
	}
	if err == errSpoke { //nolint:errorlint // as source has it
		return nil, o, err
	}
	if private {
		c.setPrivate() // not what has ended before
	}
	if err != nil {
		o = c.outcome(err, wrote)
		if cause := x.stopped(try); cause != nil {
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

// stopped is why the exchange, or this attempt of it, was interrupted; nil: it was
// not.
func (x *exchange) stopped(try *try) error {
	if cause := x.life.why(); cause != nil {
		return cause
	}
	if try.ctx != nil {
		if cause := context.Cause(try.ctx); cause != nil {
			return cause
		}
	}
	x.up.mu.Lock()
	defer x.up.mu.Unlock()
	return x.up.cause
}

// try is the time that one attempt has. It ends with the answer's header: what has
// begun is the route timeout's (as in Envoy).
type try struct {
	x     *exchange
	ctx   context.Context // nil: there is no bound
	bound *tryEnd
}

// tryEnd is the end of a try's time.
type tryEnd struct {
	mu    sync.Mutex
	over  bool // the try is
	timer *time.Timer
}

func (x *exchange) begin(most time.Duration) (t *try) {
	t = &x.try
	*t = try{x: x}
	if most > 0 {
		ctx, cancel := context.WithCancelCause(x.context())
		x.release(func() { cancel(errDone) })
		b := &tryEnd{}
		t.ctx, t.bound = ctx, b
		b.timer = time.AfterFunc(most, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if !b.over {
				cancel(errPerTry)
				x.up.interrupt(nil, errPerTry)
			}
		})
	}
	return t
}

func (t *try) context() context.Context {
	if t.ctx == nil {
		return t.x.context()
	}
	return t.ctx
}

func (t *try) stop() {
	if b := t.bound; b != nil {
		b.timer.Stop()
		b.mu.Lock()
		b.over = true
		b.mu.Unlock()
	}
}

// roundTrip2 sends a request on c, which speaks HTTP/2. sent: its head was written.
func (x *exchange) roundTrip2(ctx context.Context, c *upstreamConn, out *outgoing, body *attemptBody) (_ *response, sent bool, err error) {
	var wrote atomic.Bool
	ctx, cancel := context.WithCancelCause(ctx)
	x.release(func() { cancel(errDone) })
	informational := &informational{x: x}
	trace := &httptrace.ClientTrace{
		WroteHeaders:   func() { wrote.Store(true) },
		Got1xxResponse: informational.got,
	}
	req := out.request().WithContext(httptrace.WithClientTrace(ctx, trace))
	if body != nil {
		body.trailer = req.Trailer
		req.Body = body
	}
	resp, err := c.client.RoundTrip(req)
	informational.stop()
	if err != nil {
		return nil, wrote.Load(), err
	}
	answer := responseOf(resp)
	if !http1.Valid(answer.Header) {
		answer.Done()
		return nil, true, http1.ErrFieldValue
	}
	return answer, true, nil
}

// request is the request for net/http. The target keeps its bytes: Opaque is written
// verbatim, but that net/url reads a host out of it behind "//", which HTTP/2 takes
// off again.
func (o *outgoing) request() *http.Request {
	target := &url.URL{Scheme: "http", Host: o.Authority, Opaque: o.Path}
	target.RawQuery, target.ForceQuery = strings.TrimPrefix(o.Query, "?"), o.Query == "?"
	if strings.HasPrefix(o.Path, "//") {
		target.Opaque = "//" + o.Authority + o.Path
	}
	header := make(http.Header, len(o.Header))
	for i := range o.Header { // net/http may use it longer than the exchange lasts
		header.Add(strings.Clone(o.Header[i].Name), strings.Clone(o.Header[i].Value))
	}
	for _, name := range []string{"Host", "Connection", "Content-Length", "Transfer-Encoding", "Trailer"} {
		delete(header, name)
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = nil // or net/http would invent one
	}
	r := &http.Request{
		Method: o.Method, URL: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Host: o.Authority, ContentLength: o.Length,
	}
	for _, name := range o.Trailer {
		if r.Trailer == nil {
			r.Trailer = make(http.Header)
		}
		r.Trailer[textproto.CanonicalMIMEHeaderKey(name)] = nil
	}
	return r
}

func (a *attempted) set(c *upstreamConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn, a.key, a.cause = c, c.key, nil
	if a.over {
		c.interrupt()
	}
}

// interrupt ends what waits for the upstream c, or for any when it is nil.
func (a *attempted) interrupt(c *upstreamConn, cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil || c != nil && c != a.conn {
		return
	}
	if a.cause == nil {
		a.cause = cause
	}
	a.conn.interrupt()
}

// end has every attempt be interrupted, also those to come.
func (a *attempted) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over = true; a.conn != nil {
		a.conn.interrupt()
	}
}

// interrupt ends what waits for the upstream. The connection is of no use any more.
func (c *upstreamConn) interrupt() {
	if c.http1 != nil {
		c.finish()
		_ = c.Conn.SetDeadline(longAgo) // fails on a closed connection, which is as good
	}
}

// ownHTTP1 says whether it is of HTTP/1, and no other client's after this one's.
func (a *attempted) ownHTTP1() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conn != nil && !a.conn.key.http2 && !a.conn.shares()
}

// current is the connection.
func (a *attempted) current() *upstreamConn {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conn
}

// ready says whether more of the answer has been received.
func (a *attempted) ready() bool {
	return a.conn != nil && a.conn.http1 != nil && len(a.conn.http1.reader.Buffered()) > 0
}

// settle gives the connection of the latest attempt back.
func (x *exchange) settle() {
	x.giveBack()
	x.on.end()
}

func (x *exchange) giveBack() {
	x.up.mu.Lock()
	c := x.up.conn
	x.up.conn = nil
	x.up.mu.Unlock()
	if c != nil {
		x.conn.ups.release(c)
	}
}

// passClientEnd ends the sending side towards the upstream when the client has
// ended its own and the request is on its way: the upstream is to know what it
// would know without egressd. Whether the client waits for an answer or has gone
// can't be told apart, and is the upstream's to judge.
func (x *exchange) passClientEnd() {
	x.up.mu.Lock()
	defer x.up.mu.Unlock()
	if c := x.up.conn; c != nil && c.http1 != nil && c.http1.sent.Load() {
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

// authenticates says whether a request has credentials that count for its
// connection (RFC 4559, 5: NTLM and Negotiate).
func authenticates(h field.List) bool {
	return boundScheme(h, "Authorization") || h.Has("Proxy-Authorization")
}

// asksToAuthenticate says whether an answer begins such an authentication.
func asksToAuthenticate(resp *response) bool {
	return resp.StatusCode == http.StatusUnauthorized && boundScheme(resp.Header, "Www-Authenticate") ||
		resp.StatusCode == http.StatusProxyAuthRequired
}

func boundScheme(h field.List, name string) bool {
	for i := h.Index(name, 0); i >= 0; i = h.Index(name, i+1) {
		for part := range strings.SplitSeq(h[i].Value, ",") {
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
	mu   sync.Mutex
	over bool
}

func (i *informational) got(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over || !i.x.r.ProtoAtLeast(1, 1) {
		return nil
	}
	i.x.w.Inform(code, http.StatusText(code), field.FromMap(header))
	return nil
}

func (i *informational) stop() {
	i.mu.Lock()
	i.over = true
	i.mu.Unlock()
}
