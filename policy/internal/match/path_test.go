// SPDX-License-Identifier: Apache-2.0

package match

import (
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/config"
)

// TestPlainPath: how servers may read a path.
func TestPlainPath(t *testing.T) {
	for raw, want := range map[string]string{
		"/": "/", "/a/b": "/a/b", "/%61": "/a", "/a//b/": "/a/b/", "/a/../b": "/b", `/a\b`: "/a/b",
		"/a;x/b;y": "/a/b", "/a%3bx": "/a", "/a%2fb": "/a/b", "/a%5Cb": "/a/b", "/a/..;/b": "/b",
		"/a#b": "/a", "/a#": "/a", "/a#/../b": "/a", "/#a": "/", "/a%23b": "/a#b",
		"/a%00b": "/a", "/a\x00b": "/a", "/%00": "/",
		"/%zz": "/%zz", "/%61%zz": "/a%zz", "/%61%": "/a%", "/%6": "/%6", "/a%2": "/a%2", "/%zz%2e%2e/b": "/%zz../b",
	} {
		if got := PlainPath(raw); got != want {
			t.Errorf("PlainPath(%q) = %q, want %q", raw, got, want)
		}
	}
}

func FuzzPlainPath(f *testing.F) {
	for _, s := range []string{"/", "/a#b", "/%61%zz", "/a;b/../c//", `\..\a`, "%00", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got := PlainPath(raw)
		if got != raw && (got == "" || got[0] != '/') {
			t.Errorf("PlainPath(%q) = %q", raw, got)
		}
	})
}

// template is a path of an AuthorizationPolicy.
func template(pattern string) PathMatcher {
	m := config.PathMatch{ValueMatch: config.ParseValueMatch(pattern)}
	if strings.Contains(pattern, "{") {
		m = config.PathMatch{Template: pattern}
	}
	return PathMatchers([]config.PathMatch{m})[0]
}

func TestPathMatch(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"/a", []string{"/a"}, []string{"/a/", "/ab"}},
		{"/a*", []string{"/a", "/ab/c"}, []string{"/b"}},
		{"*/z", []string{"/z", "/a/z"}, []string{"/z/a"}},
		{"/a/{*}", []string{"/a/b"}, []string{"/a", "/a/", "/a/b/c"}},
		{"/a/{*}/c", []string{"/a/b/c"}, []string{"/a/c", "/a/b/c/d", "/a/b/b/c"}},
		{"/a/{**}", []string{"/a", "/a/", "/a/b", "/a/b/c"}, []string{"/b/a", "/ab"}},
		{"/{**}/z", []string{"/a/z", "/a/b/z", "/z"}, []string{"/a/z/b", "/az"}},
		{"/{*}/x/{**}", []string{"/a/x/b", "/a/x/b/c"}, []string{"/x/b", "/a/b/x"}},
	} {
		m := template(c.pattern)
		for _, p := range c.yes {
			if !m.Matches(p) {
				t.Errorf("%s does not match %s", c.pattern, p)
			}
		}
		for _, p := range c.no {
			if m.Matches(p) {
				t.Errorf("%s matches %s", c.pattern, p)
			}
		}
	}
}
