// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// zipkin is a collector out in the world, where no policy lets anybody go.
type zipkin struct {
	mu    sync.Mutex
	spans []struct {
		TraceID  string            `json:"traceId"`
		ParentID string            `json:"parentId"`
		Tags     map[string]string `json:"tags"`
	}
}

func (z *zipkin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if r.URL.Path != "/api/v2/spans" || json.NewDecoder(r.Body).Decode(&z.spans) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// has says whether the newest batch has a span of a trace.
func (z *zipkin) has(traceID, parentID, path string) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, s := range z.spans {
		if s.TraceID == traceID && s.ParentID == parentID && s.Tags["url.path"] == path && s.Tags["http.response.status_code"] == "200" {
			return true
		}
	}
	return false
}

// TestTraces: a request's span continues the client's trace, and reaches a collector
// that the policy opens to nobody, in both families.
func TestTraces(t *testing.T) {
	t.Parallel()
	const traceID, spanID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, at := range []string{world.StrangerV4, world.StrangerV6} {
		z := &zipkin{}
		collector := hostPort(at, 9411)
		n := start(t, seed(t, "googleapis.yaml"), func(w *world.World) {
			ln, err := w.Net.Listen(netip.MustParseAddrPort(collector))
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{Handler: z}
			served := make(chan error, 1)
			go func() { served <- server.Serve(ln) }()
			t.Cleanup(func() {
				server.Close()
				if err := <-served; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			})
		}, "--zipkin-address", collector, "--trace-sampling", "0")
		a := n.curl(t, n.in, "-H", "traceparent: 00-"+traceID+"-"+spanID+"-01", "http://"+world.GoogleAPIs+"/traced?secret=1")
		if a.status != 200 {
			t.Errorf("%+v", a)
		}
		eventually(t, soon, "the span arrives", func() bool { return z.has(traceID, spanID, "/traced") })
		if p := n.probe(t, n.in, "dial", collector); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("a captured process at the collector: %+v", p)
		}
		if page := n.curl(t, nil, "http://127.0.0.1:15020/metrics").body; !strings.Contains(page, "egressd_trace_spans_failed_total 0") {
			t.Error("spans failed")
		}
	}
}
