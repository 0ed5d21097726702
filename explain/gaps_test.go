// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"
	"testing"
)

// TestExplainUnsaid: what happens to a flow although no rule of it says so is
// told, and where a rule says otherwise it is not.
func TestExplainUnsaid(t *testing.T) {
	s := loadFile(t, "testdata/gaps.yaml")
	const (
		retries  = "4 retries on retriable-status-codes of [503], 3s per try, the mesh's default (defaultHttpRetryPolicy)"
		imported = "Sidecar default/default does not show it: it is imported with the rule, and nothing but the rule leads there"
		cut      = "kernel: connect() succeeds; the ClientHello of a connection without SNI is dropped on its way, and the connection is reset"
	)
	for _, c := range []struct {
		target    string
		says, not []string
	}{
		{"http://plain.example.com/", []string{"http: " + retries}, []string{imported}},
		{"http://api.example.com/", []string{"http: " + retries}, []string{imported}},
		{"http://api.example.com/own", []string{"1 retry on retriable-status-codes of [504]"}, []string{"the mesh's default"}},
		{"http://api.example.com/gone", []string{"answer 410"}, []string{"the mesh's default"}},
		{"http://api.example.com/imported", []string{
			retries, "elsewhere.example.com port 80, 30 of 100: allowed, 30% of all; " + imported, "route to api.example.com port 80, 70 of 100: allowed, 70% of all\n",
		}, nil},
		{"https://192.0.2.7/", []string{cut, "ECONNABORTED", "carries no name (SNI)"}, []string{"proxy:"}},
		{"https://[2001:db8::7]/", []string{cut, "ECONNABORTED", "carries no name (SNI)"}, []string{"proxy:"}},
		{"https://api.example.com/", []string{"kernel: straight to the destination"}, []string{"is dropped", "proxy:"}},
	} {
		steps := strings.Join(asked(t, s, "GET", c.target).Steps, "\n") + "\n"
		for _, say := range c.says {
			if !strings.Contains(steps, say) {
				t.Errorf("%s: does not say %q:\n%s", c.target, say, steps)
			}
		}
		for _, say := range c.not {
			if strings.Contains(steps, say) {
				t.Errorf("%s: says %q:\n%s", c.target, say, steps)
			}
		}
	}
	// Without a MeshConfig there is nothing to tell.
	if steps := strings.Join(asked(t, loadFile(t, seed), "GET", "http://www.googleapis.com/").Steps, "\n"); strings.Contains(steps, "the mesh's default") {
		t.Error(steps)
	}
}
