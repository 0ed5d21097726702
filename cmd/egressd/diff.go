// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/explain/compare"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy"
)

func diffCommand(e env) *cobra.Command {
	var out output
	var read offlineFlags
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say what a change of a policy opens, closes and changes",
		Long: `diff compares two policies, each a file, a directory, or - for standard input. For
each workload it says what becomes reachable (+), what becomes unreachable (-), and
what is decided or acted on in another way (~), in sentences: how it is now and how it
was. So it does of what is logged, traced or counted in another way (~ access log,
traces, metrics), and of the mode and the processes of a workload. Where objects stand,
how they are written and in which order is no difference. A workload that comes or goes
is compared with the processes that no Workload describes.

With -o json each difference has its sentences (says) and the lines of the compiled
policies that differ (old, new).

The exit code is 0 when both decide the same, 1 when they do not, and 2 when one of
them cannot be read.`,
		Example: `  egressd diff policy/ policy.new/
  git show main:policy.yaml | egressd diff - policy.yaml
  egressd diff -o json old.yaml new.yaml | jq '.[] | select(.kind == "reachable")'`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("give two policies, the old one and the new one: egressd diff OLD NEW (%d were given)", len(args))
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
			if args[0] == "-" && args[1] == "-" {
				return usageError{errStdinTwice}
			}
			var both []*policy.Snapshot
			for _, path := range args {
				l, err := goodPolicy(e, []string{path}, allowFlags{}, o)
				if err != nil {
					text := err.Error()
					if !strings.Contains(text, path) {
						text = path + ": " + text
					}
					fmt.Fprintf(e.stderr, "egressd: %s\n", quote.Lines(text))
					return exitError{exitUsage}
				}
				both = append(both, l.Snapshot)
			}
			list := compare.Policies(both[0], both[1])
			if asJSON {
				if list == nil {
					list = []compare.Delta{}
				}
				writeJSON(e.stdout, list)
			} else {
				printDifferences(e, list)
			}
			if len(list) > 0 {
				return exitError{exitFinding}
			}
			return nil
		},
	}
	out.register(cmd)
	read.register(cmd)
	return cmd
}

// printDifferences prints a list that is sorted by workload.
func printDifferences(e env, list []compare.Delta) {
	w := quote.Writer(e.stdout)
	counts := map[compare.DeltaKind]int{}
	for i, d := range list {
		counts[d.Kind]++
		if i == 0 || d.Workload != list[i-1].Workload {
			name := d.Workload
			if name == "" {
				name = "every process that is not described"
			}
			printLine(w, "%s:", name)
		}
		switch d.Kind {
		case compare.Reachable:
			printLine(w, "  + %s", strings.Join(d.Says, "; "))
		case compare.Unreachable:
			printLine(w, "  - %s", strings.Join(d.Says, "; "))
		default:
			printLine(w, "  ~ %s:", d.What)
			for _, s := range d.Says {
				printLine(w, "      %s", s)
			}
		}
	}
	if len(list) == 0 {
		fmt.Fprintln(e.stderr, "both policies decide the same")
		return
	}
	fmt.Fprintf(e.stderr, "%d reachable, %d unreachable, %d changed\n", counts[compare.Reachable], counts[compare.Unreachable], counts[compare.Changed])
}
