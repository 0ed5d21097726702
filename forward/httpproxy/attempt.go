// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// attempted is the upstream connection of an exchange's latest attempt. The exchange's own
// goroutine alone changes which it is, and needs no lock to read it.
type attempted struct {
	mu   sync.Mutex
	conn *upstream.HTTPConn
	key  *upstream.ConnKey // nil: there was no endpoint
	// cause is why the attempt was interrupted; over: the exchange was.
	cause error
	over  bool
}

// attempt sends out once.
func (x *exchange) attempt(u *policy.Upstream, out *message.Outgoing, perTry time.Duration, fresh bool) (resp *message.Response, o outcome, err error) {
	x.settle()
	try := x.begin(perTry)
	defer try.stop()
	defer func() { x.report(u, resp, o, err) }()
	if x.on, err = x.conn.Ups.DrawAgain(try.context, u, x.hashKey(u, &out.Header), upstream.Attempts{Tried: x.tried, Priorities: x.previous}); err != nil {
		return nil, outcome{unprocessed: true}, err
	}
	http2 := x.wantsHTTP2(u)
	for {
		c, err := x.connection(try, http2, fresh)
		if err != nil {
			spent := err == upstream.ErrSpent //nolint:errorlint // as acquire has it
			key := upstream.KeyOf(x.on.Upstream, http2)
			x.up.key = &key
			return nil, outcome{unprocessed: !spent, spent: spent}, err
		}
		resp, o, err := x.attemptOn(try, c, out)
		if err != relay.ErrSpoke { //nolint:errorlint // as the stream has it
			return resp, o, err
		}
		x.conn.Ups.Spent(c)
		if !c.Used() {
			return nil, outcome{unprocessed: true}, &upstream.DialError{Err: upstream.ErrAtOnce}
		}
		x.giveBack()
	}
}

// connection is one for the attempt at hand.
func (x *exchange) connection(try *try, http2, fresh bool) (*upstream.HTTPConn, error) {
	if c := x.conn.Ups.Ready(x.on.Upstream, http2, fresh); c != nil {
		return c, nil
	}
	c, err := x.conn.Ups.Acquire(try.context(), &x.on, http2, fresh)
	if err != nil {
		if at := upstream.TriedAt(err); at.IsValid() {
			x.upstream.peer = at
		}
		if cause := context.Cause(try.context()); cause != nil {
			err = cause
		}
		return nil, err
	}
	return c, nil
}

