// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/textproto"
	"strings"
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

// Apply applies the operations to h, whose keys are canonical, in the order
// remove, set, add. It returns the last value given to Host or :authority, ""
// for none.
func (o *HeaderOps) Apply(h map[string][]string) (authority string) {
	for _, name := range o.Remove {
		delete(h, textproto.CanonicalMIMEHeaderKey(name))
	}
	for _, kv := range o.Set {
		if isAuthority(kv.Name) {
			authority = kv.Value
			continue
		}
		h[textproto.CanonicalMIMEHeaderKey(kv.Name)] = []string{kv.Value}
	}
	for _, kv := range o.Add {
		if isAuthority(kv.Name) {
			authority = kv.Value
			continue
		}
		k := textproto.CanonicalMIMEHeaderKey(kv.Name)
		h[k] = append(h[k], kv.Value)
	}
	return authority
}

func isAuthority(name string) bool {
	return strings.EqualFold(name, "host") || name == ":authority"
}
