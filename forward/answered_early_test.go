// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net/http"
	"testing"

	"github.com/egressd/egressd/policy"
)

// TestAnsweredBeforeSent: an answer that is complete before the request is reaches its client
// to the end, though the client sends no more of its request before that.
func TestAnsweredBeforeSent(t *testing.T) {
	for _, body := range []string{"", "early"} {
		for _, down := range []bool{false, true} {
			r := newRig(t, HTTP)
			r.change(func() {
				r.http = func(req *policy.Request) policy.HTTPDecision {
					u := upstreamOf(req.Host)
					u.Protocol = policy.ProtocolHTTP2
					return policy.HTTPDecision{Decision: allowed, Upstream: u}
				}
			})
			r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.ReadFull(req.Body, make([]byte, 2))
				_, _ = io.WriteString(w, body)
			})
			in, out := io.Pipe()
			go func() { _, _ = io.WriteString(out, "hi") }()
			resp, err := r.client(down).Post("http://a.example/", "text/plain", in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != body {
				t.Errorf("from HTTP/2 %t: %q, %v; want %q", down, got, err, body)
			}
			out.Close()
			resp.Body.Close()
		}
	}
}
