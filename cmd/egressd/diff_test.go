// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDiffCommand: exit codes, and what people and machines read.
func TestDiffCommand(t *testing.T) {
	dir := t.TempDir()
	write := func(name, host string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		text := "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: " + name + "}\nspec:\n  hosts: [" + host + "]\n  ports: [{number: 443, name: https, protocol: HTTPS}]\n  resolution: DNS\n"
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b, broken := write("a", "a.example.com"), write("b", "b.example.com"), write("c", "'a b'")
	slow := filepath.Join(dir, "slow")
	entry, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	rule := "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a.example.com\n  trafficPolicy: {connectionPool: {tcp: {connectTimeout: 3s}}}\n"
	if err := os.WriteFile(slow, append(entry, rule...), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{a, a}, 0, "", "both policies decide the same"},
		{[]string{a, b}, 1, "every process that is not described:\n  - a.example.com:443/tcp becomes unreachable; it was: HTTPS inspect (ServiceEntry default/a)\n  + b.example.com:443/tcp becomes reachable: HTTPS inspect (ServiceEntry default/b)\n", "1 reachable, 1 unreachable, 0 changed"},
		{[]string{"-o", "json", a, a}, 0, "[]\n", ""},
		{[]string{"-o", "json", a, b}, 1, `"kind": "unreachable"`, ""},
		{[]string{a, slow}, 1, "every process that is not described:\n  ~ a.example.com:443/tcp:\n", "0 reachable, 0 unreachable, 1 changed"},
		{[]string{a, slow}, 1, "      the timeout of a connection to the upstream is now 3s (it was not set)\n", ""},
		{[]string{"-o", "json", a, slow}, 1, `"the timeout of a connection to the upstream is now 3s (it was not set)"`, ""},
		{[]string{a, broken}, 2, "", "error: "},
		{[]string{a, filepath.Join(dir, "absent")}, 2, "", "no such file"},
		{[]string{"-", "-"}, 2, "", "standard input can be read once only"},
		{[]string{a}, 2, "", "give two policies"},
	} {
		r := call(t, append([]string{"diff"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.stdout, c.stdout) && !strings.HasPrefix(r.stdout, c.stdout) || !strings.Contains(r.stderr, c.stderr) {
			t.Errorf("%v: %+v, want exit code %d, %q, %q", c.args, r, c.code, c.stdout, c.stderr)
		}
	}
}
