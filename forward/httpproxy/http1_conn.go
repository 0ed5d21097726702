// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"errors"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// http1Phase is what a connection of HTTP/1 is at.
type http1Phase uint32

const (
	waits   http1Phase = iota // for a request, or the rest of its head
	serves                    // a request
	tunnels                   // bytes, behind an upgrade
)

// outlook is how a connection goes on.
type outlook uint8

const (
	onward outlook = iota
	ending
	resting // see rest
)

// http1Conn is a client's connection of HTTP/1. One goroutine reads its requests,
// one after the other, and answers each.
type http1Conn struct {
	conn     *client
	nc       session.ByteStream
	opened   policy.Decision // about the connection
	src      relay.Stream
	raw      syscall.RawConn // of the bare connection, to be watched; nil: it has none
	reader   *http1.MessageReader
	requests int64
	unread   bool     // the last request was not read to its end: nothing more is read
	refused  *refusal // of the last head; nil: there was none
	waited   bool     // the last request waited for its upstream

	// Of the request at hand.
	head    http1.RequestHead
	r       message.Incoming
	body    requestBody
	x       *exchange
	answer  http1Answer
	life    life
	scratch scratch
	// What is used again when it does not change: events and keys keep it.
	method, target, authority string
	hostFor, host             string

	phase atomic.Uint32
	moves atomic.Uint32 // counts what happens
	// follows: there was more behind the request at hand when it had been read.
	follows atomic.Bool
	held    atomic.Int64 // src.count when phase began

	mu      sync.Mutex
	lost    bool // the upstream has ended the last of its connections
	over    bool // egressd ends the connection between two requests
	expired bool // the time of its phase is over
	woken   bool // a read was interrupted because of it
	rest    rest

	watch watch
	swept swept // the sweeper's
}

// scratch has what an exchange builds, to be used by the next one as well.
type scratch struct {
	out  message.Outgoing
	resp message.Response
}

// watch is how far a connection is watched.
type watch struct {
	seen   uint32 // moves at the last tick; the watcher's
	active atomic.Bool

	mu     sync.Mutex
	over   bool   // the connection has ended
	client uint64 // the numbers of watches
	ups    []upWatch
}

type upWatch struct {
	c  *upstream.HTTPConn
	id uint64
}

// swept is what the sweeper remembers of a connection.
type swept struct {
	moves uint32
	head  bool
	at    time.Time
}

func newHTTP1Conn(t *client, first []byte) *http1Conn {
	h := &http1Conn{conn: t, nc: t.Stream}
	h.src.Open(t.Stream)
	if h.raw = h.src.Raw; h.raw == nil { // what is within TLS has none
		h.raw = relay.Raw(t.NC) // without it nobody watches
	}
	h.reader = http1.NewMessageReader(&h.src, t.core.messages, true)
	h.reader.Room = t.room
	h.reader.Unread(first)
	h.src.Count.Store(int64(len(first)))
	h.life.of, h.life.alone = h, true
	h.body.h = h
	h.answer.h = h
	t.mu.Lock()
	t.http1 = h
	t.mu.Unlock()
	return h
}

// serve serves requests until the connection's end; or it rests.
func (h *http1Conn) serve() (rests bool) {
	h.x = new(exchange)
	sweeper := h.conn.core.sweeper
	sweeper.add(h)
	for next := onward; next != ending; next = h.next() {
		if next == resting {
			return true
		}
	}
	sweeper.remove(h)
	h.watch.mu.Lock()
	h.watch.over = true
	h.watch.mu.Unlock()
	h.disarm()
	h.answer.free()
	h.reader.Free()
	return false
}

