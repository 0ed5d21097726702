// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"

	"github.com/egressd/egressd/internal/field"
)

// ReplacePrefix puts with in the place of the prefix that m matched. A match
// without a path, and a nil one, matched "/", as in Istio's translation; one
// by expression matched the whole path.
func (m *HTTPMatch) ReplacePrefix(path, with string) string {
	if m != nil && m.URI != nil && m.URI.Kind == MatchPathPrefix {
		return replaceSegments(path, m.URI.Value, with)
	}
	n := 1
	if m != nil && m.URI != nil {
		switch m.URI.Kind {
		case MatchPrefix:
			n = len(m.URI.Value)
		case MatchExact, MatchRegex:
			n = len(path)
		}
	}
	return with + path[min(n, len(path)):]
}

// replaceSegments puts with in the place of the segments of prefix, with one
// slash between it and the rest (Gateway API HTTPPathModifier).
func replaceSegments(path, prefix, with string) string {
	n := min(len(strings.TrimSuffix(prefix, "/")), len(path))
	if out := strings.TrimSuffix(with, "/") + path[n:]; out != "" {
		return out
	}
	return "/"
}

// Apply applies the operations to h, in the order remove, set, add. It returns the last value given to Host or :authority, ""
// for none.
func (o *HeaderOps) Apply(h *field.List) (authority string) {
	for _, name := range o.Remove {
		h.Del(name)
	}
	for _, kv := range o.Set {
		if isAuthority(kv.Name) {
			authority = kv.Value
			continue
		}
		h.Set(kv.Name, kv.Value)
	}
	for _, kv := range o.Add {
		if isAuthority(kv.Name) {
			authority = kv.Value
			continue
		}
		h.Add(kv.Name, kv.Value)
	}
	return authority
}

func isAuthority(name string) bool {
	return strings.EqualFold(name, "host") || name == ":authority"
}
