// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net/http"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestConnectionsOfAnEarlierPolicy: an upstream connection that was in use when the
// policy changed serves that request to its end, and no other: where it goes was
// judged by the policy before.
func TestConnectionsOfAnEarlierPolicy(t *testing.T) {
	for name, way := range sharingOf {
		for _, http2 := range []bool{false, true} {
			for _, changes := range []bool{false, true} {
				r := newRig(t, HTTP, func(o *Options) { o.Share = way.share })
				r.change(func() {
					r.http = func(req *policy.Request) policy.HTTPDecision {
						u := upstreamOf(req.Host)
						u.Traffic = way.policy
						if http2 {
							u.Protocol = policy.ProtocolHTTP2
						}
						return policy.HTTPDecision{Decision: allowed, Upstream: u}
					}
				})
				here, goOn := make(chan bool), make(chan bool)
				r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
					if req.URL.Path == "/slow" {
						here <- true
						<-goOn
					}
					_, _ = io.WriteString(w, "ok")
				})
				c := r.client(http2)
				done := make(chan int)
				go func() {
					resp, err := c.Get("http://a.example/slow")
					if err != nil {
						t.Error(err)
						done <- 0
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					done <- resp.StatusCode
				}()
				<-here
				if changes {
					r.core.Recheck()
				}
				goOn <- true
				if status := <-done; status != 200 {
					t.Errorf("%s, HTTP/2 %t: the request under way got %d", name, http2, status)
				}
				r.sink.wait(t, flow.Request, 1) // its connection has been given back
				if resp, _ := get(t, c, "http://a.example/"); resp.StatusCode != 200 {
					t.Errorf("%s, HTTP/2 %t: the next request got %d", name, http2, resp.StatusCode)
				}
				want := 1
				if changes {
					want = 2
				}
				if n := r.dialCount("a.example"); n != want {
					t.Errorf("%s, HTTP/2 %t, changes %t: dialled %d times, want %d", name, http2, changes, n, want)
				}
			}
		}
	}
}
