// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Bounds of the copies that mirrors get. They have budgets of their own, of
// which one workload has its share: mirrors take nothing of what requests need
// but descriptors.
const (
	maxCopies      = 1024     // under way
	maxCopyMemory  = 64 << 20 // bodies, in bytes
	maxMirrorConns = 512
	// copyTimeout is how long a copy may take where the rule has no timeout:
	// nobody waits for its answer.
	copyTimeout     = 15 * time.Second
	idleMirrorConns = 4
	mirrorIdle      = 10 * time.Second
)

// Mirrors are the copies that are under way in a Core.
type Mirrors struct {
	core                  *Proxy
	Copies, Memory, Conns *limits.Budget

	mu     sync.Mutex
	open   map[*requestCopy]struct{}
	closed bool
	wg     sync.WaitGroup
}

func newMirrors(c *Proxy) *Mirrors {
	return &Mirrors{
		core: c, Copies: limits.NewBudget(maxCopies), Memory: limits.NewBudget(maxCopyMemory), Conns: limits.NewBudget(maxMirrorConns),
		open: map[*requestCopy]struct{}{},
	}
}

// requestCopy is the copy of a request that a mirror gets.
type requestCopy struct {
	conn     *client
	to       *policy.Upstream
	mirror   *policy.Mirrored
	original policy.Request // as it was decided
	decision policy.Decision
	request  *http.Request
	body     []byte
	target   string
	timeout  time.Duration
	start    time.Time
	cancel   context.CancelCauseFunc
	ctx      context.Context
	peer     atomic.Pointer[netip.AddrPort]
}

// pickMirrors draws which mirrors get a copy. The body is kept for them as far
// as it is for retries.
func (x *exchange) pickMirrors(dest *policy.RouteDestination) {
	if len(x.decision.Mirrors) == 0 || message.UpgradeType(x.r.Header) != "" {
		return // an upgrade is no request that could be answered twice
	}
	for i := range x.decision.Mirrors {
		if m := &x.decision.Mirrors[i]; x.percent(m.Percent) {
			if c := x.copyFor(m, dest); c != nil {
				x.copies = append(x.copies, c)
			}
		}
	}
	switch {
	case x.body == nil:
		x.sendCopies()
	case len(x.copies) > 0:
		x.body.Limit = message.MaxReplay
	}
}

// copyFor builds the copy for m; nil: none is sent, and the event says why.
func (x *exchange) copyFor(m *policy.Mirrored, dest *policy.RouteDestination) *requestCopy {
	c := &requestCopy{conn: x.conn, mirror: m, original: requestKept(&x.req), target: strings.Clone(x.target), timeout: x.decision.Timeout(), start: time.Now()}
	c.decision = policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonAllowed, Rule: m.Rule}
	seen := x.decision.Copied(m, dest, &c.original)
	switch {
	case m.Refused != "":
		c.decision = session.Denied(m.Refused, m.Rule)
		c.record(0, 0, "")
		return nil
	case m.To.Upstream == nil:
		c.decision.Reason = policy.ReasonNoDestination
		c.record(0, 0, "")
		return nil
	case seen == nil || message.CheckPath(seen.Path) != nil:
		c.decision.Reason = policy.ReasonMalformed
		c.record(0, 0, "a rule makes it a request that can't be sent")
		return nil
	}
	c.to = m.To.Upstream.WithName(seen.Host)
	fields := seen.Header.Clone()
	message.RemoveHopByHop(&fields)
	fields.Del("Host")
	fields.Del("Expect") // the body is there
	x.forwarded(&fields)
	header := http.Header(fields.Map(textproto.CanonicalMIMEHeaderKey))
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = nil // or net/http would invent one
	}
	c.request = &http.Request{
		Method: c.original.Method, URL: mirrorURL(seen.Path, c.target), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Host: shadowHost(seen.Authority), ContentLength: x.r.ContentLength,
	}
	return c
}

// requestKept is a copy of a request that outlives it: what is read of HTTP/1 is in a buffer
// that the next request uses.
func requestKept(r *policy.Request) policy.Request {
	out := *r
	out.Method, out.Authority, out.Host, out.Path = strings.Clone(r.Method), strings.Clone(r.Authority), strings.Clone(r.Host), strings.Clone(r.Path)
	out.Header = make(field.List, len(r.Header))
	for i, f := range r.Header {
		out.Header[i] = field.Entry{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)}
	}
	out.Query = make(url.Values, len(r.Query))
	for name, values := range r.Query {
		for _, v := range values {
			out.Query.Add(strings.Clone(name), strings.Clone(v))
		}
	}
	return out
}

// shadowHost is the authority of a copy: Envoy appends "-shadow" to the name,
// before the port (source/common/router/shadow_writer_impl.cc). An IPv6 address
// stays as it is.
func shadowHost(authority string) string {
	host, port, ok := strings.Cut(authority, ":")
	switch {
	case strings.HasPrefix(authority, "["):
		return authority
	case ok:
		return host + "-shadow:" + port
	}
	return authority + "-shadow"
}

