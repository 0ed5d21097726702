// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// hooked is a Sink that does something after it has recorded an event.
type hooked struct {
	flow.Sink
	after func(e flow.Event)
}

func (h *hooked) Record(e *flow.Event) {
	h.Sink.Record(e)
	h.after(*e)
}

// TestKilledBetweenRequests: of a connection that is ended between two requests the
// second, which has come already, goes nowhere, and nobody waits for its answer.
func TestKilledBetweenRequests(t *testing.T) {
	for _, ends := range []bool{false, true} {
		var r *rig
		var once sync.Once
		r = newRig(t, HTTP, func(o *Options) {
			o.Sink = &hooked{o.Sink, func(e flow.Event) {
				if e.Kind == flow.Request && ends {
					once.Do(func() {
						for _, c := range r.core.open() {
							c.Kill(policy.ReasonAllowed, "shut down")
						}
					})
				}
			}}
		})
		var requests atomic.Int32
		r.origin("a.example", func(nc *net.TCPConn) {
			for br := bufio.NewReader(nc); ; {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				if requests.Add(1); ends && requests.Load() > 1 {
					_, _ = io.Copy(io.Discard, br)
					return
				}
				_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		nc := r.dial()
		write(t, nc, getOf("a.example")+getOf("a.example"))
		if !ends {
			r.sink.wait(t, flow.Request, 2)
			nc.Close()
		}
		r.sink.wait(t, flow.Close, 1)
		want := int32(2)
		if ends {
			want = 1
		}
		if n := requests.Load(); n != want {
			t.Errorf("ends %t: %d requests have gone on, want %d", ends, n, want)
		}
	}
}
