// SPDX-License-Identifier: Apache-2.0

package policy

import (
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

func cloneHeader(h map[string][]string) map[string][]string {
	out := make(map[string][]string, len(h))
	for k, v := range h {
		out[k] = slices.Clone(v)
	}
	return out
}
