// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTestCommand: exit codes, and where the policy and its tests may stand.
func TestTestCommand(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const head = "apiVersion: egressd.dev/v1\nkind: PolicyTest\nmetadata: {name: api}\nspec:\n  cases:\n"
	good := write("good.yaml", head+"  - {target: https://api.example.com/, expect: allow}\n")
	bad := write("bad.yaml", head+"  - {target: https://api.example.com/, expect: deny}\n")
	broken := write("broken.yaml", head+"  - {target: https://api.example.com/, expect: maybe}\n")
	policy := write("policy.yaml", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: api}\nspec:\n  hosts: [api.example.com]\n  ports: [{number: 443, name: https, protocol: HTTPS}]\n  resolution: DNS\n")
	for _, c := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{good, policy}, 0, "", "1 of 1 case as expected"},
		{[]string{"-v", good, "--config", policy}, 0, "ok   " + good + ":6: https://api.example.com/: allow [api]", ""},
		{[]string{good, bad, "--allow", "api.example.com"}, 1, "FAIL " + bad + ":6: https://api.example.com/: allowed, verdict inspect by ServiceEntry default/allow-api-example-com", "1 of 2 cases as expected"},
		{[]string{"-o", "json", bad, policy}, 1, `"failures": [`, ""},
		{[]string{broken, policy}, 1, "", broken + ":6: expect is"},
		{[]string{policy}, 2, "", "nothing is tested"},
		{[]string{"--config", "../../examples/seed", "../../examples/tests"}, 0, "", "as expected"},
		{nil, 2, "", "give the files or directories with the tests"},
	} {
		r := call(t, append([]string{"test"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.stdout, c.stdout) || !strings.Contains(r.stderr, c.stderr) {
			t.Errorf("%v: %+v, want exit code %d, %q, %q", c.args, r, c.code, c.stdout, c.stderr)
		}
	}
}
