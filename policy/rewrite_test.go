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
		{"whole match", &Rewrite{RegexMatch: "b+", RegexRewrite: `[\0]`}, nil, "/abbc", `/a[bb]c`},
	}
	for _, tt := range tests {
		a := &HTTPAction{Rule: &HTTPRule{Rewrite: tt.rw}, Match: tt.m}
		if got := a.RewritePath(tt.path); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
