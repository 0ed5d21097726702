// SPDX-License-Identifier: Apache-2.0

package match

import (
	"slices"
	"strings"

	"github.com/egressd/egressd/policy/config"
)

// ParseValues reads strings of an AuthorizationPolicy.
func ParseValues(values []string) []config.ValueMatch {
	out := make([]config.ValueMatch, len(values))
	for i, v := range values {
		out[i] = config.ParseValueMatch(v)
	}
	return out
}

// ValueMatches says whether a value matches; an absent one is "".
func ValueMatches(m config.ValueMatch, v string) bool {
	switch m.Kind {
	case config.ValuePresent:
		return v != ""
	case config.ValuePrefix:
		return strings.HasPrefix(v, m.Value)
	case config.ValueSuffix:
		return strings.HasSuffix(v, m.Value)
	}
	return v == m.Value
}

// ValueMatchesBytes is ValueMatches for bytes.
func ValueMatchesBytes(m *config.ValueMatch, v []byte) bool {
	n := len(m.Value)
	switch m.Kind {
	case config.ValuePresent:
		return len(v) > 0
	case config.ValuePrefix:
		return len(v) >= n && string(v[:n]) == m.Value
	case config.ValueSuffix:
		return len(v) >= n && string(v[len(v)-n:]) == m.Value
	}
	return string(v) == m.Value
}

// OneOf says whether v matches one of wanted, if there are any, and none of
// unwanted.
func OneOf(wanted, unwanted []config.ValueMatch, v string) bool {
	match := func(m config.ValueMatch) bool { return ValueMatches(m, v) }
	return (len(wanted) == 0 || slices.ContainsFunc(wanted, match)) && !slices.ContainsFunc(unwanted, match)
}

// Labels says whether labels have everything that a selector asks for.
func Labels(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
