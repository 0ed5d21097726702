// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"github.com/egressd/egressd/internal/flow"
)

// TestForwarded: the upstream of a gateway is told who the visitor is, and believes
// nobody else about it; that of a workload is told what the workload says.
func TestForwarded(t *testing.T) {
	for _, tt := range []struct {
		layer flow.Layer
		src   string
		sent  http.Header
		want  string
	}{
		{flow.Ingress, "198.51.100.7:4000", nil, "[198.51.100.7] [http] [198.51.100.7] []"},
		{flow.Ingress, "[2001:db8::7]:4000", nil, "[2001:db8::7] [http] [2001:db8::7] []"},
		{flow.Ingress, "10.0.0.7:4000", nil, "[10.0.0.7] [http] [] [true]"},
		{flow.Ingress, "[::ffff:10.0.0.7]:4000", nil, "[10.0.0.7] [http] [] [true]"},
		{flow.Ingress, "198.51.100.7:4000", http.Header{"X-Forwarded-For": {"6.6.6.6", "7.7.7.7"}, "X-Forwarded-Proto": {"https"}, "X-Envoy-External-Address": {"6.6.6.6"}, "X-Envoy-Internal": {"true"}},
			"[6.6.6.6,7.7.7.7,198.51.100.7] [http] [198.51.100.7] []"},
		{flow.Egress, "127.0.0.1:4000", http.Header{"X-Forwarded-For": {"6.6.6.6"}}, "[6.6.6.6] [] [] []"},
		{flow.Egress, "127.0.0.1:4000", nil, "[] [] [] []"},
	} {
		r := newRig(t, HTTP)
		r.layer = tt.layer
		got := make(chan string, 1)
		r.httpOrigin("a.example", func(_ http.ResponseWriter, req *http.Request) {
			h := req.Header
			got <- fmt.Sprint(h["X-Forwarded-For"], h["X-Forwarded-Proto"], h["X-Envoy-External-Address"], h["X-Envoy-Internal"])
		})
		src := netip.MustParseAddrPort(tt.src)
		r.from = &src
		req, _ := http.NewRequest("GET", "http://a.example/", nil)
		for k, v := range tt.sent {
			req.Header[k] = v
		}
		resp, err := r.client(false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if s := receive(t, got); s != tt.want {
			t.Errorf("%s %s %v: %s, want %s", tt.layer, tt.src, tt.sent, s, tt.want)
		}
	}
}
