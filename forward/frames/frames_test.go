// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func start() *clock { return &clock{time.Unix(1e9, 0)} }

// raw are the bytes of frames.
func raw(write func(f *http2.Framer)) []byte {
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	f.AllowIllegalWrites = true
	write(f)
	return b.Bytes()
}

func preface(p []byte) []byte { return append([]byte(http2.ClientPreface), p...) }

func request(f *http2.Framer) {
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, EndHeaders: true, EndStream: true})
}

// kinds are frames that say nothing, each with what they are called, and how many of
// them are taken on credit.
var kinds = []struct {
	name  string
	most  int
	write func(f *http2.Framer)
}{
	{"PING frames", Burst, func(f *http2.Framer) { _ = f.WritePing(false, [8]byte{}) }},
	{"PING frames", Burst, func(f *http2.Framer) { _ = f.WritePing(true, [8]byte{}) }},
	{"SETTINGS frames", Burst, func(f *http2.Framer) { _ = f.WriteSettings() }},
	{"SETTINGS frames", Burst, func(f *http2.Framer) { _ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) }},
	{"WINDOW_UPDATE frames", Burst, func(f *http2.Framer) { _ = f.WriteWindowUpdate(0, 1) }},
	{"PRIORITY frames", Burst, func(f *http2.Framer) { _ = f.WritePriority(3, http2.PriorityParam{StreamDep: 1}) }},
	{"empty DATA frames", Burst, func(f *http2.Framer) { _ = f.WriteData(1, false, nil) }},
	{"empty DATA frames", Burst, func(f *http2.Framer) { _ = f.WriteDataPadded(1, false, nil, make([]byte, 200)) }},
	{"empty DATA frames", Burst, func(f *http2.Framer) { _ = f.WriteDataPadded(1, false, nil, []byte{}) }},
	{"CONTINUATION frames with next to nothing in them", Burst, func(f *http2.Framer) { _ = f.WriteContinuation(1, false, nil) }},
	{"CONTINUATION frames with next to nothing in them", Burst, func(f *http2.Framer) { _ = f.WriteContinuation(1, false, []byte{0x82}) }},
	{"empty HEADERS frames", Burst, func(f *http2.Framer) { _ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}) }},
	{"GOAWAY frames", Burst, func(f *http2.Framer) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) }},
	{"PUSH_PROMISE frames", Burst, func(f *http2.Framer) { _ = f.WriteRawFrame(http2.FramePushPromise, 0, 1, make([]byte, 4)) }},
	{"frames of type 16", Burst, func(f *http2.Framer) { _ = f.WriteRawFrame(16, 0, 0, make([]byte, 4)) }},
	{"streams that are reset", ResetBurst / ResetCost, func(f *http2.Framer) { _ = f.WriteRSTStream(1, http2.ErrCodeCancel) }},
}

// TestFloods: each kind is taken as often as it may be, and not once more; time
// pays for some more.
func TestFloods(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		c := start()
		g := NewFloodGuard(c.now)
		one := raw(k.write)
		if err := g.Received([]byte(http2.ClientPreface)); err != nil {
			t.Fatal(err)
		}
		send := func() (n int, flood *FloodError) {
			for ; n < 2*Burst; n++ {
				if err := g.Received(one); err != nil {
					if !errors.As(err, &flood) {
						t.Fatal(err)
					}
					return n, flood
				}
			}
			return n, nil
		}
		for range k.most {
			if err := g.Received(one); err != nil {
				t.Fatalf("%s: %v", k.name, err)
			}
		}
		c.t = c.t.Add(time.Second)
		n, flood := send()
		if flood == nil || flood.What != k.name || n < PerSecond/ResetCost || n > PerSecond {
			t.Errorf("%s: after a second %d more, %v", k.name, n, flood)
		}
		c.t = c.t.Add(time.Hour)
		if n, flood := send(); n != 0 || flood == nil || g.Flood() != flood {
			t.Errorf("%s: a connection that is over takes %d more, %v", k.name, n, flood)
		}
	}
}

