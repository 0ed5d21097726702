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

// TestTestArchives: an archive is tested by itself, with the lines that it has; what is no
// archive, or has no case, is an error that says what to write.
func TestTestArchives(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec: {hosts: [HOST], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}\n"
	const tests = "apiVersion: egressd.dev/v1\nkind: PolicyTest\nmetadata: {name: t}\nspec:\n  cases:\n  - {target: 'https://a.example/', expect: allow}\n"
	archive := func(host string) string {
		return "What it is about.\n\n-- policy.yaml --\n" + strings.ReplaceAll(entry, "HOST", host) + "-- tests.yaml --\n" + tests
	}
	good, bad := write("good.txtar", archive("a.example")), write("bad.txtar", archive("b.example"))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{good}, exitGood, "1 of 1 case as expected"},
		{[]string{good, bad}, exitFinding, "FAIL " + bad + ":14: https://a.example/: denied (name-not-allowed), expected allow [t]"},
		{[]string{"--allow", "a.example", bad}, exitGood, "1 of 1 case as expected"},
		{[]string{write("text.txtar", "nothing\n")}, exitFinding, `begin with a line as "-- NAME.yaml --"`},
		{[]string{write("other.txtar", "-- expect --\n")}, exitFinding, `the section "expect" is none of YAML`},
		{[]string{good, write("none.txtar", "-- a.yaml --\n"+entry)}, exitUsage, "none.txtar, so that nothing is tested"},
	} {
		if o := call(t, append([]string{"test"}, c.args...)...); o.code != c.code || !strings.Contains(o.stdout+o.stderr, c.want) {
			t.Errorf("%v: %+v, want exit code %d, %q", c.args, o, c.code, c.want)
		}
	}
}
