// SPDX-License-Identifier: Apache-2.0

package model

import (
	"testing"

	"github.com/egressd/egressd/policy"
)

func TestMatchesAll(t *testing.T) {
	prefix := func(s string) *policy.StringMatch { return &policy.StringMatch{Kind: policy.MatchPrefix, Value: s} }
	for name, tt := range map[string]struct {
		match    *policy.HTTPMatch
		gateways []string
		want     bool
	}{
		"no match":             {nil, []string{Mesh}, true},
		"an empty one":         {&policy.HTTPMatch{}, []string{Mesh}, true},
		"every path":           {&policy.HTTPMatch{URI: prefix("/")}, []string{Mesh}, true},
		"some paths":           {&policy.HTTPMatch{URI: prefix("/a")}, []string{Mesh}, false},
		"the path / alone":     {&policy.HTTPMatch{URI: &policy.StringMatch{Kind: policy.MatchExact, Value: "/"}}, []string{Mesh}, false},
		"a method":             {&policy.HTTPMatch{Method: prefix("G")}, []string{Mesh}, false},
		"a port":               {&policy.HTTPMatch{Port: 80}, []string{Mesh}, false},
		"labels":               {&policy.HTTPMatch{SourceLabels: map[string]string{"a": "b"}}, []string{Mesh}, false},
		"a namespace":          {&policy.HTTPMatch{SourceNamespace: "a"}, []string{Mesh}, false},
		"a header":             {&policy.HTTPMatch{Headers: map[string]policy.StringMatch{"a": {}}}, []string{Mesh}, false},
		"no header":            {&policy.HTTPMatch{WithoutHeaders: map[string]policy.StringMatch{"a": {}}}, []string{Mesh}, false},
		"all of its gateways":  {&policy.HTTPMatch{Gateways: []string{Mesh, "a/b"}}, []string{Mesh, "a/b"}, true},
		"some of its gateways": {&policy.HTTPMatch{Gateways: []string{Mesh}}, []string{Mesh, "a/b"}, false},
	} {
		r := &policy.HTTPRule{}
		if tt.match != nil {
			r.Matches = []*policy.HTTPMatch{tt.match}
		}
		if got := MatchesAll(r, &policy.VirtualService{Gateways: tt.gateways}); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestKeyOf: equal values have one key, whatever the order of maps, and others
// have another.
func TestKeyOf(t *testing.T) {
	one := &policy.HTTPMatch{SourceLabels: map[string]string{"a": "1", "b": "2"}, Port: 80}
	two := &policy.HTTPMatch{SourceLabels: map[string]string{"b": "2", "a": "1"}, Port: 80}
	if KeyOf(one) != KeyOf(two) {
		t.Errorf("%s, %s", KeyOf(one), KeyOf(two))
	}
	if two.Port = 81; KeyOf(one) == KeyOf(two) {
		t.Errorf("another port has the key %s, too", KeyOf(two))
	}
}
