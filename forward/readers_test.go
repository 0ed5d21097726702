// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestEarlyAnswersEndReads: an upstream of HTTP/2 that answers, or resets the stream,
// while the client of HTTP/1 still sends. Whoever sends the body there reads what the
// client's connection has; nothing of it is read any more when the exchange has ended,
// and the connection's buffers are another's. The race detector sees it otherwise.
func TestEarlyAnswersEndReads(t *testing.T) {
	t.Parallel()
	r := newRig(t, HTTP)
	r.http2Only()
	var seen atomic.Int64
	r.origin("a.example", func(nc *net.TCPConn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(nc, preface); err != nil {
			return
		}
		f := http2.NewFramer(nc, nc)
		_ = f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				if seen.Add(1)%2 == 0 {
					_ = f.WriteRSTStream(frame.StreamID, http2.ErrCodeInternal)
					continue
				}
				var block strings.Builder
				_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "413"})
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true})
			}
		}
	})
	addr := r.addr()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				nc := dialTo(t, addr)
				piece := strings.Repeat("x", 3000)
				_, _ = io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n")
				done := make(chan struct{})
				go func() {
					defer close(done)
					for range 50 {
						if _, err := fmt.Fprintf(nc, "%x\r\n%s\r\n", len(piece), piece); err != nil {
							return
						}
					}
				}()
				answer, _ := io.ReadAll(nc)
				if !strings.HasPrefix(string(answer), "HTTP/1.1 413") && !strings.HasPrefix(string(answer), "HTTP/1.1 503") && len(answer) > 0 {
					t.Errorf("%.60q", answer)
				}
				nc.Close()
				<-done
			}
		})
	}
	wg.Wait()
	if seen.Load() == 0 {
		t.Error("nothing came to the origin")
	}
}
