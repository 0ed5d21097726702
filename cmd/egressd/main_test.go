// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

var update = flag.Bool("update", false, "write the golden files")

// asEgressd has this test's binary be egressd.
const asEgressd = "EGRESSD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asEgressd) != "" {
		main()
	}
	os.Exit(testenv.Main(m))
}

// outcome is what one call of the program did.
type outcome struct {
	code           int
	stdout, stderr string
}

func call(t *testing.T, args ...string) outcome {
	t.Helper()
	return callIn(t.Context(), args...)
}

func callIn(ctx context.Context, args ...string) outcome { return callWith(ctx, "", args...) }

// callWith has something on standard input.
func callWith(ctx context.Context, stdin string, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	code := run(ctx, env{strings.NewReader(stdin), &stdout, &stderr, func(string) string { return "" }, func() []string { return nil }, false}, args)
	return outcome{code, stdout.String(), stderr.String()}
}

// hash is what changes with every detail of a policy's text.
var hash = regexp.MustCompile(`"hash": "[0-9a-f]{64}"`)

// golden compares with a file of testdata/golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = hash.ReplaceAllString(got, `"hash": "HASH"`)
	path := filepath.Join("testdata", "golden", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s\n(-update writes the new one)", name, got, want)
	}
}

func TestHelp(t *testing.T) {
	names := []string{""}
	for _, c := range root(env{}).Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	for _, name := range names {
		args := []string{"--help"}
		file := "help"
		if name != "" {
			args, file = []string{name, "--help"}, "help-"+name
		}
		o := call(t, args...)
		if o.code != exitGood || o.stderr != "" {
			t.Errorf("%v: exit code %d, %s", args, o.code, o.stderr)
		}
		if !strings.Contains(o.stdout, "\nExamples:\n") {
			t.Errorf("%v has no examples", args)
		}
		golden(t, file, o.stdout)
	}
}

func TestUsageErrors(t *testing.T) {
	good := filepath.Join("testdata", "policy")
	tests := []struct {
		args []string
		want string // in the message
	}{
		{[]string{}, "say what to do"},
		{[]string{"fly"}, `unknown command "fly"; there are check, completion, `},
		{[]string{"floes"}, `unknown command "floes"; did you mean "flows"?`},
		{[]string{"sugest"}, `did you mean "suggest"?`},
		{[]string{"explain", "--alow", "x.example", "https://x.example/"}, "unknown flag: --alow; did you mean --allow?"},
		{[]string{"flows", "--summry"}, "did you mean --summary?"},
		{[]string{"flows", "--verd=deny"}, "did you mean --verdict?"},
		{[]string{"check", "--config", "policy/"}, "egressd check PATH"},
		{[]string{"diff", "a"}, "egressd diff OLD NEW (1 were given)"},
		{[]string{"--no-such-flag"}, "no-such-flag"},
		{[]string{"check"}, "give a PATH with the policy"},
		{[]string{"check", "-o", "yaml", good}, "-o is text or json"},
		{[]string{"check", "--gateway-selector", "istio", good}, `"istio" is not a label`},
		{[]string{"explain"}, "give one URL"},
		{[]string{"explain", "a.example"}, "give a URL, HOST:PORT or IP:PORT"},
		{[]string{"explain", "a.example:0"}, "1 to 65535"},
		{[]string{"explain", "a.example:80/sctp"}, "tcp or udp"},
		{[]string{"explain", "2001:db8::1:80"}, "as in [2001:db8::1:80]:443"},
		{[]string{"explain", "192.0.2.1"}, "as in 192.0.2.1:443"},
		{[]string{"explain", "a.example/x"}, "as in https://a.example/x"},
		{[]string{"explain", "192.0.2.0/24"}, "not for a network"},
		{[]string{"explain", "*.a.example:443"}, "not for a wildcard"},
		{[]string{"explain", "a.example:https"}, "1 to 65535"},
		{[]string{"explain", "git@a.example:x/y"}, "ssh://git@a.example/"},
		{[]string{"explain", "gopher://a.example/"}, "gopher"},
		{[]string{"explain", "grpc://a.example/"}, "grpc://a.example:9000"},
		{[]string{"explain", "unix:///run/app.sock"}, "no host"},
		{[]string{"explain", "mongodb+srv://a.example/"}, "SRV records"},
		{[]string{"explain", "mongodb://a.example:1,b.example:2/"}, "one host at a time"},
		{[]string{"explain", "mongodb://a.example:1,b.example/"}, "one host"},
		{[]string{"explain", "http://a b/"}, "not a URL"},
		{[]string{"explain", "--config", good, "--mode", "lax", "a.example:80"}, "enforce, audit or off"},
		{[]string{"explain", "--mode", "audit", "a.example:80"}, "--mode goes with --config"},
		{[]string{"check", "-", "-"}, "once only"},
		{[]string{"explain", "--config", "-,-", "a.example:80"}, "once only"},
		{[]string{"run", "--config", "-"}, "--config - is for check and explain"},
		{[]string{"run"}, "--config"},
		{[]string{"run", "extra"}, "extra"},
		{[]string{"run", "--config", good, "--mode", "lax"}, "enforce or audit"},
		{[]string{"run", "--config", good, "--log-level", "loud"}, "--log-level"},
		{[]string{"run", "--config", good, "--log-format", "xml"}, "--log-format"},
		{[]string{"run", "--config", good, "--dns-server", "ns.example"}, "ADDRESS"},
		{[]string{"run", "--config", good, "--dns-timeout", "10ms"}, "--dns-timeout is from 100ms to 30s"},
		{[]string{"run", "--config", good, "--dns-timeout", "-2s"}, "--dns-timeout is from"},
		{[]string{"run", "--config", good, "--dns-attempts", "6"}, "--dns-attempts is from 1 to 5"},
		{[]string{"run", "--config", good, "--dns-attempts", "-1"}, "--dns-attempts is from"},
		{[]string{"run", "--config", good, "--dns-stale", "25h"}, "--dns-stale is from 0 to 24h"},
		{[]string{"run", "--config", good, "--dns-stale", "-1s"}, "--dns-stale is from"},
		{[]string{"run", "--config", good, "--admin-group", "no-such-group"}, "no-such-group"},
		{[]string{"flows", "--verdict", "maybe"}, `--verdict: there is no "maybe"; there are allow, deny, direct, inspect, proxy, would-deny`},
		{[]string{"flows", "--verdict", "allow,would-dney"}, `--verdict: there is no "would-dney"; did you mean would-deny?`},
		{[]string{"flows", "--reason", "no-rul"}, `--reason: there is no "no-rul"; did you mean no-rule?`},
		{[]string{"flows", "--reason", "no-rule,quota,weather"}, `--reason: there is no "weather"; docs/REASONS.md has the reasons`},
		{[]string{"replay", "flows.jsonl", "--allow", "a.example", "--reason", "no-ruel"}, "did you mean no-rule?"},
		{[]string{"flows", "-o", "xml"}, "-o is text or json"},
		{[]string{"status", "extra"}, "extra"},
		{[]string{"unload", "extra"}, "extra"},
		{[]string{"version", "extra"}, "extra"},
	}
	for _, tt := range tests {
		o := call(t, tt.args...)
		if o.code != exitUsage || o.stdout != "" || !strings.Contains(o.stderr, tt.want) || !strings.Contains(o.stderr, "--help") {
			t.Errorf("%v: %+v, want exit code %d and %q", tt.args, o, exitUsage, tt.want)
		}
	}
}

