// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/tools/txtar"

	"github.com/egressd/egressd/explain/expect"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source"
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
which is named with --config or --allow then. A file NAME.txtar has a policy and its
tests in sections, which begin with lines as "-- policy.yaml --"; several of them are
tested one by one.

A case has a target, as explain takes it (or a list of targets), and expect: allow,
deny, a verdict (direct, inspect, proxy), or redirect or respond for what an HTTP rule
answers itself. It may have a workload, a method and headers, and ask for more: the
reason of a denial, the rule that decides or acts ("KIND NAMESPACE/NAME"), and texts
that steps of the explanation say.

The exit code is 0 when all cases are as expected, 1 when one is not, or the policy or
a test has errors, and 2 when the command line is wrong or there is no case.`,
		Example: `  egressd test policy/
  egressd test --config policy/ tests.yaml
  egressd test cases/*.txtar
  egressd test -o json policy/ | jq '.[] | select(.failures) | {file, line, failures}'
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
			outcomes, err := runTests(e, args, config, short, o)
			if err != nil {
				return err
			}
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

// runTests runs the cases of all files, which are those of one policy, and then those of
// each archive, which has a policy of its own unless config or short names one.
func runTests(e env, args, config []string, short allowFlags, o istio.Options) (outcomes []expect.Comparison, err error) {
	plain := slices.DeleteFunc(slices.Clone(args), isArchive)
	sets := [][]string{plain}
	for _, path := range args {
		if isArchive(path) {
			sets = append(sets, []string{path})
		}
	}
	apart := len(config) > 0 || !short.allow().Empty()
	for _, set := range sets {
		if len(set) == 0 {
			continue
		}
		read := readFiles
		if isArchive(set[0]) {
			read = readArchive
		}
		tests, err := read(e, set)
		if err != nil {
			return nil, err
		}
		files := tests
		if apart {
			if files, err = readFiles(e, config); err != nil {
				return nil, err
			}
		}
		l, err := goodFiles(e, files, short, o)
		if err != nil {
			return nil, err
		}
		cases, err := expect.Cases(tests)
		if err != nil {
			return nil, err
		}
		if len(cases) == 0 {
			return nil, usageError{fmt.Errorf("no object of kind %s (apiVersion: %s) in %s, so that nothing is tested", expect.Kind, expect.APIVersion, strings.Join(set, ", "))}
		}
		outcomes = append(outcomes, expect.Run(l.Snapshot, cases)...)
	}
	return outcomes, nil
}

// isArchive says whether a file is several in one.
func isArchive(path string) bool { return filepath.Ext(path) == ".txtar" }

// readArchive reads the objects of an archive (golang.org/x/tools/txtar) as one file,
// in which lines have the numbers that they have in the archive.
func readArchive(_ env, paths []string) ([]istio.File, error) {
	files, err := source.Files(paths)
	if err != nil {
		return nil, err
	}
	for i := range files {
		a := txtar.Parse(files[i].Data)
		var b bytes.Buffer
		b.Write(bytes.Repeat([]byte("\n"), bytes.Count(a.Comment, []byte("\n"))))
		for _, f := range a.Files {
			if ext := filepath.Ext(f.Name); ext != ".yaml" && ext != ".yml" {
				return nil, fmt.Errorf("%s: the section %q is none of YAML: call it NAME.yaml", files[i].Name, f.Name)
			}
			b.WriteString("---\n")
			b.Write(f.Data)
		}
		if len(a.Files) == 0 {
			return nil, fmt.Errorf("%s: it has no sections, which begin with a line as \"-- NAME.yaml --\"", files[i].Name)
		}
		files[i].Data = b.Bytes()
	}
	return files, nil
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
