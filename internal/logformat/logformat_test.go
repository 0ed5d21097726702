// SPDX-License-Identifier: Apache-2.0

package logformat

import (
	"strings"
	"testing"
)

// TestFormatErrors: what is no format is refused, and says what would be one.
func TestFormatErrors(t *testing.T) {
	for format, want := range map[string]string{
		"%NOPE%":                      "%NOPE% is no operator; there are BYTES_RECEIVED, BYTES_SENT,",
		"%PROTOCOL":                   "no % at its end",
		"%":                           "no % at its end",
		"%PROTOCOL(x)%":               "takes no argument",
		"%REQ%":                       "name a field",
		"%REQ()%":                     "name a field",
		"%REQ(A?)%":                   "name a field",
		"%REQ(A%":                     "no ) behind",
		"%REQ(A):0%":                  "a number of bytes",
		"%REQ(A)x%":                   "what may stand behind",
		"%REQ(Authorization)%":        "credentials",
		"%REQ(X?COOKIE)%":             "credentials",
		"%RESP(set-cookie)%":          "credentials",
		"%START_TIME(%Q)%":            "of strftime there are",
		"%EGRESSD(NOPE)%":             "the argument is one of COMMAND,",
		"%%%":                         "no % at its end",
		strings.Repeat("x", 1e5):      "are the most",
		"% PROTOCOL%":                 "is no operator",
		"%FILTER_STATE(a:PLAIN)%":     "write %EGRESSD(WORKLOAD)%",
		"%DOWNSTREAM_PEER_URI_SAN%":   "write %REQUESTED_SERVER_NAME%",
		"%REQ_WITHOUT_QUERY(Cookie)%": "credentials",
		"%REQ(A)%%START_TIME(%)%":     "of strftime",
	} {
		if err := Check(format, "TEXT"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v; want %q", format, err, want)
		}
	}
	for object, want := range map[string]string{
		`[]`: "no JSON object", `{"a":1}`: "is no string", `{"a":"%X%"}`: "is no operator", `{"a":"","a":""}`: "twice",
		`{"a":""} x`: "behind its JSON", `{"a":""`: "as JSON",
	} {
		if err := Check(object, "json"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", object, err, want)
		}
	}
	if Check("", "XML") == nil {
		t.Error("XML is no encoding")
	}
}

// TestDefaults: Istio's formats are formats.
func TestDefaults(t *testing.T) {
	for _, encoding := range []string{"", "TEXT", "Json"} {
		if err := Check("", encoding); err != nil {
			t.Errorf("%q: %v", encoding, err)
		}
	}
}
