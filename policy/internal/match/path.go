// SPDX-License-Identifier: Apache-2.0

package match

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/egressd/egressd/policy/config"
)

// PathMatcher is a PathMatch in the form in which it is asked. A template
// has segments, "{*}" for any one, with "{**}" for any number of the rest at
// most once.
type PathMatcher struct {
	config.ValueMatch
	template bool
	segments []string
}

func PathMatchers(list []config.PathMatch) []PathMatcher {
	out := make([]PathMatcher, len(list))
	for i, m := range list {
		out[i], _ = NewPathMatcher(m) // validated
	}
	return out
}

func NewPathMatcher(m config.PathMatch) (PathMatcher, error) {
	if m.Template == "" {
		return PathMatcher{ValueMatch: m.ValueMatch}, nil
	}
	out := PathMatcher{template: true, segments: strings.Split(m.Template, "/")}
	for i, s := range out.segments {
		switch {
		case s == "{*}":
		case s == "{**}":
			if strings.Contains(strings.Join(out.segments[i+1:], "/"), "{**}") {
				return out, fmt.Errorf("path template %q has {**} twice", m.Template)
			}
		case strings.ContainsAny(s, "{}*"):
			return out, fmt.Errorf("path template %q: %q is neither a text nor {*} nor {**}", m.Template, s)
		}
	}
	return out, nil
}

func (m *PathMatcher) Matches(p string) bool {
	if !m.template {
		return ValueMatches(m.ValueMatch, p)
	}
	return matchSegments(m.segments, p)
}

// matchSegments matches a path against a template. {*} is one segment that is
// not empty; {**} is any number of them, or none (Envoy's UriTemplateMatch).
func matchSegments(template []string, p string) bool {
	for i, want := range template {
		if want == "{**}" {
			return matchRest(template[i+1:], p)
		}
		head, rest, more := strings.Cut(p, "/")
		if want == "{*}" && head == "" || want != "{*}" && want != head {
			return false
		}
		if !more {
			// {**} may stand for nothing at all.
			return len(template) == i+1 || len(template) == i+2 && template[i+1] == "{**}"
		}
		if i == len(template)-1 {
			return false // there is more
		}
		p = rest
	}
	return false // cannot be: a template has a segment
}

// matchRest says whether a suffix of p's segments matches template.
func matchRest(template []string, p string) bool {
	if len(template) == 0 {
		return true
	}
	for {
		if matchSegments(template, p) {
			return true
		}
		_, rest, more := strings.Cut(p, "/")
		if !more {
			return false
		}
		p = rest
	}
}

// PlainPath is a path as servers may read it: without a fragment, percent-
// decoded, up to a NUL, without parameters, with dot segments resolved and runs
// of slashes merged. Escapes that are none stay as they are, as lenient servers
// leave them. It allocates only when something has to change.
func PlainPath(raw string) string {
	if !strings.ContainsAny(raw, "%\\;#\x00") && !strings.Contains(raw, "//") && !strings.Contains(raw, "/.") {
		return raw
	}
	p, _, _ := strings.Cut(raw, "#")
	p, _, _ = strings.Cut(unescape(p), "\x00")
	p = strings.ReplaceAll(p, `\`, "/")
	if strings.Contains(p, ";") { // parameters, which many servers leave out
		segments := strings.Split(p, "/")
		for i := range segments {
			segments[i], _, _ = strings.Cut(segments[i], ";")
		}
		p = strings.Join(segments, "/")
	}
	end := ""
	if strings.HasSuffix(p, "/") && p != "/" {
		end = "/"
	}
	if p = path.Clean("/" + p); p == "/" {
		return p
	}
	return p + end
}

// BadEscape says whether a path has a "%" that begins no escape (RFC 3986, 2.1).
func BadEscape(p string) bool {
	_, err := url.PathUnescape(p)
	return err != nil
}

// unescape decodes the percent-escapes of s, and leaves alone what is none.
func unescape(s string) string {
	if d, err := url.PathUnescape(s); err == nil {
		return d
	}
	var b strings.Builder
	for s != "" {
		n := min(3, len(s))
		if d, err := url.PathUnescape(s[:n]); s[0] == '%' && err == nil {
			b.WriteString(d)
		} else {
			n = 1
			b.WriteByte(s[0])
		}
		s = s[n:]
	}
	return b.String()
}

// RegexTemplate turns RE2's \1 into Go's ${1}, and keeps every $ as it is.
func RegexTemplate(s string) string {
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
