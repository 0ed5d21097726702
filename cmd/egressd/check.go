// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

// checkResult is what "check -o json" prints.
type checkResult struct {
	Valid           bool            `json:"valid"`
	Hash            string          `json:"hash,omitempty"`
	Services        int             `json:"services"`
	VirtualServices int             `json:"virtualServices"`
	Gateways        int             `json:"gateways"`
	Findings        []istio.Finding `json:"findings"`
	Error           string          `json:"error,omitempty"`
}

func checkCommand(e env) *cobra.Command {
	var out output
	var short allowFlags
	var read offlineFlags
	var verbose bool
	var suppress []string
	cmd := &cobra.Command{
		Use:   "check [PATH...]",
		Short: "Validate a policy; exit 1 on any error",
		Long: `check reads the policy as run and exec do and prints every error and warning,
one a line: file:line:col: error|warning: text [object] (code). A PATH of - is
standard input. docs/CHECKS.md lists the mistakes that it knows, docs/CODES.md
the codes. A warning that is meant so is not printed with --suppress CODE, or
when its object has the annotation egressd.dev/suppress: CODE.`,
		Example: `  egressd check policy/
  helm template chart/ | egressd check -
  egressd check -o json policy.yaml | jq .findings
  egressd check --allow '*.pypi.org:443' --print-policy   # the same as YAML
  egressd check --suppress EGD0215 policy/`,
		RunE: func(_ *cobra.Command, args []string) error {
			if printed, err := short.printed(e.stdout); printed {
				return err
			}
			if len(args) == 0 && short.allow().Empty() {
				return usageError{errors.New("give a PATH with the policy, - for standard input, or --allow")}
			}
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			o, err := read.options()
			if err != nil {
				return err
			}
			if err := codes(suppress); err != nil {
				return err
			}
			l, err := readPolicy(e, args, short, o)
			if errors.As(err, new(usageError)) {
				return err
			}
			r := checkResult{
				Valid: err == nil, Findings: without(l.Findings, suppress),
				Services: l.Services, VirtualServices: l.VirtualServices, Gateways: l.Gateways,
			}
			if err == nil {
				r.Hash = l.Snapshot.Hash()
			} else {
				r.Error = err.Error()
			}
			if asJSON {
				if r.Findings == nil {
					r.Findings = []istio.Finding{}
				}
				writeJSON(e.stdout, r)
			} else {
				printCheck(e, r, verbose, err)
			}
			if err != nil {
				return exitError{exitFinding}
			}
			return nil
		},
	}
	out.register(cmd)
	short.register(cmd)
	read.register(cmd)
	listVar(cmd.Flags(), &suppress, "suppress", "code of warnings that are not printed, as in EGD0215; may be given several times")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print notes as well, such as kinds that are skipped")
	return cmd
}

func printCheck(e env, r checkResult, verbose bool, err error) {
	errs, warnings := 0, 0
	for _, f := range r.Findings {
		switch f.Severity {
		case istio.Error:
			errs++
		case istio.Warning:
			warnings++
		default:
			if !verbose {
				continue
			}
		}
		printLine(e.stdout, "%s", f)
	}
	if err != nil && !(errors.Is(err, load.ErrPolicy) && errs > 0) {
		fmt.Fprintln(e.stderr, "egressd:", quote.Lines(err.Error()))
		if len(r.Findings) == 0 && !errors.Is(err, load.ErrPolicy) {
			return // nothing was read that could be counted
		}
	}
	state := "good"
	if err != nil {
		state = "not good"
	}
	fmt.Fprintf(e.stderr, "policy is %s: %s, %s; %s, %s, %s\n", state, counted(errs, "error"), counted(warnings, "warning"),
		counted(r.Services, "service"), counted(r.VirtualServices, "virtual service"), counted(r.Gateways, "gateway"))
}

// counted is a number with its noun.
func counted(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// codes checks what is to be suppressed.
func codes(suppress []string) error {
	for _, c := range suppress {
		if !istio.CanSuppress(c) {
			return usageError{fmt.Errorf("--suppress %s: it is no code of a warning (errors cannot be suppressed); a finding shows its own in parentheses, and docs/CODES.md lists all", quote.Line(c))}
		}
	}
	return nil
}

// without are the findings but the warnings and notes with one of some codes.
// Errors stay: with one, nothing is loaded.
func without(findings []istio.Finding, suppress []string) []istio.Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f istio.Finding) bool {
		return f.Severity != istio.Error && slices.Contains(suppress, f.Code)
	})
}
