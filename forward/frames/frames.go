// SPDX-License-Identifier: Apache-2.0

// Package frames bounds the frames of HTTP/2 (RFC 9113) with which a client, or an
// upstream, costs time and says nothing. It looks at the bytes of a connection as they pass, at their
// frame headers alone, and stands before whoever serves the connection, which bounds
// memory and streams, and not these.
package frames

import (
	"encoding/binary"
	"strconv"
	"time"
)

// Frames that say nothing are paid for by what says something: requests, and data that
// the client was sent. Clients answer data by windows, and some measure the connection
// by a PING for each (gRPC). So these bounds are beyond what clients do that only
// their own requests keep busy, and they say in which proportion others may waste the
// time of both.
const (
	// Burst is how many frames that say nothing a connection may have on credit.
	Burst = 1000
	// PerRequest and PerData are how many each request, and each DATA frame that was
	// sent to the client, pays for. Envoy's bound on WINDOW_UPDATE is 10 as well
	// (max_inbound_window_update_frames_per_data_frame_sent).
	PerRequest, PerData = 10, 10
	// ResetBurst is how many streams a connection may have reset on credit (Envoy's
	// overload.premature_reset_total_stream_count). Beyond, each stream that is reset
	// must be paid for by ResetCost requests.
	ResetBurst = 500
	ResetCost  = 2
	// PerSecond is how many of each kind time pays for.
	PerSecond = 50
	// FullContinuation is what a CONTINUATION frame has at the least that is not the
	// last of its header, in bytes, or it says nothing: who needs one fills it.
	FullContinuation = 1 << 10
)

// Types of frames, flags and errors (RFC 9113, 6 and 7).
const (
	typeData, typeHeaders, typeReset         = 0x0, 0x1, 0x3
	typeContinuation                         = 0x9
	flagEndStream                            = 0x1
	flagEndHeaders, flagPadded               = 0x4, 0x8
	errProtocol, errFlow, errClosed, errSize = 0x1, 0x3, 0x5, 0x6
	errRefused, errCompression, errCalm      = 0x7, 0x9, 0xb
	headerLen                                = 9
	peekLen                                  = 4 // of a payload
)

// prefaceLen is that of what a client sends before its first frame (RFC 9113, 3.4).
const prefaceLen = len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

// FloodError says of what somebody sent too much.
type FloodError struct{ What string }

func (e *FloodError) Error() string { return "too many " + e.What }

// FloodGuard watches one connection. Received and Sent may be called by two goroutines;
// calls of each must not overlap.
type FloodGuard struct {
	in, out scanner
	frames  budget
	resets  budget
	last    uint32 // the last stream that was opened
	open    int64  // streams that are, or fewer
	flood   *FloodError
	refused []RefusedStream
	now     func() time.Time
	lock

	receivedFn, sentFn func(frame)
}

// NewOriginGuard returns the FloodGuard of a connection to an upstream, which begins
// now. What an upstream sends that says nothing is paid for by requests, and by data
// that it was sent; heads of answers are paid for as well, and resets by the frame
// alone: a server may refuse all that it is asked.
func NewOriginGuard(now func() time.Time) *FloodGuard {
	g := &FloodGuard{now: now}
	g.receivedFn, g.sentFn = g.answered, g.asked
	g.out.skip = prefaceLen
	g.frames = budget{left: Burst, most: Burst, at: now()}
	return g
}

func (g *FloodGuard) answered(f frame) {
	if f.kind == typeData && f.content() > 0 || f.kind == typeContinuation && f.length >= FullContinuation {
		return
	}
	g.pay(&g.frames, 1, f)
}

func (g *FloodGuard) asked(f frame) {
	switch f.kind {
	case typeHeaders:
		g.frames.earn(PerRequest)
	case typeData:
		g.frames.earn(PerData)
	}
}

// NewFloodGuard returns a FloodGuard of a connection that begins now.
func NewFloodGuard(now func() time.Time) *FloodGuard {
	g := &FloodGuard{now: now}
	g.receivedFn, g.sentFn = g.received, g.sent
	g.in.skip = prefaceLen
	g.frames = budget{left: Burst, most: Burst, at: now()}
	g.resets = budget{left: ResetBurst, most: ResetBurst, at: now()}
	return g
}

// Received looks at what the client has sent. The error is a *FloodError, and stays.
func (g *FloodGuard) Received(p []byte) error {
	g.Lock()
	defer g.Unlock()
	if g.flood == nil {
		g.in.scan(p, g.receivedFn)
	}
	if g.flood == nil {
		return nil
	}
	return g.flood
}

// WithinHead says whether the client has begun a header and not ended it.
func (g *FloodGuard) WithinHead() bool {
	g.Lock()
	defer g.Unlock()
	return g.in.withinHead()
}

// Sent looks at what was sent to the client.
func (g *FloodGuard) Sent(p []byte) {
	g.Lock()
	defer g.Unlock()
	g.out.scan(p, g.sentFn)
}