// next serves one request.
func (h *http1Conn) next() outlook {
	if !h.enter(waits) {
		return ending
	}
	if h.waited && len(h.reader.Buffered()) == 0 {
		h.src.Yield()
	}
	h.waited = false
	for {
		head, err := h.reader.Head(http1.MaxRequestHead)
		if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			switch h.goesOn() {
			case onward:
				continue
			case resting:
				return resting
			}
			if h.reader.Within() {
				err = errLate
			}
		}
		if err == nil {
			err = h.head.Parse(head)
		} else {
			h.head = http1.RequestHead{Fields: h.head.Fields[:0]} // of the request before
		}
		if err != nil {
			h.refuse(err)
			return ending
		}
		break
	}
	h.enter(serves)
	h.requests++
	h.conn.core.requests.Add(1)
	if !h.exchange() {
		return ending
	}
	return onward
}

// enter begins a phase; false: the connection ends instead.
func (h *http1Conn) enter(p http1Phase) bool {
	if p == waits {
		h.trim()
	}
	goes := h.phases(p)
	h.moved() // not with h.mu
	return goes
}

func (h *http1Conn) phases(p http1Phase) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	within := h.reader.Within()
	if p == waits && !within && (h.isEnding() || h.expired) {
		return false
	}
	if p == serves {
		h.rest.asked, h.expired = false, false
	}
	if p == serves && h.woken {
		_ = h.nc.SetReadDeadline(time.Time{}) // fails on a closed connection, which is as good
		h.woken = false
	}
	n := h.src.Count.Load()
	if within {
		n-- // a part of the head has come
	}
	h.held.Store(n)
	h.phase.Store(uint32(p))
	return true
}

// wake has a connection that waits for a request look whether it goes on. h.mu is
// held.
func (h *http1Conn) wake() {
	if h.rest.now {
		h.rouse()
		return
	}
	if http1Phase(h.phase.Load()) == waits {
		h.woken = true
		_ = h.nc.SetReadDeadline(relay.LongAgo) // fails on a closed connection, which is as good
	}
}

// isEnding says whether the connection ends when it has no request under way. h.mu is
// held.
func (h *http1Conn) isEnding() bool {
	return h.lost || h.over || h.conn.core.lingering.Load()
}

// goesOn says how a connection that was woken goes on.
func (h *http1Conn) goesOn() outlook {
	ups := h.conn.Ups.List() // which has a lock of its own
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.nc.SetReadDeadline(time.Time{})
	h.woken = false
	switch {
	case h.expired || !h.reader.Within() && (h.lost || h.over):
		return ending
	case h.rests(ups):
		return resting
	}
	return onward
}

// endIdle ends the connection as soon as it has no request under way.
func (h *http1Conn) endIdle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	h.wake()
}

// upstreamLost says that the upstream has ended the last upstream connection, or
// that there is one again. A client that waits with its next request learns it.
func (h *http1Conn) upstreamLost(lost bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost = lost; lost {
		h.wake()
	}
}

// ends says whether the connection ends with the answer at hand.
func (h *http1Conn) ends() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.isEnding()
}

// sweep ends what has taken too long.
func (h *http1Conn) sweep(now time.Time) {
	s := &h.swept
	if h.conn.core.o.MaxStreamDuration > 0 && http1Phase(h.phase.Load()) != waits {
		h.conn.eachRequest(func(x *exchange) { x.stall.outlives(now) })
	}
	if moves := h.moves.Load(); moves != s.moves || s.at.IsZero() {
		*s = swept{moves: moves, at: now}
		return
	}
	o := &h.conn.core.o
	quiet := now.Sub(s.at)
	if http1Phase(h.phase.Load()) != waits {
		h.conn.eachRequest(func(x *exchange) { x.stall.check(quiet) })
		return
	}
	limit := o.IdleTimeout
	if h.src.Count.Load() != h.held.Load() { // of the head, whole
		if !s.head {
			s.head, s.at = true, now
			return
		}
		limit = o.PeekTimeout
	}
	if quiet < min(limit, o.RestAfter) || quiet < limit && s.head {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.moves.Load() != s.moves:
	case quiet >= limit:
		h.expired = true
		h.wake()
	default:
		h.askToRest()
	}
}

// moved says that something happens. Who is watched is so no more.
func (h *http1Conn) moved() {
	h.moves.Add(1)
	if !h.watch.active.Load() {
		h.disarm()
		if h.watch.active.CompareAndSwap(false, true) {
			h.conn.core.watcher.Activate(h)
		}
	}
}

