// SPDX-License-Identifier: Apache-2.0

// Package requests reads what HTTP rules say of requests: what strings and headers must
// be like, and which other origins may ask (CORS).
package requests

import (
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// StringMatch translates a StringMatch; nil stays nil.
func StringMatch(o *check.Checker, at *strictyaml.Node, where string, m *networking.StringMatch) *policy.StringMatch {
	if m == nil {
		return nil
	}
	switch v := m.MatchType.(type) {
	case *networking.StringMatch_Exact:
		return &policy.StringMatch{Kind: policy.MatchExact, Value: v.Exact}
	case *networking.StringMatch_Prefix:
		if v.Prefix == "" && where != "uri" {
			o.Errorf(at.At("prefix"), "%q: prefix string match should not be empty", where)
		}
		return &policy.StringMatch{Kind: policy.MatchPrefix, Value: v.Prefix}
	case *networking.StringMatch_Regex:
		// Not a regular expression, but Istio's old way to say "present".
		if v.Regex == "*" && where == "withoutHeaders" {
			return &policy.StringMatch{Kind: policy.MatchPresent}
		}
		if v.Regex == "*" && (where == "headers" || where == "queryParams") {
			o.Errorf(at.At("regex"), "%q: regex * is no regular expression; for one that is there, whatever its value, write {}", where)
			return &policy.StringMatch{Kind: policy.MatchPresent}
		}
		o.Regex(at.At("regex"), where, v.Regex)
		return &policy.StringMatch{Kind: policy.MatchRegex, Value: v.Regex}
	}
	return &policy.StringMatch{Kind: policy.MatchPresent}
}

// StringMatches translates those of a map, sorted by its keys; none are nil.
func StringMatches(o *check.Checker, at *strictyaml.Node, where string, in map[string]*networking.StringMatch) map[string]policy.StringMatch {
	if len(in) == 0 {
		return nil
	}
	out, x := make(map[string]policy.StringMatch, len(in)), strictyaml.EntriesOf(at)
	for _, key := range slices.Sorted(maps.Keys(in)) {
		if m := StringMatch(o, x.At(key), where, in[key]); m != nil {
			out[key] = *m
		}
	}
	return out
}

// HeaderMatches is StringMatches for names of headers, which ignore case.
func HeaderMatches(o *check.Checker, at *strictyaml.Node, where string, in map[string]*networking.StringMatch) map[string]policy.StringMatch {
	if len(in) == 0 {
		return nil
	}
	out, x := make(map[string]policy.StringMatch, len(in)), strictyaml.EntriesOf(at)
	for _, name := range slices.Sorted(maps.Keys(in)) {
		key := x.KeyOf(name)
		switch {
		case isClaim(name):
			continue // claims says it
		case !check.IsHeaderName(name) && !isPseudoHeader(name):
			o.Errorf(key, "%s: header name %q is not a valid header name", where, name)
			continue
		}
		lower := strings.ToLower(name)
		if _, dup := out[lower]; dup {
			o.Errorf(key, "%s: header %q is listed twice (names ignore case)", where, name)
			continue
		}
		switch lower {
		case "uri", "scheme", "method", "authority":
			o.Warnf(key, "%s: %q is matched as a header of that name; use the field %s of the match", where, name, lower)
		}
		if m := StringMatch(o, x.At(name), where, in[name]); m != nil {
			out[lower] = *m
		}
	}
	return out
}

// isClaim says whether a header of a match stands for a claim of a token that
// Istio has verified ("@request.auth.claims.sub").
func isClaim(name string) bool { return strings.HasPrefix(name, "@") }

// Claims refuses matches on the claims of tokens: nothing here verifies them.
func Claims(o *check.Checker, at *strictyaml.Node, r *networking.HTTPRoute, gateways []string) {
	for i, m := range r.Match {
		for _, where := range []struct {
			key     string
			headers map[string]*networking.StringMatch
		}{{"headers", m.Headers}, {"withoutHeaders", m.WithoutHeaders}} {
			if len(where.headers) == 0 {
				continue
			}
			x := strictyaml.EntriesOf(at.At("match", i, where.key))
			for _, name := range slices.Sorted(maps.Keys(where.headers)) {
				if !isClaim(name) {
					continue
				}
				n := x.KeyOf(name)
				switch {
				case slices.Contains(gateways, model.Mesh):
					o.Errorf(n, "JWT claim based routing (key: %s) is only supported for gateway, found no gateways: %v", name, gateways)
				default:
					o.Unsupported(n, "matching on JWT claims")
				}
			}
		}
	}
}

// isPseudoHeader says whether s is a part of a request that HTTP/2 writes as a
// header.
func isPseudoHeader(s string) bool {
	switch s {
	case ":method", ":scheme", ":authority", ":path", ":status":
		return true
	}
	return false
}
