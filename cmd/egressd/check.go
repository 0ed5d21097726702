// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source"
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
	var gateway string
	var allow []string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "check PATH...",
		Short: "Validate a policy; exit 1 on any error",
		Long: `check reads the policy as run and exec do and prints every error and warning,
one a line: file:line:col: error|warning: text [object]. A PATH of - is standard
input. docs/CHECKS.md lists the mistakes that it knows.`,
		Example: `  egressd check policy/
  helm template chart/ | egressd check -
  egressd check -o json policy.yaml | jq .findings`,
		Args: usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			selector, err := labels(gateway)
			if err != nil {
				return err
			}
			consent, err := allowed(allow)
			if err != nil {
				return err
			}
			l, err := readPolicy(e, args, selector, consent)
			if errors.As(err, new(usageError)) {
				return err
			}
			r := checkResult{
				Valid: err == nil, Findings: l.Findings,
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
	cmd.Flags().StringVar(&gateway, "gateway-selector", "", "labels of the node's gateway, as for run")
	registerAllow(cmd, &allow)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print notes as well, such as kinds that are skipped")
	return cmd
}

// stdinName is how findings call standard input.
const stdinName = "<stdin>"

// readPolicy is control.LoadPolicy where a path of "-" is standard input.
func readPolicy(e env, paths []string, gateway map[string]string, allow []policy.AllowedEndpoint) (control.Loaded, error) {
	i := slices.Index(paths, "-")
	if i < 0 {
		return control.LoadPolicy(paths, gateway, allow...)
	}
	if slices.Contains(paths[i+1:], "-") {
		return control.Loaded{}, usageError{errors.New("standard input can be read once only")}
	}
	data, err := io.ReadAll(io.LimitReader(e.stdin, source.MaxFileSize+1))
	switch {
	case err != nil:
		return control.Loaded{}, fmt.Errorf("read standard input: %w", err)
	case len(data) > source.MaxFileSize:
		return control.Loaded{}, fmt.Errorf("standard input is larger than %d bytes", source.MaxFileSize)
	}
	var files []istio.File
	if others := slices.Concat(paths[:i], paths[i+1:]); len(others) > 0 {
		if files, err = source.Files(others); err != nil {
			return control.Loaded{}, err
		}
	}
	return control.LoadFiles(append(files, istio.File{Name: stdinName, Data: data}), gateway, allow...)
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
	if err != nil && !(errors.Is(err, control.ErrPolicy) && errs > 0) {
		fmt.Fprintln(e.stderr, "egressd:", quote.Lines(err.Error()))
	}
	state := "good"
	if err != nil {
		state = "not good"
	}
	fmt.Fprintf(e.stderr, "policy is %s: %d errors, %d warnings; %d services, %d virtual services, %d gateways\n",
		state, errs, warnings, r.Services, r.VirtualServices, r.Gateways)
}

func explainCommand(e env) *cobra.Command {
	var out output
	var config, allow []string
	var method, workload, mode string
	var daemon client
	cmd := &cobra.Command{
		Use:   "explain URL|HOST:PORT|IP:PORT",
		Short: "Say what would happen to a connection, and why",
		Long: `explain gives the decision, the verdict class, the rule with its place in the
files, and each step that led to it. With --config it reads policy files;
without, it asks the running daemon, which also knows what was learned.
The exit code is 1 when the policy denies the connection, in the modes audit
and off as well, where it passes all the same.

A URL may have the scheme of any usual protocol; it says which port is meant
and what the client sends first. HOST:PORT is explained by what the policy
declares for the port.`,
		Example: `  egressd explain --config policy/ https://www.googleapis.com/storage
  egressd explain --config policy/ -X POST http://api.example.com/v1
  sudo egressd explain 190.64.31.232:3306
  egressd explain --config policy/ postgres://db.example.com/orders
  sudo egressd explain example.com:443/udp`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			t, err := agent.ParseTarget(args[0])
			if err != nil {
				return usageError{err}
			}
			node, err := parseMode(mode, policy.Enforce, policy.Audit, policy.Off)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("mode") && len(config) == 0 {
				return usageError{errors.New("--mode goes with --config; a running daemon knows its mode")}
			}
			var x agent.Explanation
			consent, err := allowed(allow)
			if err != nil {
				return err
			}
			if len(config) > 0 {
				l, err := readPolicy(e, config, nil, consent)
				if err != nil {
					for _, f := range l.Findings {
						if f.Severity == istio.Error {
							printLine(e.stderr, "%s", f)
						}
					}
					return err
				}
				if x, err = agent.Explain(l.Snapshot, nil, agent.Question{Target: t, Method: method, Workload: workload, Mode: node}); err != nil {
					return err
				}
			} else {
				q := url.Values{"target": {args[0]}, "method": {method}, "workload": {workload}}
				body, err := daemon.ask(cmd.Context(), http.MethodGet, agent.PathExplain, q)
				if err != nil {
					return orConfig(err)
				}
				if err := json.Unmarshal(body, &x); err != nil {
					return told(err)
				}
			}
			if asJSON {
				writeJSON(e.stdout, x)
			} else {
				printExplanation(e.stdout, x)
			}
			if !x.Allowed {
				return exitError{exitFinding}
			}
			return nil
		},
	}
	out.register(cmd)
	cmd.Flags().StringSliceVar(&config, "config", nil, "policy to explain offline, - for standard input; without it the daemon is asked")
	registerAllow(cmd, &allow)
	cmd.Flags().StringVarP(&method, "method", "X", http.MethodGet, "HTTP method of the request")
	cmd.Flags().StringVar(&workload, "workload", "", "workload to explain for, NAME or NAMESPACE/NAME (default every process that is not described)")
	cmd.Flags().StringVar(&mode, "mode", "enforce", "with --config: mode of the node: enforce, audit or off")
	daemon.register(cmd)
	return cmd
}

func printExplanation(w io.Writer, x agent.Explanation) {
	w = quote.Writer(w)
	result := "allowed"
	if !x.Allowed {
		result = "denied"
		if x.Passes {
			result = "would be denied"
		}
	}
	printLine(w, "%s: %s, verdict %s (%s)", x.Target, result, x.Verdict, x.Reason)
	switch {
	case x.Mode == policy.Off:
		printLine(w, "mode off: the connection passes, whatever it is, and nothing is reported; what follows is what mode enforce does")
	case !x.Allowed && x.Passes:
		printLine(w, "mode audit: the denial is reported, and the connection passes; what follows is what mode enforce does")
	}
	if x.Rule != nil {
		label := "rule"
		if !x.Allowed {
			label = "nearest rule"
		}
		printLine(w, "%s: %s", label, x.Rule)
	}
	if x.Action != nil {
		printLine(w, "acted on by: %s", x.Action)
	}
	for i, s := range x.Steps {
		printLine(w, "  %d. %s", i+1, s)
	}
	if x.Class != "" {
		printLine(w, "verdict %s because: %s", x.Verdict, x.Class)
	}
	if len(x.Considered) > 0 {
		fmt.Fprintln(w, "considered:")
	}
	for _, c := range x.Considered {
		sign := "-"
		if c.Won {
			sign = "+"
		}
		printLine(w, "  %s %s: %s", sign, c.Rule, c.Why)
	}
	if x.Nearest != nil {
		printLine(w, "nearest: %s: %s", x.Nearest.Rule, x.Nearest.Why)
	}
	if x.Suggestion != "" {
		fmt.Fprintf(w, "\nThis would allow it:\n\n%s", quote.Lines(x.Suggestion))
	}
}