// Tick has the connection watched when nothing has happened since the last tick.
func (h *http1Conn) Tick() bool {
	h.conn.Ups.Endure()
	moves := h.moves.Load()
	if moves != h.watch.seen {
		h.watch.seen = moves
		h.disarm()
		return true
	}
	h.arm()
	h.watch.active.Store(false)
	// What happened before the line above has not seen that it is watched.
	return h.moves.Load() != moves && h.watch.active.CompareAndSwap(false, true)
}

// arm watches the upstreams between two requests, and the client within one.
func (h *http1Conn) arm() {
	ups := h.conn.Ups.List()
	h.watch.mu.Lock()
	defer h.watch.mu.Unlock()
	if h.watch.over {
		return
	}
	w := h.conn.core.watcher
	switch http1Phase(h.phase.Load()) {
	case tunnels:
		return // who copies sees the ends, behind what came before them
	case serves:
		if h.watch.client == 0 && h.raw != nil && h.answer.received.Load() {
			h.watch.client = w.Add(h.raw, unix.EPOLLRDHUP, h.clientEvent, false)
		}
		return
	}
	for _, c := range ups {
		if c.HTTP1 != nil && c.HTTP1.Stream.Raw != nil {
			if id := w.Add(c.HTTP1.Stream.Raw, unix.EPOLLIN|unix.EPOLLRDHUP, func(uint32) { c.IdleEvent() }, false); id != 0 {
				h.watch.ups = append(h.watch.ups, upWatch{c, id})
			}
		}
	}
}

func (h *http1Conn) disarm() {
	h.watch.mu.Lock()
	defer h.watch.mu.Unlock()
	w := h.conn.core.watcher
	w.Remove(h.raw, h.watch.client)
	for _, u := range h.watch.ups {
		w.Remove(u.c.HTTP1.Stream.Raw, u.id)
	}
	clear(h.watch.ups)
	h.watch.client, h.watch.ups = 0, h.watch.ups[:0]
}

// tunnel has nobody watch the connection any more: the client's end is passed on
// behind what it has sent, of which a part may be on its way in egressd.
func (h *http1Conn) tunnel() {
	h.phase.Store(uint32(tunnels))
	h.disarm()
}

// clientEvent is called when the client has ended its side, or is gone, while its
// request is under way. The end of what it sends is no end of the connection: it may
// wait for its answer (RFC 9112, 9.6), and its upstream is told as it would be
// without egressd.
func (h *http1Conn) clientEvent(events uint32) {
	h.watch.mu.Lock()
	id := h.watch.client
	if id != 0 && events&(unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		// A client that has gone resets the connection (tcp(7), tcp_fin_timeout).
		h.watch.client = h.conn.core.watcher.Add(h.raw, 0, h.clientEvent, true)
		h.conn.core.watcher.Forget(id)
	}
	h.watch.mu.Unlock()
	if id == 0 {
		return
	}
	h.conn.eachRequest(func(x *exchange) {
		if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			x.cancel(errClientGone)
			return
		}
		if http1Phase(h.phase.Load()) == serves && h.src.Ended() && !h.follows.Load() {
			x.passClientEnd()
		}
	})
}

// interrupt ends what the exchange at hand waits for.
func (h *http1Conn) interrupt() { h.x.interrupt() }

// exchange answers the request at hand. False: the connection ends.
func (h *http1Conn) exchange() (ok bool) {
	h.take()
	x := h.x
	h.life.begin(h.conn.Ctx)
	x.again(h)
	if h.r.ContentLength != 0 {
		x.body = message.NewReplayBody(&h.body, x.received, x.keep, x.forget, x.stall.moved)
	}
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler { //nolint:errorlint // a panic's value
				h.conn.core.o.Log.Error("a request has met a fault in egressd; its connection is closed", "panic", v, "stack", string(debug.Stack()))
			}
			ok = false
		}
	}()
	defer x.end()
	x.serve()
	ok = h.answer.finish()
	h.unread = h.unread || !h.answer.received.Load()
	return ok
}

