// SPDX-License-Identifier: Apache-2.0

package policy

import "testing"

func TestRewritePath(t *testing.T) {
	match := func(kind MatchKind, v string) *HTTPMatch {
		return &HTTPMatch{URI: &StringMatch{Kind: kind, Value: v}}
	}
	tests := []struct {
		name string
		rw   *Rewrite
		m    *HTTPMatch
		path string
		want string
	}{
		{"none", nil, nil, "/a", "/a"},
		{"authority only", &Rewrite{Authority: "x"}, nil, "/a", "/a"},
		{"prefix", &Rewrite{URI: "/new"}, match(MatchPrefix, "/old"), "/old/x", "/new/x"},
		{"prefix within a segment", &Rewrite{URI: "/new"}, match(MatchPrefix, "/old"), "/older", "/newer"},
		{"exact", &Rewrite{URI: "/new"}, match(MatchExact, "/old"), "/old", "/new"},
		{"regex match", &Rewrite{URI: "/new"}, match(MatchRegex, "/o.*"), "/old/x", "/new"},
		{"no match", &Rewrite{URI: "/v1/"}, nil, "/x", "/v1/x"},
		{"expression", &Rewrite{RegexMatch: "^/u/([^/]+)/(.*)$", RegexRewrite: `/\2/by/\1`}, nil, "/u/me/it", "/it/by/me"},
		{"dollar is itself", &Rewrite{RegexMatch: "b", RegexRewrite: `$1\\`}, nil, "/abc", `/a$1\c`},
		// The table of the Gateway API's HTTPPathModifier.
		{"segment", &Rewrite{URI: "/xyz"}, match(MatchPathPrefix, "/foo"), "/foo/bar", "/xyz/bar"},
		{"segment with slash", &Rewrite{URI: "/xyz/"}, match(MatchPathPrefix, "/foo"), "/foo/bar", "/xyz/bar"},
		{"segment alone", &Rewrite{URI: "/xyz"}, match(MatchPathPrefix, "/foo"), "/foo", "/xyz"},
		{"segment and slash", &Rewrite{URI: "/xyz"}, match(MatchPathPrefix, "/foo"), "/foo/", "/xyz/"},
		{"segment away", &Rewrite{URI: "/"}, match(MatchPathPrefix, "/foo"), "/foo/bar", "/bar"},
		{"segment with slash away", &Rewrite{URI: "/"}, match(MatchPathPrefix, "/foo"), "/foo/", "/"},
		{"lone segment away", &Rewrite{URI: "/"}, match(MatchPathPrefix, "/foo"), "/foo", "/"},
		{"segment of the root", &Rewrite{URI: "/xyz"}, match(MatchPathPrefix, "/"), "/foo", "/xyz/foo"},
		{"root of the root", &Rewrite{URI: "/xyz/"}, match(MatchPathPrefix, "/"), "/", "/xyz/"},
		{"whole match", &Rewrite{RegexMatch: "b+", RegexRewrite: `[\0]`}, nil, "/abbc", `/a[bb]c`},
	}
	for _, tt := range tests {
		a := &HTTPAction{Rule: &HTTPRule{Rewrite: tt.rw}, Match: tt.m}
		if got := a.RewritePath(tt.path); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
