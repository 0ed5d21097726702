// SPDX-License-Identifier: Apache-2.0

package match

import (
	"fmt"
	"strings"

	"github.com/egressd/egressd/policy/config"
)

// Text writes the conditions of a match, in a fixed order.
func (m *HTTPMatcher) Text(src *config.HTTPMatch) string {
	if m == nil {
		return "any"
	}
	var out []string
	if src.Name != "" {
		out = append(out, fmt.Sprintf("name=%q", src.Name))
	}
	for _, f := range [...]struct {
		name string
		s    *stringMatcher
	}{{"uri", m.uri}, {"scheme", m.scheme}, {"method", m.method}, {"authority", m.authority}} {
		if f.s != nil {
			out = append(out, f.name+f.s.text())
		}
	}
	for _, h := range m.headers {
		not := ""
		if h.invert {
			not = "!"
		}
		out = append(out, fmt.Sprintf("%sheader[%q]%s", not, h.name, h.value.text()))
	}
	for _, q := range m.query {
		out = append(out, fmt.Sprintf("query[%q]%s", q.name, q.value.text()))
	}
	if m.Port != 0 {
		out = append(out, fmt.Sprintf("port=%d", m.Port))
	}
	if src.StatPrefix != "" {
		out = append(out, fmt.Sprintf("statPrefix=%q", src.StatPrefix))
	}
	if len(out) == 0 {
		return "any"
	}
	return strings.Join(out, " ")
}

var matchSigns = [...]string{config.MatchPresent: " present", config.MatchExact: "=", config.MatchPrefix: "^=", config.MatchRegex: "~", config.MatchPathPrefix: "/="}

func (s *stringMatcher) text() string {
	out := matchSigns[s.kind]
	if s.kind != config.MatchPresent {
		out += fmt.Sprintf("%q", s.value)
	}
	if s.fold {
		out += " (any case)"
	}
	return out
}

// Miss says which condition of m fails first; "" for none.
func (m *HTTPMatcher) Miss(r *Request) string {
	if m == nil {
		return ""
	}
	if m.Port != 0 && m.Port != r.Port {
		return fmt.Sprintf("port %d is not %d", r.Port, m.Port)
	}
	for _, f := range [...]struct {
		name, value string
		s           *stringMatcher
	}{{"uri", r.Path, m.uri}, {"scheme", r.Scheme, m.scheme}, {"method", r.Method, m.method}, {"authority", r.Authority, m.authority}} {
		if f.s != nil && !f.s.matches(f.value) {
			return fmt.Sprintf("%s %s does not match %q", f.name, f.s.words(), f.value)
		}
	}
	for i := range m.headers {
		h := &m.headers[i]
		if h.matchesHeader(r) {
			continue
		}
		v, ok := r.Field(h.name)
		switch {
		case h.invert:
			return fmt.Sprintf("header %s must not be %s", h.name, h.value.words())
		case !ok:
			return fmt.Sprintf("header %s is missing", h.name)
		}
		return fmt.Sprintf("header %s %s does not match %q", h.name, h.value.words(), v)
	}
	for i := range m.query {
		q := &m.query[i]
		v, ok := r.Query[q.name]
		switch {
		case !ok || len(v) == 0:
			return fmt.Sprintf("query parameter %s is missing", q.name)
		case !q.value.matches(v[0]):
			return fmt.Sprintf("query parameter %s %s does not match %q", q.name, q.value.words(), v[0])
		}
	}
	return ""
}

var matchWords = [...]string{config.MatchPresent: "there", config.MatchExact: "exact", config.MatchPrefix: "prefix", config.MatchRegex: "regex", config.MatchPathPrefix: "path prefix"}

// words is the condition for people.
func (s *stringMatcher) words() string {
	if s.kind == config.MatchPresent {
		return matchWords[s.kind]
	}
	return fmt.Sprintf("%s %q", matchWords[s.kind], s.value)
}