// again makes x the exchange of the request at hand. It is written in its place: one
// that was built on the stack would be a kilobyte that each connection has of its own.
//
//go:noinline
func (x *exchange) again(h *http1Conn) {
	*x = exchange{}
	x.core, x.conn, x.h1, x.w, x.r, x.life, x.scratch = h.conn.core, h.conn, h, &h.answer, &h.r, &h.life, &h.scratch
	x.start, x.target, x.number = x.core.clock.now(), h.target, h.requests
	x.stall.x = x
}

// take makes h.r of the head.
func (h *http1Conn) take() {
	q := &h.head
	h.method = kept(h.method, q.Method)
	h.target = kept(h.target, q.Target)
	h.authority = kept(h.authority, q.Host)
	h.body.begin(q)
	h.r = message.Incoming{
		Method: h.method, Target: h.target, Host: h.authority, ProtoMajor: 1, ProtoMinor: q.Minor, Header: q.Fields,
		ContentLength: q.Length, Close: q.Close, Continue: q.Continue, Body: &h.body, Trailer: h.body.trailerFn,
	}
	h.answer.reset(q.Minor)
	h.answer.received.Store(false)
	if q.Length == 0 {
		h.received()
	}
	h.answer.head = q.Method == http.MethodHead
}

// received is called when the request at hand was read to its end.
func (h *http1Conn) received() {
	h.follows.Store(h.reader.Within())
	h.answer.received.Store(true)
}

// trim lets go of what was big.
func (h *http1Conn) trim() {
	for _, l := range []*field.List{&h.head.Fields, &h.scratch.out.Header, &h.answer.header} {
		if cap(*l) > http1.UsualFields {
			*l = nil
		}
	}
	h.x.releases, h.x.try = nil, try{}
	if len(h.target) > 4*http1.UsualFields {
		h.target = ""
	}
}

// hostOf is the normalized host of an authority.
func (h *http1Conn) hostOf(authority string) (string, error) {
	if h.host != "" && authority == h.hostFor {
		return h.host, nil
	}
	host, _, err := message.ParseAuthority(authority)
	if err == nil {
		h.hostFor, h.host = authority, host
	}
	return host, err
}

// kept is s as a string of its own: have when it is the same.
func kept(have, s string) string {
	if have == s {
		return have
	}
	return strings.Clone(s)
}

// openHTTP1 records the connection's decision and returns it as one of HTTP/1, to be
// served.
func (t *client) openHTTP1(op downstream.Admission, p *relay.Peeked) *http1Conn {
	h := newHTTP1Conn(t, p.Request())
	h.opened = op.Decision
	p.Free()
	t.Tell(t.Event(flow.Decision, op.Decision, "http", ""))
	return h
}

// Serve is Pending's. Connections wait here for their requests, so that nothing big may
// be on the stack above: it has 4 KiB as long as little of that is used.
func (h *http1Conn) Serve(resume func()) (rests bool) {
	h.mu.Lock()
	h.rest.resume = resume
	h.mu.Unlock()
	if h.serve() {
		return true
	}
	h.close()
	return false
}

// close records the connection's end, when there is nothing to be read any more.
//
//go:noinline
func (h *http1Conn) close() {
	t := h.conn
	if h.unread {
		t.Linger()
	}
	e := t.CloseEvent(h.opened, "http", "")
	e.BytesSent, e.BytesReceived = h.src.Count.Load(), h.answer.sentBytes
	switch {
	case e.Reason != policy.ReasonAllowed || e.Detail != "":
	case h.refused != nil:
		e.Reason, e.Detail = h.refused.reason, h.refused.text
	case h.requests == 0:
		e.Reason, e.Detail = policy.ReasonMalformed, "no complete request"
	}
	t.Tell(e)
}

// errClientGone: the client has reset its connection.
var errClientGone = syscall.ECONNRESET