// mirrorURL keeps the bytes of a path, but for one that begins like an
// authority, which net/http would take for one.
func mirrorURL(path, target string) *url.URL {
	out := &url.URL{Scheme: "http", Opaque: path}
	if strings.HasPrefix(path, "//") {
		if plain, err := url.PathUnescape(path); err == nil {
			out.Opaque, out.Path, out.RawPath = "", plain, path
		}
	}
	_, query, found := strings.Cut(target, "?")
	out.RawQuery, out.ForceQuery = query, found && query == ""
	return out
}

// sendCopies sends the copies: the request was received completely. As in
// Envoy, one whose body is larger than what is kept of it is not mirrored
// (source/common/router/router.cc, request_buffer_overflowed_).
func (x *exchange) sendCopies() {
	copies := x.copies
	x.copies = nil
	for _, c := range copies {
		if x.body != nil {
			body, ok := x.body.Whole()
			if !ok {
				c.decision.Reason = policy.ReasonOverload
				c.record(0, 0, "the body is larger than what is kept for copies ("+strconv.Itoa(message.MaxReplay>>10)+" KiB), or there was no memory for it")
				continue
			}
			c.body = body
			if len(x.body.Trailer) > 0 {
				c.request.Trailer = http.Header{}
				for _, f := range x.body.Trailer {
					c.request.Trailer.Add(strings.Clone(f.Name), strings.Clone(f.Value))
				}
			}
		}
		x.core.Mirrors.send(c)
	}
}

// send sends a copy and returns at once. What there is no room for is not sent.
func (m *Mirrors) send(c *requestCopy) {
	h := c.conn.Holder()
	if reason := m.take(h, int64(len(c.body))); reason != "" {
		c.decision.Reason = reason
		c.record(0, 0, "too many copies are under way")
		return
	}
	give := func() { m.Copies.Give(h, 1); m.Memory.Give(h, int64(len(c.body))) }
	if c.timeout <= 0 {
		c.timeout = copyTimeout
	}
	ctx, stop := context.WithTimeout(m.core.ctx, c.timeout)
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		stop()
		give()
		return
	}
	m.open[c] = struct{}{}
	client := c.conn.mirrorClient()
	client.hold()
	m.wg.Go(func() {
		defer func() {
			stop()
			c.cancel(nil)
			client.release()
			give()
			m.mu.Lock()
			delete(m.open, c)
			m.mu.Unlock()
		}()
		client.do(c)
	})
}

func (m *Mirrors) take(h limits.Owner, body int64) policy.Reason {
	if reason := m.Copies.Take(h, 1); reason != "" {
		return reason
	}
	reason := m.Memory.Take(h, body)
	if reason != "" {
		m.Copies.Give(h, 1)
	}
	return reason
}

// recheck ends the copies that the newest policy does not let go where they go.
func (m *Mirrors) recheck() {
	m.mu.Lock()
	open := make([]*requestCopy, 0, len(m.open))
	for c := range m.open {
		open = append(open, c)
	}
	m.mu.Unlock()
	for _, c := range open {
		if !c.allowed(m.core.o.Decider.HTTP(&c.conn.Info, &c.original)) {
			c.cancel(errPolicyChanged)
		}
	}
}

// allowed says whether a decision has the mirror still.
func (c *requestCopy) allowed(d policy.HTTPDecision) bool {
	if d.Verdict == policy.Deny {
		return false
	}
	for i := range d.Mirrors {
		if m := &d.Mirrors[i]; m.Refused == "" && m.To.Upstream != nil && m.To.Destination == c.mirror.To.Destination {
			return true
		}
	}
	return false
}

// close ends all copies.
func (m *Mirrors) close() {
	m.mu.Lock()
	m.closed = true
	for c := range m.open {
		c.cancel(errDone)
	}
	m.mu.Unlock()
	m.wg.Wait()
}

// record records what became of the copy.
func (c *requestCopy) record(status int, received int64, detail string) {
	name := c.mirror.To.Destination.Host
	if c.to != nil {
		name = c.to.Host
	}
	e := c.conn.Event(flow.Mirror, c.decision, "http", name)
	e.Method, e.Path, e.Status, e.BytesReceived = c.original.Method, c.original.Path, status, received
	e.BytesSent, e.Duration = int64(len(c.body)), e.Time.Sub(c.start)
	e.WouldDeny = false
	if peer := c.peer.Load(); peer != nil {
		e.Upstream = *peer
	}
	e.Detail = "copy of a request to " + c.original.Authority
	if detail != "" {
		e.Detail += ": " + detail
	}
	c.conn.core.o.Sink.Record(e)
}

// mirrorClient has the connections by which the copies of one downstream
// connection go: they are the client's own, as those of its requests are.
type mirrorClient struct {
	conn         *client
	http1, http2 *http.Transport

	mu    sync.Mutex
	users int
	ended bool
	names map[upstream.ConnKey]string
}