// TestPaidFor: what clients send who do what they are there for is never too much.
func TestPaidFor(t *testing.T) {
	t.Parallel()
	const rounds = 3000
	all := func(f *http2.Framer) {
		request(f)
		_ = f.WriteWindowUpdate(0, 1)
		_ = f.WriteWindowUpdate(1, 1)
		_ = f.WritePriority(1, http2.PriorityParam{})
		_ = f.WritePing(false, [8]byte{})
		_ = f.WriteData(1, true, nil)
	}
	for name, tt := range map[string]struct{ received, sent func(f *http2.Framer) }{
		"requests": {all, nil},
		"requests with long headers": {func(f *http2.Framer) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 9000)})
			_ = f.WriteContinuation(1, false, make([]byte, 16<<10))
			_ = f.WriteContinuation(1, true, make([]byte, 10))
		}, nil},
		"half of the requests cancelled": {func(f *http2.Framer) {
			request(f)
			request(f)
			_ = f.WriteRSTStream(1, http2.ErrCodeCancel)
		}, nil},
		"uploads that are answered early": {func(f *http2.Framer) {
			request(f)
			_ = f.WriteData(1, false, make([]byte, 1000))
		}, func(f *http2.Framer) {
			_ = f.WriteRSTStream(1, http2.ErrCodeNo)
			for range 4 {
				_ = f.WriteRSTStream(1, http2.ErrCodeStreamClosed)
			}
		}},
		"an upload in small pieces": {func(f *http2.Framer) { _ = f.WriteData(1, false, []byte("x")) }, nil},
		"a download with windows and pings for each frame": {func(f *http2.Framer) {
			_ = f.WriteWindowUpdate(0, 1)
			_ = f.WriteWindowUpdate(1, 1)
			_ = f.WritePing(false, [8]byte{})
			_ = f.WritePing(true, [8]byte{})
		}, func(f *http2.Framer) { _ = f.WriteData(1, false, make([]byte, 1000)) }},
		"a window of data that is answered at once": {func(f *http2.Framer) {
			for range 3 * Burst {
				_ = f.WriteWindowUpdate(1, 1)
			}
		}, func(f *http2.Framer) {
			for range 3 * Burst {
				_ = f.WriteData(1, false, make([]byte, 10))
			}
		}},
		"an upstream that fails": {request, func(f *http2.Framer) { _ = f.WriteRSTStream(1, http2.ErrCodeInternal) }},
	} {
		g := NewFloodGuard(start().now)
		_ = g.Received([]byte(http2.ClientPreface))
		in, out := raw(tt.received), []byte(nil)
		if tt.sent != nil {
			out = raw(tt.sent)
		}
		for i := range rounds {
			g.Sent(out)
			if err := g.Received(in); err != nil {
				t.Errorf("%s: %v after %d", name, err, i)
				break
			}
		}
	}
}

// TestMadeToReset: a client that has its streams reset by breaking the rules pays as if
// it reset them.
func TestMadeToReset(t *testing.T) {
	t.Parallel()
	for _, code := range []http2.ErrCode{http2.ErrCodeProtocol, http2.ErrCodeFlowControl, http2.ErrCodeFrameSize, http2.ErrCodeRefusedStream} {
		g := NewFloodGuard(start().now)
		_ = g.Received([]byte(http2.ClientPreface))
		in, out := raw(request), raw(func(f *http2.Framer) { _ = f.WriteRSTStream(1, code) })
		n := 0
		for ; g.Received(in) == nil && n < 10*ResetBurst; n++ {
			g.Sent(out)
		}
		if n < ResetBurst || n > ResetBurst+2 {
			t.Errorf("%v: %d streams", code, n)
		}
	}
}

