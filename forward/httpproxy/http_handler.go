// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/mirror"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Causes of an exchange's context.
var (
	errPolicyChanged = errors.New("the policy changed")
	errRouteTimeout  = errors.New("upstream request timeout")
	errPerTry        = errors.New("upstream request timeout (one try)")
	errStalled       = errors.New("nothing moved for too long")
	errTooOld        = errors.New("the request was under way for as long as it may be (--max-stream-duration)")
	errDone          = errors.New("request ended")
)

// exchange is one HTTP request and its answer.
type exchange struct {
	core   *Proxy
	conn   *client
	h1     *http1Conn // nil: HTTP/2
	w      answer
	r      *message.Incoming
	life   *life
	start  time.Time
	number int64 // of the request on its connection

	target   string // of the request, as it came
	scratch  *scratch
	req      policy.Request
	decision policy.HTTPDecision
	// generation is that of the mirrors before it was decided.
	generation uint64
	body       *message.ReplayBody // nil: no body
	senders    sync.WaitGroup      // of it
	try        try
	informed   int      // informational answers to it, from all attempts
	answered   bool     // a final status was written
	lingers    bool     // the connection ends with it, whatever is still to be read
	releases   []func() // of the attempts' contexts
	held       *limits.Lease

	stall stall
	up    attempted
	tried []upstream.ConnKey // by attempts before
	// previous are the priorities of their endpoints; nil: they do not count.
	previous *balance.PreviousPriorities
	// on is where the attempt at hand is, retrying the service whose retry this is,
	// cookie what the client gets to be sent to the same endpoint.
	on       upstream.Drawn
	retrying *upstream.Balanced
	cookie   string
	// copies are for the mirrors, until the request was received; routed says that
	// its rule's CORS policy is on the way of its answer.
	copies []*mirror.Copy
	routed bool
	flags  []string // response flags beside those of the reason

	timerMu sync.Mutex
	timer   *time.Timer // the route's timeout, once the request is complete
	ended   bool        // no timer may start any more

	// For the event.
	reason   policy.Reason
	detail   string
	status   int
	retries  int
	upstream upstreamSeen
	// to is what the request went to, headAfter how long after the start the head of the
	// answer came; 0: none did.
	to        *policy.Upstream
	headAfter time.Duration
	span      session.Span // nil: none
	// traced says that it was asked for; requestID is the x-request-id that was made.
	traced    bool
	requestID string
	// tunnelled is what the client sent after a protocol switch, in bytes.
	tunnelled int64
}

// newExchange is an exchange of HTTP/2.
func newExchange(h *httpConn, w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{
		core: h.conn.core, conn: h.conn, w: newHTTP2Answer(w), r: message.RequestOf(r), life: &life{}, scratch: &scratch{},
		start: time.Now(), target: r.RequestURI, number: h.requests.Load(),
	}
	x.stall.x = x
	if r.ContentLength != 0 {
		x.body = message.NewReplayBody(r.Body, x.received, x.keep, x.forget, x.stall.moved)
	}
	x.life.of = x
	x.life.begin(r.Context())
	x.release(x.stopOnEnd(r.Context())) // last: it may be interrupted from here on
	return x
}

