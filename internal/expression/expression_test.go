// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"slices"
	"strings"
	"testing"
)

// attributes are those of a request.
func attributes(variable string) map[string]any {
	return map[string]map[string]any{
		"request":    {"method": "GET", "url_path": "/v1/x", "headers": map[string]string{"x-a": "b"}},
		"response":   {"code": int64(503)},
		"connection": {"mtls": false},
	}[variable]
}

func TestCondition(t *testing.T) {
	for text, want := range map[string]bool{
		`response.code >= 400`:                               true,
		`response.code >= 400 && response.code < 500`:        false,
		`request.url_path.startsWith('/v1/')`:                true,
		`request.headers['x-a'] == 'b'`:                      true,
		`request.headers['x-b'] == 'b'`:                      false, // there is none
		`has(request.url_path) && !connection.mtls`:          true,
		`!has(request.referer)`:                              true,
		`request.referer == ''`:                              false, // there is none
		`source.address == 'x'`:                              false, // nothing is known of the variable
		`source.address == 'x' || request.method in ['GET']`: true,  // one that holds is enough
		`request.method.matches('^G.T$') && true`:            true,
		`[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, true)))))`: false, // too costly
		`filter_state.x == 'y'`: false,
	} {
		p, _, err := Condition(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := p.Holds(attributes); got != want || p.String() != text {
			t.Errorf("%s (%s) is %t, want %t", text, p, got, want)
		}
	}
}

func TestValue(t *testing.T) {
	for text, want := range map[string]string{
		`request.method`:                                  "GET",
		`string(response.code)`:                           "503",
		`response.code`:                                   "503",
		`'a' + request.url_path`:                          "a/v1/x",
		`response.code >= 500 ? "5xx" : "other"`:          "5xx",
		`request.referer`:                                 "",
		`connection.mtls`:                                 "false",
		`has(request.headers.nothing) ? 'there' : 'none'`: "none",
	} {
		p, _, err := Value(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, ok := p.Text(attributes); got != want || ok != (want != "") {
			t.Errorf("%s is %q, %t; want %q", text, got, ok, want)
		}
	}
}

func TestUnknown(t *testing.T) {
	for text, want := range map[string][]string{
		`response.code >= 400`: nil,
		`request.hots == 'a' || upstream_peer.labels['app'] == 'x' || request.hots == 'b'`: {"request.hots", "upstream_peer"},
		`request.headers.foo == 'a'`:                nil,
		`node.metadata['NAME'] == 'x'`:              {"node"},
		`has(connection.subject_local_certificate)`: {"connection.subject_local_certificate"},
	} {
		if _, unknown, err := Condition(text); err != nil || !slices.Equal(unknown, want) {
			t.Errorf("%s: %q, %v; want %q", text, unknown, err, want)
		}
	}
}

func TestBroken(t *testing.T) {
	for text, want := range map[string]string{
		`response.code >=`:                "column 17",
		`response.code + 1`:               "", // dynamic
		`'text'`:                          "its value is string, and must be bool",
		`nobody.knows`:                    "undeclared reference to 'nobody'",
		strings.Repeat("a", maxLength+1):  "more than 4096",
		strings.Repeat("(", 300) + "true": "column",
	} {
		_, _, err := Condition(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", text, err, want)
		}
	}
}

func FuzzCondition(f *testing.F) {
	for _, s := range []string{"response.code >= 400", "has(request.url_path)", "(", "request.headers['x']"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		if p, _, err := Condition(text); err == nil {
			p.Holds(attributes)
		}
	})
}
