// SPDX-License-Identifier: Apache-2.0

// Package match says whether strings, paths, labels and requests are what a
// configuration asks for. It knows no policy.
package match

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy/config"
)

// Request is what HTTP rules match on. Path has no query and is as the
// client sent it (still escaped).
type Request struct {
	Method    string
	Scheme    string // http or https
	Authority string // Host or :authority, as sent
	Host      string // Authority, normalized, without port
	Path      string
	Query     url.Values
	Header    field.List
	Port      uint16 // the port that the workload dialled, or the listener's
	// Gateway is "namespace/name" on the ingress side, "" for mesh.
	Gateway string
	// Visitor is who sent it, on the ingress side; nil: a workload.
	Visitor *Visitor
	// Draw is a uniformly distributed number, by which the rules choose among weighted
	// destinations. It is the request's own as long as it is under way: who asks again
	// about it asks about where it goes.
	Draw uint64
}

// Visitor is what is known of who connected to a gateway from outside.
type Visitor struct {
	// Src is where the connection is from: what a PROXY header says, where there is one.
	Src netip.Addr
	// Remote is where the request is from: what the trusted proxies say, else Src.
	Remote netip.Addr
	// TLS says that the connection's TLS has ended here, SNI its name.
	TLS bool
	SNI string
	// Principal is the SPIFFE id of a verified client certificate, without its scheme.
	Principal string
}

// HTTPMatcher is a compiled HTTPMatch. All of its conditions must hold; the zero
// HTTPMatcher matches everything.
type HTTPMatcher struct {
	uri, scheme, method, authority *stringMatcher
	headers                        []fieldMatcher
	query                          []fieldMatcher
	Port                           uint16
}

// fieldMatcher is a condition on a header (canonical name) or query parameter.
type fieldMatcher struct {
	name   string
	value  *stringMatcher
	invert bool
}

// stringMatcher is a compiled StringMatch.
type stringMatcher struct {
	kind  config.MatchKind
	value string
	fold  bool
	re    *regexp.Regexp
}

// FullMatch compiles an RE2 expression that must match the whole text.
func FullMatch(expr string) (*regexp.Regexp, error) {
	// Compiled alone first: "a)(b" must not become valid within the group.
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}

// newStringMatcher returns nil for a nil m.
func newStringMatcher(m *config.StringMatch, fold bool) (*stringMatcher, error) {
	if m == nil {
		return nil, nil
	}
	s := &stringMatcher{kind: m.Kind, value: m.Value}
	switch m.Kind {
	case config.MatchPresent, config.MatchExact, config.MatchPrefix, config.MatchPathPrefix:
		// Envoy ignores case_sensitive for regular expressions.
		s.fold = fold
		return s, nil
	case config.MatchRegex:
		re, err := FullMatch(m.Value)
		s.re = re
		return s, err
	}
	return nil, fmt.Errorf("match kind %d is unknown", m.Kind)
}

// matches says whether a present value v matches.
func (s *stringMatcher) matches(v string) bool {
	switch s.kind {
	case config.MatchPresent:
		return true
	case config.MatchExact:
		return v == s.value || s.fold && strings.EqualFold(v, s.value)
	case config.MatchPrefix:
		n := len(s.value)
		return strings.HasPrefix(v, s.value) || s.fold && len(v) >= n && strings.EqualFold(v[:n], s.value)
	case config.MatchRegex:
		return s.re.MatchString(v)
	case config.MatchPathPrefix:
		n := len(s.value)
		if s.value == "/" {
			return true // also of "*", which OPTIONS asks for
		}
		return len(v) >= n && (len(v) == n || v[n] == '/') && (v[:n] == s.value || s.fold && strings.EqualFold(v[:n], s.value))
	}
	return false
}

// NewHTTPMatcher compiles m. Its errors say which field is wrong.
func NewHTTPMatcher(m *config.HTTPMatch) (*HTTPMatcher, error) {
	out := &HTTPMatcher{Port: m.Port}
	var errs []error
	compile := func(field string, m *config.StringMatch, fold bool) *stringMatcher {
		s, err := newStringMatcher(m, fold)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
		return s
	}
	out.uri = compile("uri", m.URI, m.IgnoreURICase)
	out.scheme = compile("scheme", m.Scheme, false)
	out.method = compile("method", m.Method, false)
	out.authority = compile("authority", m.Authority, false)
	fields := func(field string, all map[string]config.StringMatch, name func(string) string, invert bool) []fieldMatcher {
		var out []fieldMatcher
		for _, k := range slices.Sorted(maps.Keys(all)) {
			v := all[k]
			if v.Kind == config.MatchRegex && v.Value == "*" {
				v = config.StringMatch{} // Istio reads the regex "*" as "is there"
			}
			out = append(out, fieldMatcher{name(k), compile(field+"["+k+"]", &v, false), invert})
		}
		return out
	}
	out.headers = append(fields("headers", m.Headers, textproto.CanonicalMIMEHeaderKey, false),
		fields("withoutHeaders", m.WithoutHeaders, textproto.CanonicalMIMEHeaderKey, true)...)
	out.query = fields("queryParams", m.QueryParams, func(s string) string { return s }, false)
	return out, errors.Join(errs...)
}

// MatchesAll says whether nothing is asked but perhaps a path that every
// path is: Istio's catch-all, behind which no rule is reachable.
func (m *HTTPMatcher) MatchesAll() bool {
	if m == nil {
		return true
	}
	if m.scheme != nil || m.method != nil || m.authority != nil || m.Port != 0 || len(m.headers)+len(m.query) > 0 {
		return false
	}
	u := m.uri
	return u == nil || u.kind == config.MatchPresent || u.kind == config.MatchPrefix && (u.value == "/" || u.value == "") ||
		u.kind == config.MatchPathPrefix && u.value == "/" || u.kind == config.MatchRegex && u.value == ".*"
}

// Matches says whether r fulfils all conditions; a nil matcher has none.
func (m *HTTPMatcher) Matches(r *Request) bool {
	if m == nil {
		return true
	}
	if m.Port != 0 && m.Port != r.Port ||
		m.uri != nil && !m.uri.matches(r.Path) ||
		m.scheme != nil && !m.scheme.matches(r.Scheme) ||
		m.method != nil && !m.method.matches(r.Method) ||
		m.authority != nil && !m.authority.matches(r.Authority) {
		return false
	}
	for i := range m.headers {
		if !m.headers[i].matchesHeader(r) {
			return false
		}
	}
	for i := range m.query {
		q := &m.query[i]
		v, ok := r.Query[q.name]
		if !ok || len(v) == 0 || !q.value.matches(v[0]) {
			return false
		}
	}
	return true
}

// matchesHeader looks at one header. An inverted condition holds when the
// header is absent and an empty value would not match (Envoy's invert_match
// with treat_missing_header_as_empty).
func (f *fieldMatcher) matchesHeader(r *Request) bool {
	v, ok := r.Field(f.name)
	if !f.invert {
		return ok && f.value.matches(v)
	}
	if f.value.kind == config.MatchPresent {
		return !ok
	}
	return !f.value.matches(v)
}

// Field returns a Field's value, several joined by a comma as Envoy does,
// and whether it is there. The pseudo-headers of HTTP/2 and Host are headers.
func (r *Request) Field(name string) (string, bool) {
	switch name {
	case "Host", ":authority":
		return r.Authority, true
	case ":method":
		return r.Method, true
	case ":scheme":
		return r.Scheme, true
	case ":path":
		return r.Path, true
	}
	return r.Header.Joined(name)
}
