// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/explain/expect"
	"github.com/egressd/egressd/internal/quote"
)

func testCommand(e env) *cobra.Command {
	var out output
	var config []string
	var short allowFlags
	var read offlineFlags
	var verbose bool
	cmd := &cobra.Command{
		Use:   "test PATH...",
		Short: "Run what is expected of a policy; exit 1 when it does something else",
		Long: `test reads the policy in PATH, with the objects of kind PolicyTest among its files,
and says for each of their cases whether the policy does what is expected. No daemon,
no network and no root are needed. The tests may also stand apart from the policy,
which is named with --config or --allow then.

A case has a target, as explain takes it (or a list of targets), and expect: allow,
deny, or a verdict (direct, inspect, proxy). It may have a workload, a method and
headers, and ask for more: the reason of a denial, the rule that decides or acts
("KIND NAMESPACE/NAME"), and texts that steps of the explanation say.`,
		Example: `  egressd test policy/
  egressd test --config policy/ tests.yaml
  cat > tests.yaml <<'EOF'
  apiVersion: egressd.dev/v1
  kind: PolicyTest
  metadata: {name: build}
  spec:
    workload: ci/build
    cases:
    - {target: https://pypi.org/simple/, expect: allow}
    - {targets: ['http://169.254.169.254/', '203.0.113.1:443'], expect: deny, reason: no-rule}
  EOF`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("give the files or directories with the tests: egressd test PATH...")
			}
			return nil
		}),
		RunE: func(_ *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			o, err := read.options()
			if err != nil {
				return err
			}
			paths := config
			if len(config) == 0 && short.allow().Empty() {
				paths = args
			}
			l, err := goodPolicy(e, paths, short, o)
			if err != nil {
				return err
			}
			tests := l.Files
			if len(config) > 0 || !short.allow().Empty() {
				if tests, err = readFiles(e, args); err != nil {
					return err
				}
			}
			cases, err := expect.Cases(tests)
			if err != nil {
				return err
			}
			if len(cases) == 0 {
				return usageError{fmt.Errorf("no object of kind %s (apiVersion: %s) in what was read, so that nothing is tested", expect.Kind, expect.APIVersion)}
			}
			outcomes := expect.Run(l.Snapshot, cases)
			failed := 0
			for _, o := range outcomes {
				if !o.Ok() {
					failed++
				}
			}
			if asJSON {
				writeJSON(e.stdout, outcomes)
			} else {
				printComparisons(e.stdout, outcomes, verbose)
				fmt.Fprintf(e.stderr, "%d of %s as expected\n", len(outcomes)-failed, counted(len(outcomes), "case"))
			}
			if failed > 0 {
				return exitError{exitFinding}
			}
			return nil
		},
	}
	out.register(cmd)
	listVar(cmd.Flags(), &config, "config", "policy that is tested (default: what stands in PATH beside the tests)")
	short.register(cmd)
	read.register(cmd)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print the cases that are as expected as well")
	return cmd
}

// printComparisons prints cases that are not as expected, each with what leads to what
// the policy does.
func printComparisons(w io.Writer, outcomes []expect.Comparison, verbose bool) {
	w = quote.Writer(w)
	for _, o := range outcomes {
		from := ""
		if o.Workload != "" {
			from = " from " + o.Workload
		}
		if o.Ok() {
			if verbose {
				printLine(w, "ok   %s:%d: %s%s: %s [%s]", o.File, o.Line, o.Target, from, o.Expect, o.Test)
			}
			continue
		}
		for _, f := range o.Failures {
			printLine(w, "FAIL %s:%d: %s%s: %s [%s]", o.File, o.Line, o.Target, from, f, o.Test)
		}
		for i, s := range o.Explanation.Steps {
			printLine(w, "       %d. %s", i+1, s)
		}
	}
}
