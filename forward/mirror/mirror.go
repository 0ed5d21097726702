// SPDX-License-Identifier: Apache-2.0

// Package mirror sends copies of requests to the mirrors of their rules. Nobody waits
// for their answers, and they take nothing of what requests need but descriptors.
package mirror

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/dial"
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
	// maxAnswer is how much of an answer is read so that its connection can be used
	// again, in bytes.
	maxAnswer = 64 << 10
)

// Options are what Mirrors work with. All must be set.
type Options struct {
	Decider  downstream.Decider
	Dialer   upstream.Dialer
	Clusters *upstream.ClusterManager
	Limits   *limits.Limits
	Sink     flow.Sink
}

// Causes of the end of a copy.
var (
	errCopyDenied  = errors.New("the policy changed")
	errCopiesEnded = errors.New("request ended")
)

// Mirrors are the copies that are under way. It is safe for concurrent use.
type Mirrors struct {
	o                     Options
	ctx                   context.Context // ends with them; dials hang on it
	end                   context.CancelFunc
	Copies, Memory, Conns *limits.Budget
	// generation counts Recheck calls: a copy that was decided under an older one is
	// decided again before it goes.
	generation atomic.Uint64

	mu     sync.Mutex
	open   map[*Copy]struct{}
	closed bool
	wg     sync.WaitGroup
}

// New has no copies yet. Close ends it.
func New(o Options) *Mirrors {
	ctx, end := context.WithCancel(context.Background())
	return &Mirrors{
		o: o, ctx: ctx, end: end, Copies: limits.NewBudget(maxCopies), Memory: limits.NewBudget(maxCopyMemory), Conns: limits.NewBudget(maxMirrorConns),
		open: map[*Copy]struct{}{},
	}
}

// NewCopy is a copy of original for a mirror, which has no timeout of its own where
// that is 0.
func NewCopy(m *Mirrors, t *session.Session, to *policy.Mirrored, original policy.Request, timeout time.Duration) *Copy {
	return &Copy{
		sink: m.o.Sink, conn: t, mirror: to, Original: original, timeout: timeout, start: time.Now(),
		Decision: policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonAllowed, Rule: to.Rule},
	}
}

// Copy is the copy of a request that a mirror gets.
type Copy struct {
	sink     flow.Sink
	conn     *session.Session
	To       *policy.Upstream
	mirror   *policy.Mirrored
	Original policy.Request // as it was decided
	Decision policy.Decision
	// Generation is that of the Mirrors before the request was decided.
	Generation uint64
	Request    *http.Request
	Body       []byte
	timeout    time.Duration
	start      time.Time
	cancel     context.CancelCauseFunc
	ctx        context.Context
	peer       atomic.Pointer[netip.AddrPort]
}

// Send sends a copy and returns at once. What there is no room for is not sent.
func (m *Mirrors) Send(c *Copy, client *ClientConns) {
	h := c.conn.Holder()
	if reason := m.take(h, int64(len(c.Body))); reason != "" {
		c.Decision.Reason = reason
		c.Record(0, 0, "too many copies are under way")
		return
	}
	give := func() { m.Copies.Give(h, 1); m.Memory.Give(h, int64(len(c.Body))) }
	if c.timeout <= 0 {
		c.timeout = copyTimeout
	}
	ctx, stop := context.WithTimeout(m.ctx, c.timeout)
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		stop()
		give()
		return
	}
	m.open[c] = struct{}{}
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
		// It is known to Recheck, but may have been decided before the last one.
		if m.generation.Load() != c.Generation && !m.stays(c) {
			c.cancel(errCopyDenied)
			c.failed(errCopyDenied)
			return
		}
		client.do(c)
	})
}

// Generation is to be read before a request is decided, for its copies.
func (m *Mirrors) Generation() uint64 { return m.generation.Load() }

