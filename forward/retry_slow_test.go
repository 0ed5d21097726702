// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestRetryOfSlowAnswer: a retry does not wait for the rest of the answer that it is made
// for, and that answer's connection is closed.
func TestRetryOfSlowAnswer(t *testing.T) {
	for _, protocol := range []policy.Protocol{policy.ProtocolHTTP, policy.ProtocolHTTP2} {
		r := newRig(t, HTTP)
		ended := make(chan struct{}, 1)
		h, seen := unreliable(1, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(503)
			_ = http.NewResponseController(w).Flush()
			<-req.Context().Done()
			ended <- struct{}{}
		})
		r.httpOrigin("a.example", h)
		a := routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 1, On: []string{"5xx"}, Backoff: time.Millisecond}}, "a.example")
		a.Destinations[0].Upstream.Protocol = protocol
		r.rule(a)
		resp, err := r.client(false).Post("http://a.example/", "x/y", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || seen.Load() != 2 {
			t.Errorf("%s: status %d after %d requests", protocol, resp.StatusCode, seen.Load())
		}
		if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonAllowed || e.Retries != 1 {
			t.Errorf("%s: event %+v", protocol, e)
		}
		receive(t, ended)
	}
}
