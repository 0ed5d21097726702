// SPDX-License-Identifier: Apache-2.0

package authorization

import (
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/internal/match"
)

func TestValueMatch(t *testing.T) {
	for in, want := range map[string]policy.ValueMatch{
		"*": {Kind: policy.ValuePresent}, "a": {Kind: policy.ValueExact, Value: "a"}, "": {Kind: policy.ValueExact},
		"a*": {Kind: policy.ValuePrefix, Value: "a"}, "*a": {Kind: policy.ValueSuffix, Value: "a"}, "*a*": {Kind: policy.ValueSuffix, Value: "a*"},
	} {
		if got := valueMatch(in); got != want {
			t.Errorf("%q: %+v, want %+v", in, got, want)
		}
	}
}

func TestBlocksAndPorts(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "10.0.0.0/8": "10.0.0.0/8", "2001:db8::1": "2001:db8::1/128", "2001:db8::/32": "2001:db8::/32",
		"": "", "a": "", "10.0.0.0/33": "", "fe80::1%eth0": "", "::ffff:10.0.0.1": "", "::ffff:10.0.0.0/104": "",
	} {
		if p, err := ipBlock(in); (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("%q: %v, %v", in, p, err)
		}
	}
	for in, good := range map[string]bool{"0": true, "443": true, "65535": true, "65536": false, "-1": false, "": false, "http": false, " 1": false} {
		if n, err := authPort(in); (err == nil) != good {
			t.Errorf("port %q: %d, %v", in, n, err)
		}
	}
}

func TestTemplate(t *testing.T) {
	for in, good := range map[string]bool{
		"/a/{*}": true, "/{**}": true, "/{*}/b/{**}": true, "/a/{**}/b": true,
		"a/{*}": false, "/{**}/{*}": false, "/{**}/{**}": false, "/{x}": false, "/a{*}": false, "/*/{*}": false, "": false, "/a/{*}.txt": false,
	} {
		if err := checkTemplate(in); (err == nil) != good {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// FuzzTemplate: what is taken for a template can be compiled.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"/a/{*}", "/{**}", "/{*}/b/{**}", "/{**}/{*}", "/{x}", "{*}", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !isTemplate(s) || checkTemplate(s) != nil || strings.ContainsAny(s, "\x00\n") {
			return
		}
		if _, err := match.NewPathMatcher(policy.PathMatch{Template: s}); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}