func newMirrorClient(t *client) *mirrorClient {
	c := &mirrorClient{conn: t, names: map[upstream.ConnKey]string{}}
	c.http1, c.http2 = upstream.NewTransport(), upstream.NewTransport()
	c.http1.Protocols = new(http.Protocols)
	c.http1.Protocols.SetHTTP1(true)
	for _, transport := range [...]*http.Transport{c.http1, c.http2} {
		transport.DialContext = c.dial
		transport.MaxIdleConnsPerHost, transport.IdleConnTimeout = idleMirrorConns, mirrorIdle
	}
	return c
}

// mirrorClient is the connection's own.
func (t *client) mirrorClient() *mirrorClient {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.copies == nil {
		t.copies = newMirrorClient(t)
	}
	return t.copies
}

// CloseIdle closes the connections for copies that are idle; end: and the
// others when they are.
func (t *client) CloseIdle(end bool) {
	t.mu.Lock()
	c := t.copies
	t.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	c.ended = c.ended || end
	c.mu.Unlock()
	c.closeIdle()
}

func (c *mirrorClient) closeIdle() {
	c.http1.CloseIdleConnections()
	c.http2.CloseIdleConnections()
}

func (c *mirrorClient) hold() {
	c.mu.Lock()
	c.users++
	c.mu.Unlock()
}

func (c *mirrorClient) release() {
	c.mu.Lock()
	c.users--
	last := c.users == 0 && c.ended
	c.mu.Unlock()
	if last {
		c.closeIdle()
	}
}

// name stands for where a copy goes in the transports' pools.
func (c *mirrorClient) name(key upstream.ConnKey) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	name, ok := c.names[key]
	if !ok {
		name = "mirror-" + strconv.Itoa(len(c.names)) + ":80"
		c.names[key] = name
	}
	return name
}

// mirroredTo is the context key of the upstream to dial.
type mirroredTo struct{}

// dial makes a connection, which takes of the mirrors' budget.
func (c *mirrorClient) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	u, ok := ctx.Value(mirroredTo{}).(*policy.Upstream)
	if !ok {
		return nil, errors.New("forward: a copy without an upstream")
	}
	core, h := c.conn.core, c.conn.Holder()
	own := core.Mirrors.Conns
	if reason := own.Take(h, 1); reason != "" {
		return nil, &limits.ExceededError{Reason: reason, Text: "too many connections to mirrors are open", Budget: own}
	}
	one := limits.Cost{Descriptors: 1}
	if err := core.o.Limits.Take(h, one); err != nil {
		own.Give(h, 1)
		return nil, err
	}
	give := func() { own.Give(h, 1); core.o.Limits.Give(h, one) }
	ctx, cancel := context.WithTimeout(ctx, core.clusters.ConnectTimeout(u))
	defer cancel()
	nc, err := core.o.Dialer.Dial(ctx, &c.conn.Info, u)
	if err != nil {
		give()
		return nil, &upstream.DialError{Err: err}
	}
	upstream.SetUserTimeout(nc)
	return &leasedConn{Conn: nc, give: sync.OnceFunc(give)}, nil
}

// leasedConn gives back what it has taken when it is closed.
type leasedConn struct {
	net.Conn
	give func()
}

func (c *leasedConn) Close() error {
	defer c.give()
	return c.Conn.Close()
}

// do sends the copy, and drops the answer.
func (c *mirrorClient) do(r *requestCopy) {
	transport, http2 := c.http1, r.to.Protocol == policy.ProtocolHTTP2 || r.to.Protocol == policy.ProtocolGRPC
	if http2 {
		transport = c.http2
	}
	on, err := c.conn.Ups.Draw(func() context.Context { return r.ctx }, r.to, nil, nil)
	if err != nil {
		r.failed(err)
		return
	}
	defer on.End()
	ctx := context.WithValue(r.ctx, mirroredTo{}, on.Upstream)
	ctx = r.traced(ctx)
	req := r.request.WithContext(ctx)
	req.URL.Host = c.name(upstream.KeyOf(on.Upstream, http2))
	if r.body != nil {
		req.Body = io.NopCloser(bytes.NewReader(r.body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.body)), nil }
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		r.failed(err)
		return
	}
	n, err := io.CopyN(io.Discard, resp.Body, maxDrain)
	resp.Body.Close()
	if err != nil && !errors.Is(err, io.EOF) && r.ctx.Err() != nil {
		r.failed(err)
		return
	}
	r.record(resp.StatusCode, n, "")
}

// failed records a copy without an answer.
func (c *requestCopy) failed(err error) {
	switch cause := context.Cause(c.ctx); {
	case errors.Is(cause, errPolicyChanged):
		c.decision = session.Denied(policy.ReasonPolicyChanged, c.decision.Rule)
	case errors.Is(cause, context.DeadlineExceeded):
		c.decision.Reason = policy.ReasonTimeout
	case upstream.IsDialError(err) || limits.IsExceeded(err):
		if c.decision.Reason = session.DialReason(err); dial.Refused(err) {
			c.decision.Verdict = policy.Deny
		}
	default:
		c.decision.Reason = closedReason(err)
	}
	c.record(0, 0, err.Error())
}

// traced has the address that is dialled known.
func (c *requestCopy) traced(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		peer := relay.AddrPort(i.Conn.RemoteAddr())
		c.peer.Store(&peer)
	}})
}
