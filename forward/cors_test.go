// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestCORS: what Envoy's filter answers and adds (test/extensions/filters/http/cors
// has the same cases).
func TestCORS(t *testing.T) {
	yes, no := true, false
	full := policy.CORS{
		AllowOrigins: []policy.StringMatch{{Kind: policy.MatchExact, Value: "https://a.test"}, {Kind: policy.MatchRegex, Value: `https://.*\.b\.test`}},
		AllowMethods: []string{"GET", "PUT"}, AllowHeaders: []string{"x-a", "x-b"}, ExposeHeaders: []string{"x-c"},
		MaxAge: new(90 * time.Second), AllowCredentials: &yes,
	}
	ignoring := full
	ignoring.IgnorePreflights = true
	all := policy.CORS{AllowOrigins: []policy.StringMatch{{Kind: policy.MatchExact, Value: "*"}}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, MaxAge: new(time.Duration(0)), AllowCredentials: &no}
	for _, tt := range []struct {
		name    string
		cors    policy.CORS
		method  string
		headers string // of the request, "name: value", with "; " between
		answers bool   // without the origin
		want    string
	}{
		{"preflight", full, "OPTIONS", "Origin: https://a.test; Access-Control-Request-Method: PUT", true,
			"Allow-Credentials: true; Allow-Headers: x-a,x-b; Allow-Methods: GET,PUT; Allow-Origin: https://a.test; Expose-Headers: x-c; Max-Age: 90"},
		{"preflight by a regex", full, "OPTIONS", "Origin: https://x.b.test; Access-Control-Request-Method: DELETE", true,
			"Allow-Credentials: true; Allow-Headers: x-a,x-b; Allow-Methods: GET,PUT; Allow-Origin: https://x.b.test; Expose-Headers: x-c; Max-Age: 90"},
		{"preflight of another origin is forwarded", full, "OPTIONS", "Origin: https://evil.test; Access-Control-Request-Method: PUT", false, ""},
		{"preflight of another origin is answered", ignoring, "OPTIONS", "Origin: https://evil.test; Access-Control-Request-Method: PUT", true,
			"Allow-Credentials: true; Allow-Headers: x-a,x-b; Allow-Methods: GET,PUT; Expose-Headers: x-c; Max-Age: 90"},
		{"no origin", full, "OPTIONS", "Access-Control-Request-Method: PUT", false, ""},
		{"no method", full, "OPTIONS", "Origin: https://a.test", false, "Allow-Credentials: true; Allow-Origin: https://a.test; Expose-Headers: x-c"},
		{"all of everything", all, "OPTIONS", "Origin: https://evil.test; Access-Control-Request-Method: PATCH; Access-Control-Request-Headers: x-z", true,
			"Allow-Headers: x-z; Allow-Methods: PATCH; Allow-Origin: https://evil.test; Max-Age: 0"},
		{"all, and no headers asked for", all, "OPTIONS", "Origin: null; Access-Control-Request-Method: PATCH", true, "Allow-Methods: PATCH; Allow-Origin: null; Max-Age: 0"},
		{"request", full, "GET", "Origin: https://a.test", false, "Allow-Credentials: true; Allow-Origin: https://a.test; Expose-Headers: x-c"},
		{"request of another origin", full, "GET", "Origin: https://evil.test", false, ""},
		{"request with all", all, "GET", "Origin: https://evil.test", false, "Allow-Origin: https://evil.test"},
		{"request without an origin", full, "GET", "", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, HTTP)
			r.httpOrigin("a.example", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-From", "origin")
				if strings.HasPrefix(tt.name, "request") && tt.want != "" {
					w.Header().Set("Access-Control-Allow-Origin", "the origin's own") // is replaced
				}
			})
			r.compiled(services("a.example"), &policy.HTTPRule{Route: to("a.example"), CORS: &tt.cors})
			req, err := http.NewRequest(tt.method, "http://a.example/", nil)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.SplitSeq(tt.headers, "; ") {
				if name, value, ok := strings.Cut(line, ": "); ok {
					req.Header.Set(name, value)
				}
			}
			resp, err := r.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			var got []string
			for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
				if short, ok := strings.CutPrefix(name, "Access-Control-"); ok {
					got = append(got, fmt.Sprintf("%s: %s", short, strings.Join(resp.Header[name], "|")))
				}
			}
			if strings.Join(got, "; ") != tt.want {
				t.Errorf("fields\n%q, want\n%q", strings.Join(got, "; "), tt.want)
			}
			here := resp.Header.Get("X-From") == ""
			if here != tt.answers || resp.StatusCode != 200 || here != (resp.Header.Get("Server") == "egressd") || here && resp.ContentLength != 0 {
				t.Errorf("%d %v, answered here: %t", resp.StatusCode, resp.Header, tt.answers)
			}
			if e := r.sink.wait(t, flow.Request, 1); e.Status != 200 || e.Upstream.IsValid() == tt.answers {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// TestCORSOfOwnAnswers: what egressd answers in the place of an upstream is shared
// as the upstream's answers are; a fault's is not, and neither is a redirect.
func TestCORSOfOwnAnswers(t *testing.T) {
	cors := &policy.CORS{AllowOrigins: []policy.StringMatch{{Kind: policy.MatchPrefix, Value: "https://"}}}
	for name, tt := range map[string]struct {
		rule   policy.HTTPRule
		status int
		shared bool
	}{
		"unreachable": {policy.HTTPRule{Route: to("a.example"), Retries: &policy.Retries{}}, 503, true},
		"unknown":     {policy.HTTPRule{Route: to("unknown.example")}, 503, true},
		"fault":       {policy.HTTPRule{Route: to("a.example"), Fault: &policy.Fault{AbortStatus: 500, AbortGRPC: -1, AbortPercent: 100}}, 500, false},
		"redirect":    {policy.HTTPRule{Redirect: &policy.Redirect{URI: "/", Code: 301}}, 301, false},
		"direct":      {policy.HTTPRule{DirectResponse: &policy.DirectResponse{Status: 200}}, 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, HTTP)
			tt.rule.CORS = cors
			r.compiled(services("a.example"), &tt.rule)
			req, _ := http.NewRequest("GET", "http://a.example/", nil)
			req.Header.Set("Origin", "https://a.test")
			resp, err := r.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if shared := resp.Header.Get("Access-Control-Allow-Origin") == "https://a.test"; resp.StatusCode != tt.status || shared != tt.shared {
				t.Errorf("%d %v, want %d, shared: %t", resp.StatusCode, resp.Header, tt.status, tt.shared)
			}
		})
	}
}
