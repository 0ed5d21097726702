// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/egressd/egressd/forward/frames"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/policy"
)

// http2Ends makes one request on an HTTP/2 connection, whose upstream answers it with
// end, and returns its error, and if again says so that of a request behind it.
func http2Ends(t *testing.T, again bool, end func(f *http2.Framer, stream uint32)) (first, next error) {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer far.Close()
		if _, err := io.ReadFull(far, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(far, far)
		reads := make(chan uint32, 1)
		go func() {
			defer close(reads)
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					return
				}
				if h, ok := frame.(*http2.HeadersFrame); ok {
					reads <- h.StreamID
				}
			}
		}()
		_ = f.WriteSettings()
		if stream, ok := <-reads; ok {
			end(f, stream)
		}
		for range reads {
		}
	}()
	tr := NewTransport(UsualPing)
	cc, err := tr.NewClientConn(context.WithValue(t.Context(), carriedKey{}, &HTTPConn{Conn: near, guard: frames.NewOriginGuard(time.Now), held: limits.NewLease(&limits.Limits{}, limits.Owner{})}), "http", "upstream:80")
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := cc.RoundTrip(req)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return err
	}
	first = ask()
	if again {
		next = ask()
	}
	near.Close()
	<-served
	return first, next
}

// block is a header.
func block(fields ...string) []byte {
	var b strings.Builder
	enc := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return []byte(b.String())
}

// TestTexts: what net/http of the Go version in use says is what answers.go knows it
// by. A new version of Go that says it otherwise fails here.
func TestTexts(t *testing.T) {
	for name, tt := range map[string]struct {
		end            func(f *http2.Framer, stream uint32)
		refused, gone  bool
		reason         policy.Reason
		text, nextText string
	}{
		"GOAWAY": {
			end:  func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) },
			gone: true, reason: policy.ReasonUpstreamClosed, text: textGoAway, nextText: textUnusable,
		},
		"REFUSED_STREAM": {
			end:     func(f *http2.Framer, s uint32) { _ = f.WriteRSTStream(s, http2.ErrCodeRefusedStream) },
			refused: true, reason: policy.ReasonUpstreamReset,
		},
		"a reset": {
			end:    func(f *http2.Framer, s uint32) { _ = f.WriteRSTStream(s, http2.ErrCodeInternal) },
			reason: policy.ReasonUpstreamReset,
		},
		"an answer without a status": {
			end: func(f *http2.Framer, s uint32) {
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: block("a", "b"), EndHeaders: true})
			},
			reason: policy.ReasonUpstreamProtocol,
		},
		"more than it has said": {
			end: func(f *http2.Framer, s uint32) {
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: block(":status", "200", "content-length", "1"), EndHeaders: true})
				_ = f.WriteData(s, true, []byte("xx"))
			},
			reason: policy.ReasonUpstreamProtocol, text: textMore,
		},
		"a frame that must not come": {
			end:    func(f *http2.Framer, _ uint32) { _ = f.WriteRawFrame(http2.FramePushPromise, 4, 1, make([]byte, 4)) },
			reason: policy.ReasonUpstreamProtocol,
		},
	} {
		t.Run(name, func(t *testing.T) {
			first, next := http2Ends(t, tt.nextText != "", func(f *http2.Framer, s uint32) {
				f.AllowIllegalWrites = true
				tt.end(f, s)
			})
			if first == nil || IsRefused(first) != tt.refused || IsGone(first) != tt.gone || ClosedReason(first) != tt.reason {
				t.Errorf("%v: refused %v, gone %v, %s", first, IsRefused(first), IsGone(first), ClosedReason(first))
			}
			if tt.text != "" && first.Error() != tt.text || tt.nextText != "" && (next == nil || next.Error() != tt.nextText || !IsGone(next)) {
				t.Errorf("%q, then %q", first, next)
			}
			if wrapped := fmt.Errorf("one more: %w", first); IsGone(wrapped) != tt.gone || IsRefused(wrapped) != tt.refused {
				t.Errorf("it is another when it is wrapped")
			}
		})
	}
}

// TestOthersWords: the same words in another's mouth mean nothing.
func TestOthersWords(t *testing.T) {
	for _, text := range []string{textGoAway, textUnusable, "REFUSED_STREAM"} {
		err := fmt.Errorf("http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=REFUSED_STREAM, debug=%q", text)
		if IsGone(err) || IsRefused(err) || ClosedReason(err) != policy.ReasonUpstreamClosed {
			t.Errorf("%v", err)
		}
	}
	if IsRefused(http2.StreamError{Code: http2.ErrCodeRefusedStream, Cause: errors.New("ours")}) {
		t.Error("a stream that was refused here counts as refused there")
	}
}
