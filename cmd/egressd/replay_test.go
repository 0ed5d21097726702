// SPDX-License-Identifier: Apache-2.0

package main

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const flowLines = `{"time":"2026-01-02T03:04:05Z","kind":"decision","layer":"kernel","workload":"node","process":{"pid":7,"command":"curl"},"proto":"tcp","dst":"192.0.2.1:443","name":"a.example.com","verdict":"inspect","allowed":true,"reason":"allowed"}
{"time":"2026-01-02T03:04:06Z","kind":"decision","layer":"kernel","workload":"node","process":{"pid":7,"command":"curl"},"proto":"tcp","dst":"[2001:db8::1]:443","verdict":"deny","allowed":false,"reason":"no-rule"}
{"time":"2026-01-02T03:04:16Z","kind":"decision","layer":"kernel","workload":"node","process":{"command":"curl"},"proto":"tcp","dst":"[2001:db8::1]:443","verdict":"deny","allowed":false,"reason":"no-rule","duration":10000000000,"more":4,"later":{"field":1}}
`

// flowFiles writes a flow log, the same compressed, and one with a line that is torn.
func flowFiles(t *testing.T) (plain, zipped, torn string) {
	t.Helper()
	dir := t.TempDir()
	plain, zipped, torn = filepath.Join(dir, "flows.jsonl"), filepath.Join(dir, "flows.jsonl.1.gz"), filepath.Join(dir, "torn")
	for path, text := range map[string]string{plain: flowLines, torn: flowLines + "{\"time\":\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(zipped)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	_, err = z.Write([]byte(flowLines))
	if cerr := z.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	return plain, zipped, torn
}

// TestReplayCommand: exit codes, and what people and machines read.
func TestReplayCommand(t *testing.T) {
	plain, zipped, torn := flowFiles(t)
	const summary = "2 different flows: "
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{plain, "--allow", "a.example.com"}, 0, "", summary + "0 would be denied, 0 newly allowed, 0 sent another way, 2 as before"},
		{[]string{zipped, plain, "--allow", "b.example.com"}, 1, "node:\n  a.example.com:\n    - tls://a.example.com:443 was allowed, and would be denied (name-not-allowed): dns: a.example.com is not allowed; the query is denied and not forwarded\n      recorded 2 times, from ", "1 would be denied"},
		{[]string{plain, "--allow", "b.example.com"}, 1, "\n      allow: --allow a.example.com:443\n", ""},
		{[]string{plain, "--allow", "a.example.com", "--allow", "[2001:db8::1]:443"}, 0, "    + [2001:db8::1]:443 was denied (no-rule), and would be allowed, verdict direct by ServiceEntry default/", "1 newly allowed"},
		{[]string{plain, "--allow", "a.example.com", "--allow", "[2001:db8::1]:443"}, 0, "      recorded 5 times, from ", ""},
		{[]string{plain, "--allow", "tcp://a.example.com:443"}, 0, "    ~ tls://a.example.com:443 was allowed with verdict inspect, and would be with verdict direct", "1 sent another way"},
		{[]string{plain, "-v", "--allow", "b.example.com"}, 1, "      1. dns: a.example.com is not allowed", ""},
		{[]string{plain, "--allow", "b.example.com", "--verdict", "deny"}, 0, "", "1 different flow: 0 would be denied"},
		{[]string{plain, "--allow", "b.example.com", "-o", "json"}, 1, `"kind": "denied"`, ""},
		{[]string{plain, "--allow", "a.example.com", "-o", "json"}, 0, `"changes": []`, ""},
		{[]string{torn, "--allow", "a.example.com"}, 1, "", "1 line could not be read, and what they said is missing; the first: " + torn + ":4: "},
		{[]string{plain}, 2, "", "say which policy is asked"},
		{[]string{plain, "--config", "-"}, 2, "", "standard input is for flows"},
		{[]string{plain + ".absent", "--allow", "a.example.com"}, 2, "", "no such file"},
		{[]string{plain, "--config", plain + ".absent"}, 2, "", "no such file"},
		{[]string{plain, "--allow", "a.example.com", "--since", "tomorrow"}, 2, "", `--since: "tomorrow" is no time`},
		{[]string{"--allow", "a.example.com"}, 2, "", "give the files of a flow log"},
	} {
		r := call(t, append([]string{"replay"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.stdout, c.stdout) || c.stdout == "" && r.stdout != "" || !strings.Contains(r.stderr, c.stderr) {
			t.Errorf("%v: %+v, want exit code %d, %q, %q", c.args, r, c.code, c.stdout, c.stderr)
		}
	}
}

// TestFlowsOfFile: flows reads a flow log without a daemon, filters, counts, and passes
// lines on as they are.
func TestFlowsOfFile(t *testing.T) {
	plain, zipped, torn := flowFiles(t)
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"--file", plain, "-o", "json"}, 0, flowLines, ""},
		{[]string{"--file", zipped, "--since", "2026-01-02T03:04:10Z", "-o", "json"}, 0, strings.SplitAfter(flowLines, "\n")[2], ""},
		{[]string{"--file", plain, zipped, "--verdict", "deny", "--since", "1d"}, 0, "", ""},
		{[]string{"--file", plain, "--verdict", "deny", "--address", "2001:db8::/64"}, 0, " DENY  kernel  curl[7] tcp [2001:db8::1]:443 (no-rule); allow: --allow [2001:db8::1]:443\n", ""},
		{[]string{"--file", torn, "--summary"}, 1, "node      [2001:db8::1]:443  no-rule\n", "1 line could not be read"},
		{[]string{"--file", plain, "--summary", "--top", "1", "-o", "json"}, 0, `"denied": 5,`, ""},
		{[]string{"--file", plain, "-f"}, 2, "", "-f goes on for ever"},
		{[]string{"--file", plain, "--top", "3"}, 2, "", "--top is a number"},
		{[]string{"--file", plain, "--port", "x"}, 2, "", `--port: "x" is no number`},
		{[]string{"--file", plain, "--workload", "a", "--pod", "b"}, 2, "", "name one of them"},
		{[]string{plain}, 2, "", "flows takes files with --file alone"},
		{[]string{"--file", plain + ".absent"}, 1, "", "no such file"},
	} {
		r := call(t, append([]string{"flows"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.stdout, c.stdout) || c.stdout == "" && r.stdout != "" || !strings.Contains(r.stderr, c.stderr) {
			t.Errorf("%v: %+v, want exit code %d, %q, %q", c.args, r, c.code, c.stdout, c.stderr)
		}
	}
}

// TestCutFlowLog: what can be read of a file that was cut short is told, and that the
// rest is missing.
func TestCutFlowLog(t *testing.T) {
	_, zipped, _ := flowFiles(t)
	whole, err := os.ReadFile(zipped)
	if err != nil {
		t.Fatal(err)
	}
	cut := zipped + ".cut.gz"
	if err := os.WriteFile(cut, whole[:len(whole)-8], 0o600); err != nil { // without the checksum: all lines are there
		t.Fatal(err)
	}
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"flows", "--file", cut, "-o", "json"}, 1, flowLines, cut + " ends too early: what was compressed (gzip) is cut short. 3 lines of it could be read, and the flows behind them are missing here"},
		{[]string{"replay", cut, "--allow", "a.example.com"}, 1, "", "3 lines of it could be read"},
		{[]string{"suggest", "--from", cut}, 0, "not complete: " + cut + " is cut short, and was read as far as 3 lines", ""},
		{[]string{"flows", "--file", zipped, "-o", "json"}, 0, flowLines, ""},
	} {
		r := call(t, c.args...)
		if r.code != c.code || !strings.Contains(r.stdout, c.stdout) || !strings.Contains(r.stderr, c.stderr) {
			t.Errorf("%v: %+v, want exit code %d, %q, %q", c.args, r, c.code, c.stdout, c.stderr)
		}
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"90m": now.Add(-90 * time.Minute), "7d": now.AddDate(0, 0, -7), "0s": now, "2026-01-02T03:04:05+01:00": time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC),
		"2026-01-02": time.Date(2026, 1, 2, 0, 0, 0, 0, time.Local),
	} {
		if got, err := moment(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1h", "1", "d", "-1d", "yesterday", "2026-13-01"} {
		if got, err := moment(text, now); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}
