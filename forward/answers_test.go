// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestDialErrorText: workloads are told which address failed, visitors of a
// gateway are not.
func TestDialErrorText(t *testing.T) {
	for layer, shown := range map[flow.Layer]bool{flow.Egress: true, flow.Ingress: false} {
		for _, cause := range []error{dial.ErrConnect, dial.ErrResolve} {
			r := newRig(t, HTTP)
			r.layer = layer
			r.fails["a.example"] = fmt.Errorf("%w: dial tcp 10.8.1.1:8001: refused", cause)
			resp, body := get(t, r.client(false), "http://a.example/")
			if resp.StatusCode != 503 || strings.Contains(body, "10.8.1.1") != shown || !strings.Contains(body, cause.Error()) {
				t.Errorf("%s: %d %q", layer, resp.StatusCode, body)
			}
			if e := r.sink.wait(t, flow.Request, 1); !strings.Contains(e.Detail, "10.8.1.1") {
				t.Errorf("%s: the event does not tell: %+v", layer, e)
			}
		}
	}
}

// TestDenialStatus: who may not is told 403, where nobody may 502.
func TestDenialStatus(t *testing.T) {
	for reason, want := range map[policy.Reason]int{
		policy.ReasonAuthorization: 403, policy.ReasonNoAllow: 403, policy.ReasonName: 502, policy.ReasonPort: 502, policy.ReasonNoRoute: 404,
	} {
		r := newRig(t, HTTP)
		r.http = func(*policy.Request) policy.HTTPDecision {
			return policy.HTTPDecision{Decision: denied(reason, nil)}
		}
		if resp, _ := get(t, r.client(false), "http://a.example/"); resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", reason, resp.StatusCode, want)
		}
	}
}

// TestBadStatus: what is no status of an answer is the upstream's fault.
func TestBadStatus(t *testing.T) {
	for _, status := range []string{"000", "099"} {
		r := newRig(t, HTTP)
		r.newRawOrigin("a.example", "HTTP/1.1 "+status+" X\r\nContent-Length: 0\r\n\r\n")
		if got := r.answers("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"); len(got) != 1 || got[0] != 502 {
			t.Errorf("%s: %v", status, got)
		}
		if e := r.sink.wait(t, flow.Request, 1); e.Status != 502 || e.Reason != policy.ReasonUpstreamProtocol || e.ResponseFlags != "UPE" {
			t.Errorf("event %+v", e)
		}
	}
}

// TestAnswerIsNotHTTP: an origin that speaks something else, or no HTTP/1.x.
func TestAnswerIsNotHTTP(t *testing.T) {
	for _, answer := range []string{"220 mail.example ESMTP\r\n", "<html>", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"} {
		r := newRig(t, HTTP)
		r.origin("a.example", func(nc *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(nc))
			_, _ = io.WriteString(nc, answer)
		})
		if resp, body := get(t, r.client(false), "http://a.example/"); resp.StatusCode != 502 {
			t.Errorf("%q: %d %s", answer, resp.StatusCode, body)
		}
	}
}