// attemptOn sends out on c. The error is relay.ErrSpoke when c has ended before.
func (x *exchange) attemptOn(try *try, c *upstream.HTTPConn, out *message.Outgoing) (resp *message.Response, o outcome, err error) {
	if c.LeadsElsewhere(x.on.Upstream) {
		x.on.Elsewhere()
	}
	x.up.set(c)
	x.upstream.peer = c.Peer
	private := authenticates(out.Header)
	if private && c.HTTP1 == nil {
		c.SetPrivate()
	}
	if err = x.authorize(c, x.on.Upstream, out); err != nil {
		return nil, outcome{unprocessed: true}, err
	}
	var body *message.AttemptBody
	if x.body != nil {
		body = x.body.Next()
	}
	wrote := false
	if c.HTTP1 != nil {
		x.moved()
		resp, err = x.roundTrip1(c, out, body)
	} else {
		resp, wrote, err = x.roundTrip2(try.context(), c, out, body)
	}
	if err == relay.ErrSpoke { //nolint:errorlint // as the stream has it
		return nil, o, err
	}
	if private {
		c.SetPrivate() // not what has ended before
	}
	if err != nil {
		o = outcomeOf(c, err, wrote)
		if cause := x.stopped(try); cause != nil {
			if c.HTTP1 == nil {
				// net/http may be writing it: it tells of the end before it knows.
				o = outcome{sent: true}
			}
			return nil, o, cause
		}
		if o.spent {
			err = upstream.ErrSpent
		}
		return nil, o, err
	}
	c.Answered.Store(true)
	if err := x.takeMore(headMemory(resp.Header)); err != nil {
		resp.Done()
		return nil, outcome{sent: true}, err
	}
	if asksToAuthenticate(resp) {
		c.SetPrivate()
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

// roundTrip2 sends a request on c, which speaks HTTP/2. sent: its head was written, or
// is about to be; what net/http knows of it behind the write comes too late when the
// upstream is fast.
func (x *exchange) roundTrip2(ctx context.Context, c *upstream.HTTPConn, out *message.Outgoing, body *message.AttemptBody) (_ *message.Response, sent bool, err error) {
	var wrote atomic.Bool
	ctx, cancel := context.WithCancelCause(ctx)
	x.release(func() { cancel(errDone) })
	informational := &informational{x: x}
	trace := &httptrace.ClientTrace{
		WroteHeaderField: func(string, []string) { wrote.Store(true) },
		Got1xxResponse:   informational.got,
	}
	req := out.Request().WithContext(httptrace.WithClientTrace(ctx, trace))
	if c.Secured() {
		req.URL.Scheme = "https"
	}
	if body != nil {
		if err := x.takeMore(SenderMemory); err != nil {
			return nil, false, err
		}
		body.Trailer = req.Trailer
		req.Body = body
	}
	resp, err := c.Client.RoundTrip(req)
	if bad := informational.stop(); bad != nil && err != nil {
		err = bad
	}
	if err != nil {
		return nil, wrote.Load(), err
	}
	answer := message.ResponseOf(resp)
	if !http1.Valid(answer.Header) {
		answer.Done()
		return nil, true, http1.ErrFieldValue
	}
	return answer, true, nil
}

func (a *attempted) set(c *upstream.HTTPConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn, a.key, a.cause = c, &c.Key, nil
	if a.over {
		c.Interrupt()
	}
}

// interrupt ends what waits for the upstream c, or for any when it is nil.
func (a *attempted) interrupt(c *upstream.HTTPConn, cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil || c != nil && c != a.conn {
		return
	}
	if a.cause == nil {
		a.cause = cause
	}
	a.conn.Interrupt()
}

// end has every attempt be interrupted, also those to come.
func (a *attempted) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over = true; a.conn != nil {
		a.conn.Interrupt()
	}
}

// ownHTTP1 says whether it is of HTTP/1, and no other client's after this one's.
func (a *attempted) ownHTTP1() bool {
	return a.conn != nil && !a.conn.Key.HTTP2 && !a.conn.Shares()
}

// ready says whether more of the answer has been received.
func (a *attempted) ready() bool {
	return a.conn != nil && a.conn.HTTP1 != nil && len(a.conn.HTTP1.Reader.Buffered()) > 0
}

// settle gives the connection of the latest attempt back.
func (x *exchange) settle() {
	x.giveBack()
	x.on.End()
}

func (x *exchange) giveBack() {
	x.up.mu.Lock()
	c := x.up.conn
	x.up.conn = nil
	x.up.mu.Unlock()
	if c != nil {
		x.conn.Ups.Release(c)
	}
}

// passClientEnd ends the sending side towards the upstream when the client has
// ended its own and the request is on its way: the upstream is to know what it
// would know without egressd. Whether the client waits for an answer or has gone
// can't be told apart, and is the upstream's to judge.
func (x *exchange) passClientEnd() {
	x.up.mu.Lock()
	defer x.up.mu.Unlock()
	if c := x.up.conn; c != nil && c.HTTP1 != nil && c.HTTP1.Sent.Load() {
		c.Finish()
		_ = c.CloseWrite() // fails on a connection that has ended
	}
}

// passesClose says whether the request's "Connection: close" goes on to u: the
// connection there is this one's only.
func (x *exchange) passesClose(u *policy.Upstream) bool {
	_, shared := x.conn.Ups.Sharing(u)
	return x.r.ProtoMajor == 1 && x.r.Close && !shared && !x.wantsHTTP2(u)
}

// authenticates says whether a request has credentials that count for its
// connection (RFC 4559, 5: NTLM and Negotiate).
func authenticates(h field.List) bool {
	return boundScheme(h, "Authorization") || h.Has("Proxy-Authorization")
}

// asksToAuthenticate says whether an answer begins such an authentication.
func asksToAuthenticate(resp *message.Response) bool {
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
// without one, a workload's. HTTP/1.1 upgrades have no HTTP/2 form here.
func (x *exchange) wantsHTTP2(u *policy.Upstream) bool {
	if x.r.ProtoMajor == 1 && message.UpgradeType(x.r.Header) != "" {
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
		// A visitor's protocol ends at the gateway, whose own is HTTP/1.1 (istio pilot
		// ClusterBuilder.setUpstreamProtocol); gRPC has HTTP/2 alone.
		return x.r.ProtoMajor == 2 && (x.req.Visitor == nil || isGRPC(x.r))
	}
	return false
}
