// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

var (
	unitCall = regexp.MustCompile(`(?m)^Exec\w+=/usr/local/bin/egressd (.+)$`)
	listCall = regexp.MustCompile(`(?m)^ *args:\n((?: *- .+\n)+)`)
	flowCall = regexp.MustCompile(`(?m)^ *args: \[(.+)\]$`)
	setting  = regexp.MustCompile(`(?m)^  ([A-Z_]+): "(.*)"$`)
	variable = regexp.MustCompile(`\$\((\w+)\)`)
)

// commandsOf are the calls of egressd in what is installed: the containers' of manifests,
// with the values of the ConfigMap, which is in egressd.yaml, and those that units start.
func commandsOf(t *testing.T, file string) (calls [][]string) {
	t.Helper()
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("..", "..", "deploy", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	text := read(file)
	values := map[string]string{"NODE_NAME": "node1"}
	for _, m := range setting.FindAllStringSubmatch(read("kubernetes/egressd.yaml"), -1) {
		values[m[1]] = m[2]
	}
	for _, m := range unitCall.FindAllStringSubmatch(text, -1) {
		// Flags that the operator adds are not here.
		calls = append(calls, strings.Fields(strings.TrimSuffix(m[1], " $EGRESSD_OPTS")))
	}
	for _, m := range flowCall.FindAllStringSubmatch(text, -1) {
		calls = append(calls, strings.Split(m[1], ", "))
	}
	for _, m := range listCall.FindAllStringSubmatch(text, -1) {
		var call []string
		for line := range strings.Lines(m[1]) {
			arg := strings.TrimPrefix(strings.TrimSpace(line), "- ")
			call = append(call, variable.ReplaceAllStringFunc(arg, func(v string) string {
				value, ok := values[variable.FindStringSubmatch(v)[1]]
				if !ok {
					t.Errorf("%s: no value of %s", file, v)
				}
				return value
			}))
		}
		calls = append(calls, call)
	}
	return calls
}

// TestDeployedFlags: egressd knows every flag, with its value, that deploy/ starts it with.
func TestDeployedFlags(t *testing.T) {
	parse := func(call []string) error {
		cmd, args, err := root(env{}).Find(call)
		if err != nil {
			return err
		}
		if err := cmd.ParseFlags(args); err != nil {
			return err
		}
		return cmd.ValidateArgs(cmd.Flags().Args())
	}
	for _, file := range []string{"kubernetes/egressd.yaml", "kubernetes/gateway.yaml", "kubernetes/uninstall.yaml", "systemd/egressd.service", "systemd/egressd-boot.service"} {
		calls := commandsOf(t, file)
		if len(calls) == 0 {
			t.Errorf("%s does not call egressd", file)
		}
		for _, call := range calls {
			if err := parse(call); err != nil {
				t.Errorf("%s: egressd %q: %v", file, call, err)
			}
			if err := parse(append(call, "--no-such-flag")); err == nil {
				t.Errorf("%s: egressd %s takes any flag", file, call[0])
			}
		}
	}
}

// graces are how long what is installed may take to end: lines of manifests and units.
var graces = regexp.MustCompile(`(?m)^ *(?:terminationGracePeriodSeconds: |TimeoutStopSec=)(\d+)s?$`)

// TestDrainFits: what starts egressd leaves it the time to drain, and ten seconds to
// end.
func TestDrainFits(t *testing.T) {
	for _, file := range []string{"kubernetes/egressd.yaml", "kubernetes/gateway.yaml", "systemd/egressd.service", "systemd/egressd-boot.service"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", file))
		if err != nil {
			t.Fatal(err)
		}
		found := graces.FindAllSubmatch(text, -1)
		if len(found) != 1 {
			t.Fatalf("%s says %d times how long egressd may take to end", file, len(found))
		}
		grace, err := time.ParseDuration(string(found[0][1]) + "s")
		if err != nil {
			t.Fatal(err)
		}
		runs := 0
		for _, call := range commandsOf(t, file) {
			cmd, args, err := root(env{}).Find(call)
			if err != nil {
				t.Fatal(err)
			}
			if cmd.Name() != "run" {
				continue
			}
			if err := cmd.ParseFlags(args); err != nil {
				t.Fatal(err)
			}
			drain, err := cmd.Flags().GetDuration("drain-time")
			if err != nil {
				t.Fatal(err)
			}
			if runs++; drain+10*time.Second > grace {
				t.Errorf("%s: it drains for %v and is killed after %v", file, drain, grace)
			}
		}
		if runs == 0 {
			t.Errorf("%s runs no daemon", file)
		}
	}
}

// TestPolicyIsNeeded: nobody denies everything by accident.
func TestPolicyIsNeeded(t *testing.T) {
	for _, tt := range []struct {
		flags policyFlags
		fails bool
	}{
		{policyFlags{mode: "enforce"}, true},
		{policyFlags{mode: "enforce", empty: true}, false},
		{policyFlags{mode: "enforce", config: []string{"x"}}, false},
		{policyFlags{mode: "audit"}, false},
	} {
		cmd := &cobra.Command{}
		f := policyFlags{}
		f.register(cmd, "info")
		f.mode, f.empty, f.config = tt.flags.mode, tt.flags.empty, tt.flags.config
		if _, err := f.options(env{stderr: io.Discard}); (err != nil) != tt.fails {
			t.Errorf("%+v: %v", tt.flags, err)
		}
	}
}