// stopOnEnd has the exchange be interrupted when ctx ends. forget waits for an
// interruption that is under way: net/http's answer, of which it sets the deadline, is
// gone when the handler has returned, and would be a nil pointer in a goroutine that
// nothing catches the panic of.
func (x *exchange) stopOnEnd(ctx context.Context) (forget func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		x.interrupt()
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// context ends with the exchange.
func (x *exchange) context() context.Context { return x.life.context() }

// cancel ends the exchange before its time.
func (x *exchange) cancel(cause error) { x.life.end(cause) }

// interrupt ends what the exchange waits for.
func (x *exchange) interrupt() {
	x.up.end()
	x.stall.unblock()
}

// moved says that something has happened.
func (x *exchange) moved() {
	if x.h1 != nil {
		x.h1.moved()
	}
}

// serve decides about the request and answers it.
func (x *exchange) serve() {
	if err := x.parse(); err != nil {
		x.decision.Decision = session.Denied(policy.ReasonMalformed, nil)
		if errors.Is(err, message.ErrNoHost) {
			x.decision.Reason = policy.ReasonNoName
		}
		x.detail = err.Error()
		x.closes()
		x.reply(http.StatusBadRequest, "egressd: bad request: "+err.Error())
		return
	}
	if err := x.takeMemory(); err != nil {
		x.limited(err)
		return
	}
	x.stall.start()
	x.generation = x.core.Mirrors.Generation()
	x.conn.addRequest(x) // before the decision: Recheck can't miss it
	if cause := x.life.why(); cause != nil {
		x.aborted(cause) // its connection was ended before, and did not know of it
	}
	x.decision = x.core.o.Decider.HTTP(&x.conn.Info, &x.req)
	if x.decision.Verdict == policy.Deny {
		x.deny(x.decision.Reason, x.req.Host)
		return
	}
	if why := message.Unclear(x.req.Path); x.decision.Action != nil && why != "" {
		// A rule has looked at this path, and the server may serve another.
		x.decision.Decision = session.Denied(policy.ReasonMalformed, nil)
		x.detail = why
		x.reply(http.StatusBadRequest, "egressd: bad request: "+x.detail)
		return
	}
	x.act()
}

// takeMemory takes what the request may cost. A connection has paid for the one
// request at a time that HTTP/1 has, but for a head that is not a usual one.
func (x *exchange) takeMemory() error {
	n := headMemory(x.r.Header)
	if x.r.ProtoMajor != 1 {
		n += StreamMemory
	}
	return x.takeMore(n)
}

// takeMore takes n more bytes.
func (x *exchange) takeMore(n int64) error {
	if n == 0 {
		return nil
	}
	if x.held == nil {
		x.held = x.conn.Lease()
	}
	return x.held.Take(0, n)
}

// keep says whether n more bytes of the body may be kept for another attempt.
func (x *exchange) keep(n int) bool { return x.takeMore(int64(n)) == nil }

// forget gives back what keep has taken.
func (x *exchange) forget(n int) { x.held.Give(0, int64(n)) }

// limited answers when a limit is reached.
func (x *exchange) limited(err error) {
	x.decision.Verdict, x.reason, x.detail = policy.Deny, session.DialReason(err), err.Error()
	if x.reason == policy.ReasonOverflow {
		x.w.Header().Set("X-Envoy-Overloaded", "true") // Envoy's router says so
	}
	x.reply(http.StatusServiceUnavailable, "egressd: "+err.Error()+" ("+string(x.reason)+")")
}

// parse fills x.req, or says why the request is refused.
func (x *exchange) parse() error {
	r := x.r
	if x.h1 == nil && !(http1.ValidMethod(r.Method) && http1.Valid(r.Header)) {
		return errors.New("a method or field that HTTP/1 can't say")
	}
	if err := message.CheckTarget(r.Method, x.target); err != nil {
		return err
	}
	if i := r.Header.Index("Host", 0); x.h1 == nil && i >= 0 { // HTTP/2 beside :authority
		if r.Header.Index("Host", i+1) >= 0 || !strings.EqualFold(r.Header[i].Value, r.Host) {
			return errors.New("host and :authority differ")
		}
	}
	host, err := x.host()
	if err != nil {
		return err
	}
	path, rawQuery, _ := strings.Cut(x.target, "?")
	var query url.Values
	if rawQuery != "" {
		// What can't be parsed is not there to match; it is forwarded as sent.
		query, _ = url.ParseQuery(rawQuery)
	}
	x.req = policy.Request{
		Method:    r.Method,
		Scheme:    x.conn.Scheme(),
		Authority: r.Host,
		Host:      host,
		Path:      path,
		Query:     query,
		Header:    r.Header,
		Port:      x.conn.Info.Dst.Port(),
		Visitor:   x.conn.visitor(r.Header),
		Draw:      x.core.o.Rand(),
	}
	return nil
}

// host is the host that the request is for.
func (x *exchange) host() (string, error) {
	if x.h1 != nil {
		return x.h1.hostOf(x.r.Host)
	}
	host, _, err := message.ParseAuthority(x.r.Host)
	return host, err
}

// deny answers a denial of name.
func (x *exchange) deny(reason policy.Reason, name string) {
	x.decision.Verdict, x.reason = policy.Deny, reason
	if x.conn.Info.Layer == flow.Ingress {
		name = x.req.Host // a visitor is not told of names behind the gateway
	}
	noRoute := reason == policy.ReasonNoRoute ||
		x.conn.Info.Layer == flow.Ingress && (reason == policy.ReasonName || reason == policy.ReasonNoRule)
	if noRoute {
		x.reply(http.StatusNotFound, "egressd: no route for "+name)
		return
	}
	if reason == policy.ReasonMisdirected {
		x.reply(http.StatusMisdirectedRequest, "egressd: "+name+" is not served on this connection; connect again with this name")
		return
	}
	if reason == policy.ReasonAuthorization || reason == policy.ReasonNoAllow {
		x.reply(http.StatusForbidden, "RBAC: access denied") // Istio's answer, which people look for
		return
	}
	x.reply(http.StatusBadGateway, "egressd: "+name+" is not allowed ("+string(reason)+")")
}

// fail answers when no upstream response could be had.
func (x *exchange) fail(err error) {
	var bad *http1.MalformedError
	switch cause := x.life.why(); {
	case errors.Is(cause, errRouteTimeout) || errors.Is(err, errRouteTimeout) || errors.Is(err, errPerTry):
		x.reason = policy.ReasonTimeout
		x.reply(http.StatusGatewayTimeout, "upstream request timeout")
	case errors.Is(cause, errStalled):
		x.reason, x.detail = policy.ReasonStreamIdle, cause.Error()
		x.late("stream timeout")
	case errors.Is(cause, errTooOld):
		x.reason, x.detail = policy.ReasonStreamDuration, cause.Error()
		x.late("downstream duration timeout")
	case cause != nil:
		x.aborted(cause)
	case x.body != nil && x.body.Failed():
		x.reason, x.detail = policy.ReasonMalformed, "request body: "+err.Error()
		x.reply(http.StatusBadRequest, "egressd: bad request body")
	case dial.Refused(err):
		x.detail = err.Error()
		x.deny(session.DialReason(err), x.req.Host)
	case limits.IsExceeded(err):
		x.limited(err)
	case upstream.IsDialError(err):
		x.reason = session.DialReason(err)
		x.note(err.Error())
		text := err.Error()
		if x.conn.Info.Layer == flow.Ingress {
			text = publicText(err) // a visitor is not told of addresses behind the gateway
		}
		x.reply(http.StatusServiceUnavailable, "egressd: "+x.req.Host+": "+text)
	case errors.Is(err, upstream.ErrSpent) && x.r.ProtoMajor == 1 && x.number > 1:
		// A client knows that this happens to connections that it uses again, and
		// what it may send once more; an answer of ours would tell it otherwise.
		x.reason, x.detail = policy.ReasonUpstreamClosed, err.Error()
		panic(http.ErrAbortHandler)
	case errors.As(err, &bad) || upstream.ClosedReason(err) == policy.ReasonUpstreamProtocol:
		x.reason, x.detail = policy.ReasonUpstreamProtocol, err.Error()
		x.reply(http.StatusBadGateway, "egressd: "+x.req.Host+": the upstream's answer is not HTTP")
	default:
		x.reason = upstream.ClosedReason(err)
		x.note(err.Error())
		x.reply(http.StatusServiceUnavailable, "egressd: "+x.req.Host+": the upstream closed the connection before it answered")
	}
}

// publicText is what a dial error is about, without addresses.
func publicText(err error) string {
	if errors.Is(err, dial.ErrResolve) {
		return dial.ErrResolve.Error()
	}
	return dial.ErrConnect.Error()
}

// late answers a request whose time is over: 408 when the client owes the rest of it,
// 504 when the origin owes the answer (Envoy's source/common/http/conn_manager_impl.cc,
// onIdleTimeout and onStreamMaxDurationReached), or has not taken the body, for which
// Envoy has 408.
func (x *exchange) late(text string) {
	switch {
	case x.body == nil || x.body.Complete():
	case x.stall.untaken:
		x.detail += ": the upstream did not take the request's body"
	default:
		x.detail += ": the request's body did not come"
		x.reply(http.StatusRequestTimeout, text)
		return
	}
	x.reply(http.StatusGatewayTimeout, text)
}

// aborted ends the exchange without an answer: the policy changed, the
// connection was killed, or the client has gone.
func (x *exchange) aborted(cause error) {
	switch {
	case errors.Is(cause, errPolicyChanged):
		x.decision.Verdict, x.reason = policy.Deny, policy.ReasonPolicyChanged
	case errors.Is(cause, errRouteTimeout):
		x.reason = policy.ReasonTimeout
	case errors.Is(cause, errStalled):
		x.reason, x.detail = policy.ReasonStreamIdle, cause.Error()
	case errors.Is(cause, errTooOld):
		x.reason, x.detail = policy.ReasonStreamDuration, cause.Error()
	default:
		x.reason = policy.ReasonClientGone
		x.note("the client went away")
		if reason, detail := x.conn.KillReason(); reason != "" {
			x.reason, x.detail = policy.ReasonAllowed, detail
			if reason != policy.ReasonAllowed {
				x.decision.Verdict, x.reason = policy.Deny, reason
			}
		}
	}
	panic(http.ErrAbortHandler)
}

// end records the request, also after a panic with http.ErrAbortHandler.
func (x *exchange) end() {
	x.stopTimer()
	x.stall.stop()
	if x.h1 != nil && x.lingers {
		x.h1.unread = true
	}
	x.conn.removeRequest(x)
	x.cancel(errDone)
	if x.body != nil {
		x.stopSenders()
	}
	s := x.core.o.Observations.Get()
	defer x.core.o.Observations.Put(s)
	x.describe(&s.Event)
	if x.observed() {
		x.observe(s) // while the fields are there
	}
	x.settle()
	x.giveRetry()
	for _, release := range x.releases {
		release()
	}
	if x.held != nil {
		x.held.End()
	}
	x.core.o.Sink.Record(&s.Event)
}

// describe says what the request was, and how it ended.
func (x *exchange) describe(e *flow.Event) {
	took := time.Since(x.start) // reads one clock, where time.Now reads two
	at := x.start.Add(took)
	if took > time.Minute {
		at = time.Now() // which may have been set meanwhile
	}
	x.conn.Describe(e, at, flow.Request, &x.decision.Decision, "http", x.req.Host)
	if x.reason != "" && e.Reason != x.reason {
		e.Reason, e.WouldDeny = x.reason, e.WouldDeny && x.reason == policy.ReasonAllowed
	}
	e.Detail = x.detail
	e.Method, e.Path = x.r.Method, x.req.Path
	e.Status, e.Retries = x.status, x.retries
	e.ResponseFlags, e.StatPrefix = strings.Join(x.flags, ","), x.decision.StatPrefix()
	if a := x.decision.Action; a != nil {
		e.Route, e.RouteName, e.Timeout = &a.Rule.Ref, a.Rule.Name, a.Rule.Timeout
	}
	if x.to != nil {
		e.Destination, e.Subset = x.to.Host, x.to.Subset
	}
	e.Gateway = x.decision.Gateway()
	e.Upstream = x.upstream.peer
	e.BytesReceived = x.upstream.received.Load()
	e.BytesSent = x.tunnelled
	if x.body != nil {
		e.BytesSent += x.body.Count()
	}
	e.Duration = took
	e.Flag()
}

// lastWrite is how long the end of a request's body may take to be sent when its
// answer is complete already.
const lastWrite = 100 * time.Millisecond

// stopSenders waits for those that send the request's body. One that waits for the
// rest of it, or for an upstream that does not take it, waits in vain. net/http's
// goroutine, which sends it in HTTP/2, may be there for longer, and reads no more.
func (x *exchange) stopSenders() {
	defer x.body.End()
	defer x.senders.Wait()
	c := x.up.conn
	if !x.body.Complete() {
		x.w.SetReadDeadline(relay.LongAgo)
		if c != nil {
			c.Interrupt()
		}
	} else if c != nil && c.HTTP1 != nil && !c.HTTP1.Sent.Load() {
		timer := time.AfterFunc(lastWrite, c.Interrupt)
		x.senders.Wait()
		if !timer.Stop() {
			c.Finish()
		}
	}
}

// release has f called when the exchange ends.
func (x *exchange) release(f func()) { x.releases = append(x.releases, f) }

// reply answers from here, with a plain text; to gRPC clients it speaks in
// statuses (as Envoy's local replies do). No line ends the text: those that
// Envoy has as well are the same, byte for byte.
func (x *exchange) reply(status int, text string) {
	h := x.w.Header()
	if strings.HasPrefix(x.r.Header.Get("Content-Type"), "application/grpc") {
		x.replyGRPC(grpcStatus(status, x.decision.Verdict == policy.Deny), text)
		return
	}
	x.ours(h)
	if x.routed {
		x.share(h) // as Envoy's answers get it
	}
	if bodyAllowed(status) {
		h.Set("Content-Type", "text/plain")
		h.Set("Content-Length", strconv.Itoa(len(text))) // for HEAD as well
	}
	x.writeStatus(status)
	if x.r.Method != http.MethodHead && bodyAllowed(status) {
		_, _ = io.WriteString(x.w, text) // a client that went away
	}
}

// writeStatus writes the final status. An HTTP/1 connection ends with an answer
// to a request that was not received to its end: what is on its way must not be
// read as another request.
func (x *exchange) writeStatus(status int) {
	if x.body != nil && !x.body.Complete() {
		x.closes()
	}
	x.answered, x.status = true, status
	x.stall.began.Store(true)
	x.w.WriteHeader(status)
}

// closes has an HTTP/1 connection end with this answer.
func (x *exchange) closes() {
	if x.r.ProtoMajor == 1 {
		x.w.Header().Set("Connection", "close")
		x.lingers = true
	}
}
