// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/textproto"
	"regexp"
	"slices"
	"strings"
)

// RewritePath returns the path (without query) that goes upstream by the
// action's rewrite.
func (a *HTTPAction) RewritePath(path string) string {
	rw := a.Rule.Rewrite
	switch {
	case rw == nil:
		return path
	case rw.RegexMatch != "":
		re := a.rewrite
		if re == nil { // an action that was not compiled here
			var err error
			if re, err = regexp.Compile(rw.RegexMatch); err != nil {
				return path
			}
		}
		return re.ReplaceAllString(path, goTemplate(rw.RegexRewrite))
	case rw.URI != "":
		return a.Match.ReplacePrefix(path, rw.URI)
	}
	return path
}

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

// goTemplate turns RE2's \1 into Go's ${1}, and keeps every $ as it is.
func goTemplate(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$':
			b.WriteString("$$")
		case c == '\\' && i+1 < len(s) && '0' <= s[i+1] && s[i+1] <= '9':
			i++
			b.WriteString("${" + s[i:i+1] + "}")
		case c == '\\' && i+1 < len(s) && s[i+1] == '\\':
			i++
			b.WriteByte('\\')
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func noHeaderOps(o *HeaderOps) bool { return len(o.Set)+len(o.Add)+len(o.Remove) == 0 }

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

func cloneHeader(h map[string][]string) map[string][]string {
	out := make(map[string][]string, len(h))
	for k, v := range h {
		out[k] = slices.Clone(v)
	}
	return out
}
