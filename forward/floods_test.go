// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/egressd/egressd/forward/frames"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// framesClient is a client that writes frames by hand.
type framesClient struct {
	*http2.Framer
	nc     *net.TCPConn
	block  []byte // of a GET
	stream uint32
}

func (r *rig) frames() *framesClient {
	r.t.Helper()
	c := &framesClient{nc: r.dial(), stream: 1}
	c.Framer = http2.NewFramer(c.nc, c.nc)
	c.AllowIllegalWrites = true
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	enc.SetMaxDynamicTableSize(0) // each block is the same
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a.example"}, {":path", "/"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			r.t.Fatal(err)
		}
	}
	c.block = b.Bytes()
	if _, err := io.WriteString(c.nc, http2.ClientPreface); err != nil {
		r.t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// open begins a stream.
func (c *framesClient) open(ends bool) uint32 {
	id := c.stream
	c.stream += 2
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block, EndHeaders: true, EndStream: ends})
	return id
}

// sum is what came back.
type sum struct {
	away    *http2.GoAwayFrame
	text    string // of it
	answers int
	err     error
}

// read reads frames until stop or the end.
func (c *framesClient) read(stop func(http2.Frame) bool) (s sum) {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			s.err = err
			return s
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			s.away, s.text = f, string(f.DebugData())
		case *http2.HeadersFrame:
			s.answers++
		}
		if stop != nil && stop(f) {
			return s
		}
	}
}

// TestFrameFloods: a client that only keeps the connection busy is told to calm down,
// the connection ends with a reason that is counted, and what it costs is bounded.
func TestFrameFloods(t *testing.T) {
	const many = 20 * frames.Burst
	for name, flood := range map[string]func(c *framesClient) error{
		"PING":            func(c *framesClient) error { return c.WritePing(false, [8]byte{}) },
		"answers to PING": func(c *framesClient) error { return c.WritePing(true, [8]byte{}) },
		"SETTINGS":        func(c *framesClient) error { return c.WriteSettings() },
		"WINDOW_UPDATE":   func(c *framesClient) error { return c.WriteWindowUpdate(0, 1) },
		"PRIORITY":        func(c *framesClient) error { return c.WritePriority(1, http2.PriorityParam{StreamDep: 3}) },
		"unknown frames":  func(c *framesClient) error { return c.WriteRawFrame(0x77, 0, 0, nil) },
		"empty DATA": func(c *framesClient) error {
			if c.stream == 1 {
				c.open(false)
			}
			return c.WriteData(1, false, nil)
		},
		"padding": func(c *framesClient) error {
			if c.stream == 1 {
				c.open(false)
			}
			return c.WriteDataPadded(1, false, nil, make([]byte, 10))
		},
		"empty CONTINUATION": func(c *framesClient) error {
			if c.stream == 1 {
				c.stream = 3
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block})
			}
			return c.WriteContinuation(1, false, nil)
		},
		"rapid reset": func(c *framesClient) error { return c.WriteRSTStream(c.open(true), http2.ErrCodeCancel) },
		"streams that egressd must reset": func(c *framesClient) error {
			return c.WriteWindowUpdate(c.open(false), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, HTTP)
			held := make(chan struct{})
			defer close(held)
			r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
				select { // answers nothing
				case <-held:
				case <-req.Context().Done():
				}
			})
			c := r.frames()
			// What it sends waits for a reader: it reads meanwhile.
			got := make(chan sum, 1)
			go func() { got <- c.read(nil) }()
			sent := 0
			for ; sent < many; sent++ {
				if err := flood(c); err != nil {
					break // it was ended already
				}
			}
			s := <-got
			// net/http may have a part of a frame in its buffer still: nothing can
			// follow that. Where the cut is right behind a frame's header, the Framer
			// has no error of its own for it; and what the client goes on to send may
			// have it reset.
			ended := errors.Is(s.err, io.ErrUnexpectedEOF) || errors.Is(s.err, io.EOF) || errors.Is(s.err, syscall.ECONNRESET)
			cut := s.away == nil && ended && (name == "PING" || name == "streams that egressd must reset")
			if !cut && (s.away == nil || s.away.ErrCode != http2.ErrCodeEnhanceYourCalm || !errors.Is(s.err, io.EOF)) {
				t.Errorf("after %d: GOAWAY %v %q, end %v", sent, s.away, s.text, s.err)
			}
			c.nc.Close()
			e := r.sink.wait(t, flow.Close, 1)
			if e.Reason != policy.ReasonFlood || e.Allowed || !strings.HasPrefix(e.Detail, "too many ") || !cut && e.Detail != s.text || e.ResponseFlags != flow.FlagClientProtocol {
				t.Errorf("close %+v, GOAWAY %q", e, s.text)
			}
		})
	}
}

