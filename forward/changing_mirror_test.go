// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net/http"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestMirrorOfAnEarlierPolicy: a copy that waits for the body of its request goes
// nowhere when the policy has changed meanwhile and has the mirror no more.
func TestMirrorOfAnEarlierPolicy(t *testing.T) {
	for _, stays := range []bool{true, false} {
		r := newRig(t, HTTP)
		here := make(chan bool, 1)
		r.httpOrigin("a.example", func(_ http.ResponseWriter, req *http.Request) {
			here <- true
			_, _ = io.Copy(io.Discard, req.Body)
		})
		got := r.mirrorOrigin("m.example")
		rule := &policy.HTTPRule{Route: to("a.example"), Mirrors: []policy.Mirror{mirrorTo("m.example", 100)}}
		r.compiled(services("a.example", "m.example"), rule)
		nc := r.dial()
		write(t, nc, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbo")
		receive(t, here)
		if !stays {
			r.compiled(services("a.example"), rule)
		}
		r.core.Recheck()
		if status, _ := say(t, nc, "dy"); status != 200 {
			t.Errorf("status %d", status)
		}
		e := r.sink.only(t, flow.Mirror)
		if stays {
			if c := receive(t, got); c.body != "body" || !e.Allowed {
				t.Errorf("%+v, event %+v", c, e)
			}
			continue
		}
		if e.Reason != policy.ReasonPolicyChanged || e.Allowed || len(got) > 0 {
			t.Errorf("%d copies arrived, event %+v", len(got), e)
		}
	}
}

// TestMirrorConnectionsOfAnEarlierPolicy: a connection to a mirror that was in use when
// the policy changed gets no further copy.
func TestMirrorConnectionsOfAnEarlierPolicy(t *testing.T) {
	for _, changes := range []bool{false, true} {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", status(200))
		here, goOn := make(chan bool), make(chan bool)
		r.httpOrigin("m.example", func(http.ResponseWriter, *http.Request) {
			here <- true
			<-goOn
		})
		r.compiled(services("a.example", "m.example"), &policy.HTTPRule{Route: to("a.example"), Mirrors: []policy.Mirror{mirrorTo("m.example", 100)}})
		c := r.client(false)
		for i := range 2 {
			get(t, c, "http://a.example/")
			<-here
			if i == 0 && changes {
				r.core.Recheck()
			}
			goOn <- true
			r.sink.wait(t, flow.Mirror, i+1)
		}
		want := 1
		if changes {
			want = 2
		}
		if n := r.dialCount("m.example"); n != want {
			t.Errorf("changes %t: dialled %d times, want %d", changes, n, want)
		}
	}
}
