// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
)

// TestAuthorizationOfForms: what is denied is denied in each form in which a
// server may read it, and nothing is allowed by one form alone.
func TestAuthorizationOfForms(t *testing.T) {
	deny := mustCompile(t, guarded(
		authorize(AuthDeny, "http", on(&AuthOperation{Paths: paths("/secret", "/admin/*", "*.key")})),
		authorize(AuthDeny, "http", when("request.headers[x-env]", "prod")),
	)).Policy(DefaultPolicy)
	allow := mustCompile(t, guarded(
		authorize(AuthAllow, "http", &AuthRule{
			To:   []*AuthOperation{{Paths: paths("/open/*")}},
			When: []*AuthCondition{{Key: "request.headers[x-env]", Values: []string{"test*"}}},
		}),
	)).Policy(DefaultPolicy)
	ask := func(p *Policy, path string, env ...string) Reason {
		r := get("http.example.com", "/")
		r.Path = path
		if len(env) > 0 {
			for _, v := range env {
				r.Header.Add("X-Env", v)
			}
		}
		return p.DecideHTTP(flow80, r).Reason
	}
	for _, path := range []string{
		"/secret", "/secret#x", "/secret#", "/%73ecret", "/secret;x", "/./secret", "//secret", "/secret%00x", "/%73ecret#%zz",
		"/admin/x%zz", "/%61dmin/%zz", "/admin/#", "/x.key", "/x.key#y", "/x.ke%79#%", "/x.key;a=b", "/x.key%00.png",
		"/%u0073ecret", "/50%", "/a%zz",
	} {
		if got := ask(deny, path); got != ReasonAuthorization {
			t.Errorf("%s: %s", path, got)
		}
	}
	for _, path := range []string{"/", "/public", "/secrets", "/secret/x", "/admin", "/key", "/a%23secret"} {
		if got := ask(deny, path); got != ReasonAllowed {
			t.Errorf("%s: %s", path, got)
		}
	}
	for _, env := range [][]string{
		{"prod"}, {"prod", "x"}, {"x", "prod"}, {"prod", "prod"}, {"x,prod"}, {"prod, x"}, {"x ,\tprod ", "y"},
	} {
		if got := ask(deny, "/", env...); got != ReasonAuthorization {
			t.Errorf("X-Env %q: %s", env, got)
		}
	}
	for _, env := range [][]string{{}, {"test"}, {"production"}, {"x", "y"}, {"x, production"}, {""}} {
		if got := ask(deny, "/", env...); got != ReasonAllowed {
			t.Errorf("X-Env %q: %s", env, got)
		}
	}
	for _, c := range []struct {
		path string
		env  []string
		want Reason
	}{
		{"/open/x", []string{"test1"}, ReasonAllowed},
		{"/open/x", []string{"test1", "test2"}, ReasonAllowed},
		{"/open/x", []string{"test1,other"}, ReasonAllowed}, // one value, as far as anybody knows
		{"/open/x", []string{"test1", "other"}, ReasonNoAllow},
		{"/open/x", []string{"other", "test1"}, ReasonNoAllow},
		{"/open/x", nil, ReasonNoAllow},
		{"/secret#/open/x", []string{"test1"}, ReasonNoAllow},
		{"/open/%2e%2e/secret", []string{"test1"}, ReasonNoAllow},
		{"/open%2fx", []string{"test1"}, ReasonNoAllow},
		{"/open/%", []string{"test1"}, ReasonNoAllow},
	} {
		if got := ask(allow, c.path, c.env...); got != c.want {
			t.Errorf("%s, X-Env %q: %s, want %s", c.path, c.env, got, c.want)
		}
	}
}