// TestBusyClients: clients that are busy with their own requests are never taken for a
// flood, however long they go on.
func TestBusyClients(t *testing.T) {
	const rounds = 3 * frames.Burst
	t.Run("requests with everything that clients send", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hi") })
		c := r.frames()
		for i := range rounds {
			if i%100 == 0 {
				_ = c.nc.SetDeadline(time.Now().Add(patience))
			}
			id := c.open(true)
			_ = c.WriteWindowUpdate(0, 2)
			_ = c.WritePing(false, [8]byte{})
			_ = c.WritePriority(id, http2.PriorityParam{StreamDep: 0})
			s := c.read(func(f http2.Frame) bool {
				d, ok := f.(*http2.DataFrame)
				return ok && d.StreamEnded()
			})
			if s.err != nil || s.away != nil {
				t.Fatalf("after %d requests: %v, GOAWAY %v %q", i, s.err, s.away, s.text)
			}
		}
	})
	t.Run("requests of which every other is cancelled", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hi") })
		c := r.frames()
		for i := range rounds {
			if i%100 == 0 {
				_ = c.nc.SetDeadline(time.Now().Add(patience))
			}
			_ = c.WriteRSTStream(c.open(true), http2.ErrCodeCancel)
			id := c.open(true)
			s := c.read(func(f http2.Frame) bool {
				d, ok := f.(*http2.DataFrame)
				return ok && d.StreamEnded() && d.StreamID == id
			})
			if s.err != nil || s.away != nil {
				t.Fatalf("after %d requests: %v, GOAWAY %v %q", i, s.err, s.away, s.text)
			}
		}
	})
	t.Run("an echo in small pieces, with windows and a PING for each", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, HTTP)
		r.http2Only()
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex()
			p := make([]byte, 100)
			for {
				n, err := req.Body.Read(p)
				_, _ = w.Write(p[:n])
				_ = rc.Flush()
				if err != nil {
					return
				}
			}
		})
		c := r.frames()
		id := c.open(false)
		for i := range rounds {
			if i%100 == 0 {
				_ = c.nc.SetDeadline(time.Now().Add(patience))
			}
			_ = c.WriteData(id, false, []byte("piece"))
			s := c.read(func(f http2.Frame) bool {
				_, ok := f.(*http2.DataFrame)
				return ok
			})
			if s.err != nil || s.away != nil {
				t.Fatalf("after %d pieces: %v, GOAWAY %v %q", i, s.err, s.away, s.text)
			}
			_ = c.WriteWindowUpdate(0, 5)
			_ = c.WriteWindowUpdate(id, 5)
			_ = c.WritePing(false, [8]byte{})
		}
	})
	t.Run("a large answer to net/http's client", func(t *testing.T) {
		t.Parallel()
		const size = 64 << 20
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.CopyN(w, zeros{}, size)
		})
		resp, err := r.client(true).Get("http://a.example/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
			t.Errorf("%d bytes, %v; %+v", n, err, r.sink.wait(t, flow.Close, 1))
		}
	})
}

// zeros never end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