// TestExecUsage: the small exit codes of exec are its command's.
func TestExecUsage(t *testing.T) {
	good := filepath.Join("testdata", "policy")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"exec"}, "after --"},
		{[]string{"exec", "--config", "-", "--", "true"}, "--config - is for check and explain"},
		{[]string{"exec", "--no-such-flag", "true"}, "no-such-flag"},
		{[]string{"exec", "--config", good}, "after --"},
		{[]string{"exec", "--config", good, "--user", "no-such-user", "--", "true"}, "no-such-user"},
		{[]string{"exec", "--config", good, "--mode", "lax", "--", "true"}, "enforce or audit"},
	} {
		o := call(t, tt.args...)
		if o.code != exitExec || o.stdout != "" || !strings.Contains(o.stderr, tt.want) || !strings.Contains(o.stderr, "--help") {
			t.Errorf("%v: %+v, want exit code %d and %q", tt.args, o, exitExec, tt.want)
		}
	}
}

// TestReadingCommands compares whole outputs, text and JSON.
func TestReadingCommands(t *testing.T) {
	good, bad := filepath.Join("testdata", "policy"), filepath.Join("testdata", "bad.yaml")
	explain := func(args ...string) []string { return append([]string{"explain", "--config", good}, args...) }
	tests := []struct {
		name string
		args []string
		code int
	}{
		{"check-good", []string{"check", good}, exitGood},
		{"check-good-verbose", []string{"check", "-v", good}, exitGood},
		{"check-bad", []string{"check", good, bad}, exitFinding},
		{"check-absent", []string{"check", filepath.Join("testdata", "absent.yaml")}, exitFinding},
		{"explain-http", explain("http://www.googleapis.com/storage"), exitGood},
		{"explain-https", explain("https://WWW.googleapis.com"), exitGood},
		{"explain-port", explain("www.googleapis.com:8080"), exitFinding},
		{"explain-transport", explain("www.googleapis.com:443/udp"), exitFinding},
		{"explain-name", explain("-X", "POST", "https://stranger.example/"), exitFinding},
		{"explain-scheme", explain("http://www.googleapis.com:443/"), exitFinding},
		{"explain-address", explain("190.64.31.232:3306"), exitGood},
		{"explain-other-address", explain("203.0.113.66:443"), exitFinding},
		{"explain-address6", explain("[2001:db8:bad::66]:443/udp"), exitFinding},
		{"explain-loopback", explain("127.0.0.1:80"), exitGood},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := call(t, tt.args...)
			if o.code != tt.code {
				t.Errorf("exit code %d, want %d", o.code, tt.code)
			}
			golden(t, tt.name, o.stdout+"-- stderr --\n"+o.stderr)
			o = call(t, append(tt.args, "-o", "json")...)
			if o.code != tt.code {
				t.Errorf("-o json: exit code %d, want %d", o.code, tt.code)
			}
			golden(t, tt.name+"-json", o.stdout)
		})
	}
}

