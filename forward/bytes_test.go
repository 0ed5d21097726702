// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

var dateField = regexp.MustCompile(`(?m)^Date: .*\r\n`)

// TestAnswersByteForByte: the answers of egressd's own, as they leave. But for the
// name in Server and the case and order of the fields, those with an asterisk are
// Envoy's (source/common/http/utility.cc prepareLocalReply, router.cc,
// config_impl.cc newUri, fault_filter.cc, rbac_filter.cc).
func TestAnswersByteForByte(t *testing.T) {
	redirect := func(x policy.Redirect) *policy.HTTPRule { return &policy.HTTPRule{Redirect: &x} }
	direct := func(status int, body string) *policy.HTTPRule {
		return &policy.HTTPRule{DirectResponse: &policy.DirectResponse{Status: status, Body: []byte(body)}}
	}
	typed := direct(200, "{}")
	typed.Headers = &policy.Headers{Response: policy.HeaderOps{Add: []policy.Header{{Name: "Content-Type", Value: "application/json"}}}}
	cases := map[string]struct {
		request string
		rule    *policy.HTTPRule
		deny    policy.Reason
		fail    error
		want    string
		flags   string
	}{
		"redirect *": {"GET /p?q=1 HTTP/1.1\r\nHost: a.example:80\r\n", redirect(policy.Redirect{Scheme: "https", Code: 302}), "", nil,
			"HTTP/1.1 302 Found\r\nLocation: https://a.example/p?q=1\r\nServer: egressd\r\nContent-Length: 0\r\n\r\n", ""},
		"redirect, HEAD *": {"HEAD /p HTTP/1.1\r\nHost: a.example\r\n", redirect(policy.Redirect{URI: "/n?x", Port: 8443, Scheme: "https", Code: 308}), "", nil,
			"HTTP/1.1 308 Permanent Redirect\r\nLocation: https://a.example:8443/n?x\r\nServer: egressd\r\n\r\n", ""},
		"direct *": {"GET / HTTP/1.1\r\nHost: a.example\r\n", direct(418, "tea"), "", nil,
			"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 3\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\ntea", ""},
		"direct, HEAD *": {"HEAD / HTTP/1.1\r\nHost: a.example\r\n", direct(503, "tea"), "", nil,
			"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\n", ""},
		"direct, no body *": {"GET / HTTP/1.1\r\nHost: a.example\r\n", direct(200, ""), "", nil,
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: egressd\r\n\r\n", ""},
		"direct, 204 *": {"GET / HTTP/1.1\r\nHost: a.example\r\n", direct(204, "tea"), "", nil,
			"HTTP/1.1 204 No Content\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\n", ""},
		"direct, of a type *": {"GET / HTTP/1.1\r\nHost: a.example\r\n", typed, "", nil,
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\nServer: egressd\r\n\r\n{}", ""},
		"fault *": {"GET / HTTP/1.1\r\nHost: a.example\r\n", &policy.HTTPRule{Route: to("a.example"), Fault: &policy.Fault{AbortStatus: 500, AbortGRPC: -1, AbortPercent: 100}}, "", nil,
			"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 18\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\nfault filter abort", "FI"},
		"fault, delayed *": {"HEAD / HTTP/1.1\r\nHost: a.example\r\n", &policy.HTTPRule{Route: to("a.example"), Fault: &policy.Fault{Delay: time.Millisecond, DelayPercent: 100, AbortStatus: 500, AbortGRPC: -1, AbortPercent: 100}}, "", nil,
			"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 18\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\n", "DI,FI"},
		"timeout *": {"GET /slow HTTP/1.1\r\nHost: a.example\r\n", &policy.HTTPRule{Route: to("a.example"), Timeout: 20 * time.Millisecond}, "", nil,
			"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 24\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\nupstream request timeout", "UT"},
		"authorization *": {"GET / HTTP/1.1\r\nHost: a.example\r\n", nil, policy.ReasonAuthorization, nil,
			"HTTP/1.1 403 Forbidden\r\nContent-Length: 19\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\nRBAC: access denied", ""},
		"not allowed": {"GET / HTTP/1.1\r\nHost: a.example\r\n", nil, policy.ReasonName, nil,
			"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 52\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\negressd: a.example is not allowed (name-not-allowed)", ""},
		"no route": {"GET / HTTP/1.1\r\nHost: a.example\r\n", nil, policy.ReasonNoRoute, nil,
			"HTTP/1.1 404 Not Found\r\nContent-Length: 31\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\negressd: no route for a.example", "NR"},
		"unknown destination": {"GET / HTTP/1.1\r\nHost: a.example\r\n", &policy.HTTPRule{Route: to("nobody.example")}, "", nil,
			"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 62\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\negressd: the destination of the route for a.example is unknown", "NC"},
		"unreachable": {"GET / HTTP/1.1\r\nHost: a.example\r\n", &policy.HTTPRule{Route: to("a.example")}, "", dial.ErrConnect,
			"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 49\r\nContent-Type: text/plain\r\nServer: egressd\r\n\r\negressd: a.example: upstream could not be reached", "UF,URX"},
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		tt := cases[name]
		t.Run(name, func(t *testing.T) {
			r := newRig(t, HTTP)
			r.httpOrigin("a.example", func(_ http.ResponseWriter, req *http.Request) {
				if req.URL.Path == "/slow" {
					<-req.Context().Done()
				}
			})
			r.fails["a.example"] = tt.fail
			if tt.deny != "" {
				r.http = func(*policy.Request) policy.HTTPDecision {
					return policy.HTTPDecision{Decision: denied(tt.deny, nil)}
				}
			} else {
				r.compiled(services("a.example"), tt.rule)
			}
			nc := r.dial()
			write(t, nc, tt.request+"\r\n")
			e := r.sink.wait(t, flow.Request, 1)
			if err := nc.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(nc)
			if err != nil {
				t.Fatal(err)
			}
			if s := dateField.ReplaceAllString(string(got), ""); sortFields(s) != sortFields(tt.want) || len(s) == len(got) {
				t.Errorf("answer\n%q, want\n%q and a date", got, tt.want)
			}
			if e.ResponseFlags != tt.flags {
				t.Errorf("flags %q, want %q: %+v", e.ResponseFlags, tt.flags, e)
			}
		})
	}
}

// sortFields is an answer with the lines of its header in the order of the alphabet.
func sortFields(answer string) string {
	head, body, _ := strings.Cut(answer, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	slices.Sort(lines[1:])
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

// TestServerIsTheOrigins: an answer that is not egressd's says nothing of it.
func TestServerIsTheOrigins(t *testing.T) {
	for _, server := range []string{"", "their own"} {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", func(w http.ResponseWriter, _ *http.Request) {
			if server != "" {
				w.Header().Set("Server", server)
			}
			w.WriteHeader(503)
		})
		if resp, _ := get(t, r.client(false), "http://a.example/"); resp.Header.Get("Server") != server {
			t.Errorf("%v", resp.Header)
		}
		if e := r.sink.wait(t, flow.Request, 1); e.ResponseFlags != "" {
			t.Errorf("event %+v", e)
		}
	}
}