// GoAway returns a frame that ends the connection for its flood (RFC 9113, 6.8,
// ENHANCE_YOUR_CALM). It is nil when there was none, or when it would stand in the
// middle of another frame.
func (g *FloodGuard) GoAway() []byte {
	g.Lock()
	defer g.Unlock()
	if g.flood == nil || g.out.within() {
		return nil
	}
	p := append([]byte{0, 0, byte(8 + len(g.flood.Error())), 7, 0, 0, 0, 0, 0}, make([]byte, 8)...)
	binary.BigEndian.PutUint32(p[headerLen:], g.last)
	binary.BigEndian.PutUint32(p[headerLen+4:], errCalm)
	return append(p, g.flood.Error()...)
}

// Farewell is what a server says that serves no requests of a connection that has just
// begun: its SETTINGS, and a GOAWAY without an error, by which a client knows that
// nothing was looked at (RFC 9113, 3.4 and 6.8).
func Farewell() []byte {
	return append([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0}, make([]byte, 8)...)
}

// Flood is of what the client sent too much; nil: of nothing.
func (g *FloodGuard) Flood() *FloodError {
	g.Lock()
	defer g.Unlock()
	return g.flood
}

// RefusedStream is a stream that was reset for what the client did: who serves the connection
// does that by itself, and tells nobody.
type RefusedStream struct{ Stream, Code uint32 }

// Overload says that the client is not at fault but for the number of its requests.
func (r RefusedStream) Overload() bool { return r.Code == errRefused || r.Code == errCalm }

func (r RefusedStream) String() string {
	name := map[uint32]string{
		errProtocol: "PROTOCOL_ERROR", errFlow: "FLOW_CONTROL_ERROR", errSize: "FRAME_SIZE_ERROR", errRefused: "REFUSED_STREAM",
		errCompression: "COMPRESSION_ERROR", errCalm: "ENHANCE_YOUR_CALM",
	}[r.Code]
	return "the HTTP/2 stream " + strconv.FormatUint(uint64(r.Stream), 10) + " was reset: " + name
}

// Refused are the streams that were reset since it was last asked.
func (g *FloodGuard) Refused() []RefusedStream {
	g.Lock()
	defer g.Unlock()
	out := g.refused
	g.refused = nil
	return out
}

// Ended is called when who serves the connection ends it, for a reason of its own, and
// returns what Flood does. One reason is that the frames pile up by which streams are to be reset, before the guard has seen
// them (net/http, maxQueuedControlFrames): more streams are open then than may be.
func (g *FloodGuard) Ended() *FloodError {
	g.Lock()
	defer g.Unlock()
	if g.flood == nil && g.open > Burst {
		g.flood = &FloodError{frame{kind: typeReset}.name()}
	}
	return g.flood
}

func (g *FloodGuard) received(f frame) {
	switch {
	case f.kind == typeHeaders && f.stream > g.last:
		g.open++
	case f.kind == typeReset:
		g.open--
	}
	switch {
	case f.kind == typeHeaders && f.flags&flagEndHeaders != 0:
		g.opened(f)
	case f.kind == typeHeaders && f.content() > 0:
		g.last = max(g.last, f.stream)
	case f.kind == typeContinuation && f.flags&flagEndHeaders != 0:
		g.opened(f)
	case f.kind == typeContinuation && f.length >= FullContinuation:
	case f.kind == typeData && f.content() > 0:
	case f.kind == typeReset:
		g.pay(&g.resets, ResetCost, f)
		g.pay(&g.frames, 1, f)
	default:
		g.pay(&g.frames, 1, f)
	}
}

// opened is called for each header that is complete.
func (g *FloodGuard) opened(f frame) {
	g.last = max(g.last, f.stream)
	g.frames.earn(PerRequest)
	g.resets.earn(1)
}

func (g *FloodGuard) sent(f frame) {
	if f.kind == typeReset || (f.kind == typeData || f.kind == typeHeaders) && f.flags&flagEndStream != 0 {
		g.open--
	}
	switch {
	case f.kind == typeData:
		g.frames.earn(PerData)
	case f.kind == typeReset:
		// What the client is at fault for costs as much as what it resets itself. Data
		// may be under way to a stream when that is closed; it counts by the frame.
		switch f.code() {
		case errClosed:
			g.pay(&g.frames, 1, f)
		case errProtocol, errFlow, errSize, errRefused, errCompression, errCalm:
			g.refused = append(g.refused, RefusedStream{f.stream, f.code()})
			g.pay(&g.resets, ResetCost, f)
		}
	}
}

func (g *FloodGuard) pay(b *budget, n int64, f frame) {
	if !b.take(n, g.now) && g.flood == nil {
		g.flood = &FloodError{f.name()}
	}
}

// budget is what a connection may still spend.
type budget struct {
	left int64
	most int64     // of what time pays for
	at   time.Time // when time was last paid for
}

// earn is not bounded: a client may answer for a whole window of data at once.
func (b *budget) earn(n int64) { b.left += n }

// take takes n. The clock is looked at only by who has nothing left.
func (b *budget) take(n int64, now func() time.Time) bool {
	if b.left < n {
		t := now()
		if paid := int64(t.Sub(b.at) * PerSecond / time.Second); paid > 0 {
			b.left, b.at = min(b.left+paid, b.most), t
		}
	}
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}
