// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// said is a route, and what was said about it.
func said() (*HTTPRoute, *strictyaml.Report) {
	r := &strictyaml.Report{}
	return &HTTPRoute{Checker: check.Checker{Reporter: strictyaml.Reporter{Report: r}}}, r
}

var at = &strictyaml.Node{Line: 1, Col: 1}

func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"/": "/", "/a": "/a", "/a/": "/a", "/a%20b": "/a%20b", "/a~b!$&'()*+,;=:@": "/a~b!$&'()*+,;=:@",
		"a": "", "": "", "/a//b": "", "/a/../b": "", "/./a": "", "/a/..": "", "/a/.": "", "/a%2Fb": "", "/a#b": "", "/a b": "", "/a?b": "", "/ä": "", "/%zz": "", "/" + strings.Repeat("a", 1024): "",
	} {
		o, r := said()
		got := o.gatewayPath(at, &gateway.HTTPPathMatch{Value: &in})
		if (r.Errors == 0) != (want != "") || want != "" && (got.Value != want || got.Kind != policy.MatchPathPrefix) {
			t.Errorf("%q: %+v, %v", in, got, r.Findings)
		}
	}
}

// FuzzPath: a path that is taken has no part that leads elsewhere when servers
// or proxies make it shorter.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/a/../b", "/%2e%2e/", "//", "/a%2f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, r := said()
		o.literalPath(at, s)
		if r.Errors == 0 && (s[0] != '/' || strings.Contains(s, "//") || slices.Contains(strings.Split(s, "/"), "..") || strings.ContainsAny(s, "?# \x00\n")) {
			t.Errorf("%q is taken", s)
		}
	})
}

func TestDuration(t *testing.T) {
	for in, want := range map[gateway.Duration]time.Duration{"10s": 10 * time.Second, "500ms": time.Second / 2, "1m30s": 90 * time.Second, "0s": 0} {
		o, r := said()
		if got := o.gatewayDuration(at, "timeout", &in); got != want || r.Errors > 0 {
			t.Errorf("%s: %v, %v", in, got, r.Findings)
		}
	}
	for _, in := range []gateway.Duration{"", "10", "-1s", "1.5s", "1us", "1d", "100000000h"} {
		o, r := said()
		if o.gatewayDuration(at, "timeout", &in); r.Errors == 0 {
			t.Errorf("%q is taken", in)
		}
	}
}

// TestPrecedence: exact paths come first, then the longest prefix, expressions,
// and what is for every path; whatever the order in which they are written.
func TestPrecedence(t *testing.T) {
	path := func(kind policy.MatchKind, value string) *policy.HTTPMatch {
		return &policy.HTTPMatch{URI: &policy.StringMatch{Kind: kind, Value: value}}
	}
	with := func(m *policy.HTTPMatch, headers int) *policy.HTTPMatch {
		m.Headers = map[string]policy.StringMatch{}
		for i := range headers {
			m.Headers[strings.Repeat("x", i+1)] = policy.StringMatch{}
		}
		return m
	}
	want := []routeMatch{
		{match: path(policy.MatchExact, "/abc")}, {match: path(policy.MatchExact, "/a")},
		{match: path(policy.MatchPathPrefix, "/abc")}, {match: with(path(policy.MatchPathPrefix, "/a"), 2)}, {match: with(path(policy.MatchPathPrefix, "/a"), 1)},
		{match: path(policy.MatchRegex, ".*")}, {match: with(path(policy.MatchPathPrefix, "/"), 1)}, {match: path(policy.MatchPathPrefix, "/")},
	}
	for i := range want {
		want[i].width = 1
	}
	want = slices.Insert(want, 0, routeMatch{match: path(policy.MatchPathPrefix, "/")}) // of the narrower host
	for seed := range uint64(50) {
		got := slices.Clone(want)
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortStableFunc(got, matchPrecedence)
		for i := range got {
			if got[i].match != want[i].match {
				t.Fatalf("seed %d: place %d has %+v", seed, i, got[i].match.URI)
			}
		}
	}
}

func TestRoutePrecedence(t *testing.T) {
	route := func(name string, seconds int64) HTTPRoute {
		r := HTTPRoute{Ref: policy.Ref{Namespace: "a", Name: name}}
		if seconds > 0 {
			r.Created = meta.NewTime(time.Unix(seconds, 0))
		}
		return r
	}
	all := []HTTPRoute{route("b", 0), route("a", 0), route("young", 9), route("z", 5), route("c", 5)}
	slices.SortStableFunc(all, func(a, b HTTPRoute) int { return older(a.Created, b.Created, a.Ref, b.Ref) })
	for i, want := range []string{"c", "z", "young", "a", "b"} {
		if all[i].Ref.Name != want {
			t.Errorf("place %d has %s, want %s", i, all[i].Ref.Name, want)
		}
	}
}