// TestStandardInput: "-" is read by the verbs that read a policy once, alone or
// beside files.
func TestStandardInput(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "explain.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(data), "web.example.com", "web.example.com:443", 1)
	good := filepath.Join("testdata", "policy")
	for _, tt := range []struct {
		stdin string
		args  []string
		code  int
		want  string
	}{
		{string(data), []string{"check", "-"}, exitGood, "0 errors"},
		{string(data), []string{"check", good, "-"}, exitGood, "0 errors"},
		{bad, []string{"check", "-", good}, exitFinding, "<stdin>:6:11: error: invalid host"},
		{"", []string{"check", "-"}, exitGood, "<stdin>: warning: no ServiceEntry opens anything"},
		{string(data), []string{"explain", "--config", "-", "https://web.example.com/"}, exitGood, "<stdin>:4:18"},
		{bad, []string{"explain", "--config", "-", "https://web.example.com/"}, exitFinding, "<stdin>:6:11: error: invalid host"},
		{strings.Repeat("#", 16<<20+1), []string{"check", "-"}, exitFinding, "standard input is larger than"},
	} {
		if o := callWith(t.Context(), tt.stdin, tt.args...); o.code != tt.code || !strings.Contains(o.stdout+o.stderr, tt.want) {
			t.Errorf("%v: %.1000v, want exit code %d and %q", tt.args, o, tt.code, tt.want)
		}
	}
}

// TestFailures: what is not the user's fault is exit code 1 and one line.
func TestFailures(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"status", "--state-dir", dir}, "no daemon answers on " + dir},
		{[]string{"flows", "--state-dir", dir}, "no daemon answers on " + dir},
		{[]string{"flows", "--state-dir", dir}, "; or name a flow log with --file"},
		{[]string{"suggest", "--state-dir", dir}, "; or name a flow log with --from"},
		{[]string{"explain", "--state-dir", dir, "a.example:80"}, "or give the policy with --config"},
		{[]string{"explain", "--config", filepath.Join("testdata", "bad.yaml"), "a.example:80"}, "the policy has errors"},
	}
	for _, tt := range tests {
		o := call(t, tt.args...)
		if o.code != exitFinding || o.stdout != "" || !strings.Contains(o.stderr, tt.want) || strings.Contains(o.stderr, "--help") {
			t.Errorf("%v: %+v, want exit code %d and %q", tt.args, o, exitFinding, tt.want)
		}
	}
}

func TestVersion(t *testing.T) {
	if o := call(t, "version"); o.code != exitGood || !strings.HasPrefix(o.stdout, "egressd "+version+" (go") {
		t.Errorf("%+v", o)
	}
	if o := call(t, "version", "-o", "json"); o.code != exitGood || !strings.Contains(o.stdout, `"version": "`+version+`"`) {
		t.Errorf("%+v", o)
	}
}

// TestNewcomers: what people try first is answered, and a slip is not taken for something
// that was asked for.
func TestNewcomers(t *testing.T) {
	for _, c := range []struct {
		code           int
		stdout, stderr string // of the beginning
		args           []string
	}{
		{exitGood, "egressd " + version + " (go", "", []string{"--version"}},
		{exitGood, "egressd " + version + " (go", "", []string{"version"}},
		{exitGood, "egressd turns", "", []string{"help"}},
		{exitGood, "check reads", "", []string{"help", "check"}},
		{exitUsage, "", "egressd: unknown command \"chek\"; did you mean \"check\"?", []string{"help", "chek"}},
		{exitUsage, "", "egressd: unknown flag: --config; check takes the policy without a flag: egressd check PATH\n", []string{"check", "--config", "x"}},
		{exitUsage, "", "egressd: unknown flag: --config; diff takes the policy without a flag: egressd diff OLD NEW\n", []string{"diff", "--config", "x"}},
		{exitUsage, "", "egressd: --allow \"a b\": one destination has no blank", []string{"check", "--allow", "a b"}},
	} {
		o := call(t, c.args...)
		if o.code != c.code || !strings.HasPrefix(o.stdout, c.stdout) || !strings.HasPrefix(o.stderr, c.stderr) || (o.stdout == "") != (c.stdout == "") {
			t.Errorf("%v: %d, %.100q, %.100q", c.args, o.code, o.stdout, o.stderr)
		}
	}
}
