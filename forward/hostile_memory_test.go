// SPDX-License-Identifier: Apache-2.0

//go:build !race

package forward

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/egressd/egressd/forward/limits"
)

// hoard is how clients and origins have egressd hold memory: open begins n connections
// of clients that hold it, each with as much as one may, and returns how many bytes must
// be paid for then. answer is what an origin of HTTP/1 says to a request; nil: it is of
// HTTP/2, and answers with data as far as windows are open.
type hoard struct {
	open   func(r *rig, n int) (paid int64)
	answer []byte
	http2  bool
}

const (
	// ours is what the origin takes for a connection of its own, in bytes: the socket,
	// a goroutine, a buffer.
	ours     = 24 << 10
	bigHead  = 60 << 10
	hoarders = 16
	streams  = 50
)

// manyFields are n fields of an HTTP/1 head.
func manyFields(n, size int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "F%d: %s\r\n", i, strings.Repeat("v", size))
	}
	return b.String()
}

// TestHostileMemory: what clients and origins make egressd hold is paid for of the
// budget for memory, of which a workload has a share, whatever they do: the heap and
// the stacks of the process grow by no more than the budget says. The twin of each is
// in what is paid: far less than this, for those who do not hoard.
func TestHostileMemory(t *testing.T) {
	get := func(fields string) func(*rig, int) int64 {
		return func(r *rig, n int) int64 {
			for range n {
				write(r.t, r.dial(), "GET / HTTP/1.1\r\nHost: a.example\r\n"+fields)
			}
			return 0
		}
	}
	ok := "HTTP/1.1 200 OK\r\n"
	for name, h := range map[string]hoard{
		"heads that do not end": {open: func(r *rig, n int) int64 {
			get(manyFields(60, 1000))(r, n)
			return int64(n) * bigHead
		}},
		"big heads":   {open: get(manyFields(60, 1000) + "\r\n"), answer: []byte{}},
		"many fields": {open: get(manyFields(990, 1) + "\r\n"), answer: []byte{}},
		"heads of answers that do not end": {open: func(r *rig, n int) int64 {
			get("\r\n")(r, n)
			return int64(n) * 200 << 10
		}, answer: []byte(ok + manyFields(200, 1000))},
		"big heads of answers": {open: func(r *rig, n int) int64 {
			get("\r\n")(r, n)
			return int64(n) * 200 << 10
		}, answer: []byte(ok + manyFields(200, 1000) + "\r\nbody")},
		"bodies that nobody reads": {open: get("\r\n"), answer: []byte(ok + "Content-Length: 4000000\r\n\r\n" + strings.Repeat("x", 4000000))},
		"trailers that do not end": {open: get("Transfer-Encoding: chunked\r\n\r\n0\r\n" + manyFields(15, 1000)), answer: []byte{}},
		"big headers of HTTP/2": {open: func(r *rig, n int) int64 {
			return manyStreams(r, 2, func(c *framesClient, s uint32) {
				block := h2block(":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/", "a", strings.Repeat("v", 30000), "b", strings.Repeat("w", 30000))
				c.header(s, block, true)
			})
		}, answer: []byte{}},
		"many fields of HTTP/2": {open: func(r *rig, n int) int64 {
			fields := []string{":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/"}
			for i := range 900 {
				fields = append(fields, fmt.Sprint("f", i), "v")
			}
			block := h2block(fields...)
			return manyStreams(r, 2, func(c *framesClient, s uint32) { c.header(s, block, true) })
		}, answer: []byte{}},
		"bodies that no origin takes": {open: func(r *rig, n int) int64 {
			return manyStreams(r, 2, func(c *framesClient, s uint32) {
				c.header(s, h2block(":method", "POST", ":scheme", "http", ":authority", "a.example", ":path", "/"), false)
				_ = c.WriteData(s, false, make([]byte, 4<<10))
			})
		}, answer: []byte{}},
		"streams whose windows are shut": {open: func(r *rig, n int) int64 {
			return manyStreams(r, 2, func(c *framesClient, s uint32) {
				if s == 1 {
					_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
				}
				c.header(s, h2block(":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/"), true)
			})
		}, answer: []byte(ok + "Content-Length: 4000000\r\n\r\n" + strings.Repeat("x", 4000000))},
		"windows that an origin fills": {open: get("\r\n"), http2: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, HTTP, func(o *Options) {
				o.Sink = &counter{}
				o.Limits = &limits.Limits{Descriptors: limits.NewBudget(1 << 20), Memory: limits.NewBudget(1 << 32)}
			})
			if h.http2 {
				r.http2Only()
			}
			asked := make(chan struct{}, 2*streams+2*hoarders)
			r.origin("a.example", func(nc *net.TCPConn) { h.serve(nc, asked) })
			r.addr()
			before, paid := memoryOfGo(), r.core.o.Limits.Memory.Use().Used
			must := h.open(r, hoarders)
			r.settles(must)
			took, paid := memoryOfGo()-before-int64(len(asked)*ours), r.core.o.Limits.Memory.Use().Used-paid
			t.Logf("%d KiB held, %d KiB paid for", took>>10, paid>>10)
			if took > paid {
				t.Errorf("%d KiB are held, and %d KiB paid for", took>>10, paid>>10)
			}
			if paid < must {
				t.Errorf("%d KiB are paid for, where %d KiB must be held", paid>>10, must>>10)
			}
		})
	}
}

// serve answers as an origin that hoards.
func (h hoard) serve(nc *net.TCPConn, asked chan<- struct{}) {
	if n, err := nc.Read(make([]byte, 512)); n == 0 || err != nil {
		return
	}
	asked <- struct{}{}
	if h.http2 {
		f := http2.NewFramer(nc, nil)
		_ = f.WriteSettings()
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h2block(":status", "200"), EndHeaders: true})
		for range 15 { // the window is of 256 KiB
			_ = f.WriteData(1, false, make([]byte, 16<<10))
		}
	} else if _, err := nc.Write(h.answer); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, onlyBytes{nc})
}

// onlyBytes hides that its reader may splice, for which io.Copy would have a pipe.
type onlyBytes struct{ io.Reader }

// manyStreams opens many streams on each of n connections.
func manyStreams(r *rig, n int, each func(c *framesClient, stream uint32)) int64 {
	for range n {
		c := r.frames()
		go func() { _, _ = io.Copy(io.Discard, onlyBytes{c.nc}) }()
		for i := range streams {
			each(c, uint32(2*i+1))
		}
	}
	return 0
}

// header sends a header in as many frames as it needs.
func (c *framesClient) header(s uint32, block []byte, ends bool) {
	const most = 16 << 10
	first := block[:min(len(block), most)]
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: first, EndStream: ends, EndHeaders: len(first) == len(block)})
	for block = block[len(first):]; len(block) > 0; {
		part := block[:min(len(block), most)]
		block = block[len(part):]
		_ = c.WriteContinuation(s, len(block) == 0, part)
	}
}

// memoryOfGo is what memory of Go's the process has, in bytes.
func memoryOfGo() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC() // the second one forgets pools, each halves stacks
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// settles waits until so much is paid for, and no more is for a while.
func (r *rig) settles(must int64) {
	r.t.Helper()
	last, same := int64(-1), 0
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for same < 10 {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%d KiB are paid for, of %d", last>>10, must>>10)
		}
		if now := r.core.o.Limits.Memory.Use().Used; now != last || now < must {
			last, same = now, 0
		} else {
			same++
		}
	}
}