// stays says whether the newest policy has a copy go where it goes.
func (m *Mirrors) stays(c *Copy) bool {
	return c.allowed(m.o.Decider.HTTP(&c.conn.Info, &c.Original))
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

// Recheck ends the copies that the newest policy does not let go where they go.
func (m *Mirrors) Recheck() {
	m.generation.Add(1)
	m.mu.Lock()
	open := make([]*Copy, 0, len(m.open))
	for c := range m.open {
		open = append(open, c)
	}
	m.mu.Unlock()
	for _, c := range open {
		if !m.stays(c) {
			c.cancel(errCopyDenied)
		}
	}
}

// allowed says whether a decision has the mirror still.
func (c *Copy) allowed(d policy.HTTPDecision) bool {
	if d.Verdict == policy.Deny {
		return false
	}
	for i := range d.Mirrors {
		if m := &d.Mirrors[i]; m.Refused == "" && m.To.Upstream != nil && m.Leads(c.mirror) {
			return true
		}
	}
	return false
}

// Close ends all copies.
func (m *Mirrors) Close() {
	m.mu.Lock()
	m.closed = true
	for c := range m.open {
		c.cancel(errCopiesEnded)
	}
	m.mu.Unlock()
	m.wg.Wait()
	m.end()
}

// Record records what became of the copy.
func (c *Copy) Record(status int, received int64, detail string) {
	name := c.mirror.To.Destination.Host
	if c.To != nil {
		name = c.To.Host
	}
	e := c.conn.Event(flow.Mirror, c.Decision, "http", name)
	e.Method, e.Path, e.Status, e.BytesReceived = c.Original.Method, c.Original.Path, status, received
	e.BytesSent, e.Duration = int64(len(c.Body)), e.Time.Sub(c.start)
	e.WouldDeny, e.Gateway = false, c.mirror.Gateway()
	if peer := c.peer.Load(); peer != nil {
		e.Upstream = *peer
	}
	e.Detail = "copy of a request to " + c.Original.Authority
	if detail != "" {
		e.Detail += ": " + detail
	}
	c.sink.Record(&e)
}

// ClientConns has the connections by which the copies of one downstream
// connection go: they are the client's own, as those of its requests are.
type ClientConns struct {
	conn         *session.Session
	mirrors      *Mirrors
	http1, http2 *http.Transport

	mu    sync.Mutex
	users int
	ended bool
	names map[upstream.ConnKey]string
	last  int // the number of the last name
}

// NewClientConns has no connections yet.
func NewClientConns(t *session.Session, m *Mirrors) *ClientConns {
	c := &ClientConns{conn: t, mirrors: m, names: map[upstream.ConnKey]string{}}
	c.http1, c.http2 = upstream.NewTransport(upstream.UsualPing), upstream.NewTransport(upstream.UsualPing)
	c.http1.Protocols = new(http.Protocols)
	c.http1.Protocols.SetHTTP1(true)
	for _, transport := range [...]*http.Transport{c.http1, c.http2} {
		transport.DialContext = c.dial
		transport.MaxIdleConnsPerHost, transport.IdleConnTimeout = idleMirrorConns, mirrorIdle
	}
	return c
}

// CloseIdle closes those that are idle, and has no further copy use the others; end:
// and closes them when they are idle.
func (c *ClientConns) CloseIdle(end bool) {
	c.mu.Lock()
	c.ended = c.ended || end
	clear(c.names)
	c.mu.Unlock()
	c.closeIdle()
}

func (c *ClientConns) closeIdle() {
	c.http1.CloseIdleConnections()
	c.http2.CloseIdleConnections()
}

func (c *ClientConns) hold() {
	c.mu.Lock()
	c.users++
	c.mu.Unlock()
}

func (c *ClientConns) release() {
	c.mu.Lock()
	c.users--
	last := c.users == 0 && c.ended
	c.mu.Unlock()
	if last {
		c.closeIdle()
	}
}

// name stands for where a copy goes in the transports' pools.
func (c *ClientConns) name(key upstream.ConnKey) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	name, ok := c.names[key]
	if !ok {
		c.last++
		name = "mirror-" + strconv.Itoa(c.last) + ":80"
		c.names[key] = name
	}
	return name
}

// mirroredTo is the context key of the upstream to dial.
type mirroredTo struct{}

// dial makes a connection, which takes of the mirrors' budget.
func (c *ClientConns) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	u, ok := ctx.Value(mirroredTo{}).(*policy.Upstream)
	if !ok {
		return nil, errors.New("mirror: a copy without an upstream")
	}
	m, h := c.mirrors, c.conn.Holder()
	own := m.Conns
	if reason := own.Take(h, 1); reason != "" {
		return nil, &limits.ExceededError{Reason: reason, Text: "too many connections to mirrors are open", Budget: own}
	}
	one := limits.Cost{Descriptors: 1}
	if err := m.o.Limits.Take(h, one); err != nil {
		own.Give(h, 1)
		return nil, err
	}
	give := func() { own.Give(h, 1); m.o.Limits.Give(h, one) }
	ctx, cancel := context.WithTimeout(ctx, m.o.Clusters.ConnectTimeout(u))
	defer cancel()
	nc, err := m.o.Clusters.Dial(ctx, &c.conn.Info, u, upstream.ALPN(speaksHTTP2(u)))
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

// speaksHTTP2 says whether copies go to u in HTTP/2.
func speaksHTTP2(u *policy.Upstream) bool {
	return u.Protocol == policy.ProtocolHTTP2 || u.Protocol == policy.ProtocolGRPC
}

// do sends the copy, and drops the answer.
func (c *ClientConns) do(r *Copy) {
	transport, http2 := c.http1, speaksHTTP2(r.To)
	if http2 {
		transport = c.http2
	}
	on, err := c.conn.Ups.Draw(func() context.Context { return r.ctx }, r.To, nil, nil)
	if err != nil {
		r.failed(err)
		return
	}
	defer on.End()
	ctx := context.WithValue(r.ctx, mirroredTo{}, on.Upstream)
	ctx = r.traced(ctx)
	req := r.Request.WithContext(ctx)
	req.URL.Host = c.name(upstream.KeyOf(on.Upstream, http2))
	if r.Body != nil {
		req.Body = io.NopCloser(bytes.NewReader(r.Body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil }
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		r.failed(err)
		return
	}
	n, err := io.CopyN(io.Discard, resp.Body, maxAnswer)
	resp.Body.Close()
	if err != nil && !errors.Is(err, io.EOF) && r.ctx.Err() != nil {
		r.failed(err)
		return
	}
	r.Record(resp.StatusCode, n, "")
}

// failed records a copy without an answer.
func (c *Copy) failed(err error) {
	switch cause := context.Cause(c.ctx); {
	case errors.Is(cause, errCopyDenied):
		c.Decision = session.Denied(policy.ReasonPolicyChanged, c.Decision.Rule)
	case errors.Is(cause, context.DeadlineExceeded):
		c.Decision.Reason = policy.ReasonTimeout
	case upstream.IsDialError(err) || limits.IsExceeded(err):
		if c.Decision.Reason = session.DialReason(err); dial.Refused(err) {
			c.Decision.Verdict = policy.Deny
		}
	default:
		c.Decision.Reason = upstream.ClosedReason(err)
	}
	c.Record(0, 0, err.Error())
}

// traced has the address that is dialled known.
func (c *Copy) traced(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		peer := relay.AddrPort(i.Conn.RemoteAddr())
		c.peer.Store(&peer)
	}})
}
