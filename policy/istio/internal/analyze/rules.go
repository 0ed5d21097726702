// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
)

// unreachable finds rules and matches that rules before them leave nothing
// for (Istio's messages IST0130 and IST0131).
func (a *analysis) unreachable(vs *policy.VirtualService) {
	seen := covers{}
	for i, r := range vs.HTTP {
		if len(vs.HTTP) == 1 && len(r.Matches) == 1 {
			break // nothing to compare it with
		}
		if len(r.Matches) == 0 || model.MatchesAll(r, vs) {
			break // what comes after it is named where the rule is read
		}
		number := "#" + strconv.Itoa(i)
		if r.Name != "" {
			number = strconv.Quote(r.Name)
		}
		a.covered(r.Ref, number, len(r.Matches), func(j int) (string, bool) { return seen.http(r.Matches[j], number) })
	}
	seen = covers{}
	for i, r := range vs.TLS {
		number := "#" + strconv.Itoa(i)
		a.covered(r.Ref, number, len(r.Matches), func(j int) (string, bool) { return seen.l4(r.Matches[j], number) })
	}
	seen = covers{}
	all := false
	for i, r := range vs.TCP {
		number := "#" + strconv.Itoa(i)
		if all {
			s, n := a.rule(r.Ref)
			s.Warnf(n, "virtualService rule %s not used (route without matches defined before)", number)
			continue
		}
		all = len(r.Matches) == 0
		a.covered(r.Ref, number, len(r.Matches), func(j int) (string, bool) { return seen.l4(r.Matches[j], number) })
	}
}

// covered reports which matches of a rule have no effect: earlier says which
// rule before it has all that match j would. The matches that delegation made
// are nowhere to be seen, so that of them only the rule is named.
func (a *analysis) covered(ref policy.Ref, number string, matches int, earlier func(j int) (string, bool)) {
	dead := 0
	for j := range matches {
		other, ok := earlier(j)
		if !ok {
			continue
		}
		dead++
		if s, n := a.rule(ref); s.object == nil || len(n.Get("match").List()) == matches {
			s.Warnf(n.At("match", j), "virtualService rule %s match #%d is not used (duplicate/overlapping match in rule %s)", number, j, other)
		}
	}
	if dead > 0 && dead == matches {
		s, n := a.rule(ref)
		s.Warnf(n, "virtualService rule %s not used (all matches used by prior rules)", number)
	}
}

// covers remembers matches: the rule of each by all that it asks for, and
// for HTTP the prefixes by all but the path.
type covers map[string]*cover

type cover struct {
	rule string // that takes all; "" when only prefixes are
	// prefixes has the rules by the prefix of the path, lengths what lengths
	// the prefixes have.
	prefixes map[string]string
	lengths  []int
}

// at returns what is known of matches that ask for the same.
func (c covers) at(key string) *cover {
	if c[key] == nil {
		c[key] = &cover{prefixes: map[string]string{}}
	}
	return c[key]
}

// l4 returns the rule that has the same match, and remembers it otherwise.
func (c covers) l4(m *policy.L4Match, rule string) (string, bool) {
	return c.take(model.KeyOf(m), rule)
}

func (c covers) take(key, rule string) (string, bool) {
	known := c.at(key)
	if known.rule != "" {
		return known.rule, true
	}
	known.rule = rule
	return "", false
}

// http returns the rule that has all that m would get. m's path is covered by
// a shorter prefix, and by a match on any path.
func (c covers) http(m *policy.HTTPMatch, rule string) (string, bool) {
	rest := *m
	rest.Name, rest.StatPrefix, rest.URI = "", "", nil
	others := ""
	if !reflect.ValueOf(rest).IsZero() {
		others = model.KeyOf(&rest)
	}
	anyPath := c.at("any " + others)
	if anyPath.rule != "" {
		return anyPath.rule, true
	}
	switch {
	case m.URI == nil:
		anyPath.rule = rule
		return "", false
	case m.URI.Kind == policy.MatchPrefix || m.URI.Kind == policy.MatchExact:
		if other, ok := anyPath.prefix(m.URI.Value, m.IgnoreURICase); ok {
			return other, true
		}
	}
	if m.URI.Kind == policy.MatchPrefix {
		anyPath.add(m.URI.Value, m.IgnoreURICase, rule)
		return "", false
	}
	return c.take("one "+others+" "+model.KeyOf(m.URI), rule)
}

// prefix returns the rule with a prefix of path.
func (c *cover) prefix(path string, ignoreCase bool) (string, bool) {
	if ignoreCase {
		path = strings.ToLower(path)
	}
	for _, n := range c.lengths {
		if n > len(path) {
			break
		}
		if rule, ok := c.prefixes[path[:n]]; ok {
			return rule, true
		}
	}
	return "", false
}

func (c *cover) add(path string, ignoreCase bool, rule string) {
	if ignoreCase {
		path = strings.ToLower(path)
	}
	c.prefixes[path] = rule
	if i, found := slices.BinarySearch(c.lengths, len(path)); !found {
		c.lengths = slices.Insert(c.lengths, i, len(path))
	}
}