// TestGoAway: who floods is told so between two frames, with the stream that was seen
// last.
func TestGoAway(t *testing.T) {
	t.Parallel()
	g := NewFloodGuard(start().now)
	_ = g.Received(preface(raw(func(f *http2.Framer) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 7, BlockFragment: []byte{0x82}, EndHeaders: true})
	})))
	if p := g.GoAway(); p != nil {
		t.Errorf("%q without a flood", p)
	}
	ping := raw(func(f *http2.Framer) { _ = f.WritePing(false, [8]byte{}) })
	for g.Received(ping) == nil {
		continue
	}
	g.Sent(ping[:12])
	if p := g.GoAway(); p != nil {
		t.Errorf("%q within a frame", p)
	}
	g.Sent(ping[12:])
	f, err := http2.NewFramer(nil, bytes.NewReader(g.GoAway())).ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	away, ok := f.(*http2.GoAwayFrame)
	if !ok || away.ErrCode != http2.ErrCodeEnhanceYourCalm || away.LastStreamID != 7 || string(away.DebugData()) != "too many PING frames" {
		t.Errorf("%v %q", f, away.DebugData())
	}
}

// FuzzScanner: frames are found however their bytes come, as a Framer finds them.
func FuzzScanner(f *testing.F) {
	for _, k := range kinds {
		f.Add(append(raw(k.write), raw(request)...), byte(3))
	}
	f.Add(raw(func(f *http2.Framer) { _ = f.WriteDataPadded(1, true, make([]byte, 3), make([]byte, 2)) }), byte(1))
	f.Fuzz(func(t *testing.T, p []byte, by byte) {
		var got []string
		var s scanner
		see := func(f frame) {
			got = append(got, fmt.Sprintf("%d %d %d %d %x", f.kind, f.flags, f.length, f.stream, f.first))
		}
		for rest := p; len(rest) > 0; {
			n := min(int(by)+1, len(rest))
			s.scan(rest[:n], see)
			rest = rest[n:]
		}
		var want []string
		in := bytes.NewReader(p)
		for {
			h, err := http2.ReadFrameHeader(in)
			if err != nil {
				break
			}
			first := make([]byte, min(h.Length, peekLen))
			if _, err := io.ReadFull(in, first); err != nil {
				break
			}
			want = append(want, fmt.Sprintf("%d %d %d %d %x", h.Type, h.Flags, h.Length, h.StreamID, first))
			if _, err := io.CopyN(io.Discard, in, int64(h.Length)-int64(len(first))); err != nil {
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("found %q, want %q", got, want)
		}
	})
}

// TestNoAllocations: looking costs none.
func TestNoAllocations(t *testing.T) {
	g := NewFloodGuard(start().now)
	_ = g.Received([]byte(http2.ClientPreface))
	in := raw(request)
	out := raw(func(f *http2.Framer) { _ = f.WriteData(1, false, make([]byte, 100)) })
	if n := testing.AllocsPerRun(100, func() {
		if err := g.Received(in); err != nil {
			t.Fatal(err)
		}
		g.Sent(out)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestEnded: where streams pile up that are to be reset, the end of the connection is a
// flood's; where the answers were sent, or the client has reset its streams, it is not.
func TestEnded(t *testing.T) {
	now := func() time.Time { return time.Unix(1, 0) }
	for name, c := range map[string]struct {
		each  func(g *FloodGuard, id uint32)
		flood bool
	}{
		"unanswered": {func(*FloodGuard, uint32) {}, true},
		"answered": {func(g *FloodGuard, id uint32) {
			g.sent(frame{kind: typeHeaders, flags: flagEndHeaders, stream: id})
			g.sent(frame{kind: typeData, flags: flagEndStream, stream: id})
		}, false},
		"answered by a header alone": {func(g *FloodGuard, id uint32) {
			g.sent(frame{kind: typeHeaders, flags: flagEndHeaders | flagEndStream, stream: id})
		}, false},
	} {
		g := NewFloodGuard(now)
		for id := uint32(1); id < 2*(2*Burst); id += 2 {
			g.received(frame{kind: typeHeaders, flags: flagEndHeaders, stream: id})
			g.received(frame{kind: typeHeaders, flags: flagEndHeaders | flagEndStream, stream: id}) // a trailer
			c.each(g, id)
		}
		if g.Ended(); (g.Flood() != nil) != c.flood || c.flood && g.Flood().Error() != "too many streams that are reset" {
			t.Errorf("%s: %v", name, g.Flood())
		}
	}
}
