// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAllowMistakes: what people get wrong about --allow and its relatives is said with the
// flag, and with what to write; nothing is allowed or denied by a flag that is empty.
func TestAllowMistakes(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "allowed.txt")
	// With the mark that some editors put before a file.
	if err := os.WriteFile(list, []byte("\ufeffx.example:443\r\n\r\n# y\r\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"check", "--allow", ""}, `invalid argument "" for "--allow" flag: there is nothing in it, or between two commas: a variable that is not set`},
		{[]string{"check", "--allow", "", "--allow", "x.example"}, `invalid argument "" for "--allow" flag`},
		{[]string{"check", "--allow", "x.example", "--allow-file", ""}, `invalid argument "" for "--allow-file" flag`},
		{[]string{"explain", "--allow", "x.example", "--config", "", "x.example:443"}, `invalid argument "" for "--config" flag`},
		{[]string{"run", "--allow", "x.example", "--config", ""}, `invalid argument "" for "--config" flag`},
		{[]string{"flows", "--file", ""}, `invalid argument "" for "--file" flag`},
		{[]string{"check", "--allow", " "}, `invalid argument " " for "--allow" flag`},
		{[]string{"check", "--allow", "x.example,"}, `invalid argument "x.example," for "--allow" flag`},
		{[]string{"check", "--allow", "x.example:443,80"}, `--allow "80": it is a port without a host`},
		{[]string{"check", "--allow", "me:pw@x.example:443"}, "a user and a password are no part of a destination"},
		{[]string{"check", "--allow-file", filepath.Join(dir, "none")}, "--allow-file: "},
		{[]string{"check", "--allow-file", dir}, "it is a directory; name the list"},
		{[]string{"explain", "--allow", "x.example"}, "give one URL, HOST:PORT or ADDRESS:PORT to explain"},
		{[]string{"explain", "--allow", "", "https://x.example/"}, `invalid argument "" for "--allow" flag`},
	} {
		if o := call(t, c.args...); o.code != exitUsage || !strings.Contains(o.stderr, c.want) {
			t.Errorf("egressd %q: exit code %d, %s%s; want %s", c.args, o.code, o.stdout, o.stderr, c.want)
		}
	}
	if o := call(t, "exec", "--allow", "", "--", "true"); o.code != exitExec || !strings.Contains(o.stderr, `invalid argument "" for "--allow" flag`) {
		t.Errorf("exec: %+v", o)
	}
	for _, args := range [][]string{
		{"check", "--allow-file", list, "--print-policy"}, {"explain", "--allow-file", list, "--print-policy"},
		{"exec", "--allow-file", list, "--print-policy"}, {"run", "--allow-file", list, "--print-policy"},
	} {
		if o := call(t, args...); o.code != exitGood || !strings.Contains(o.stdout, `"x.example"`) {
			t.Errorf("egressd %q: %+v", args, o)
		}
	}
}
