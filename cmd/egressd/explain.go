// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy"
)

func explainCommand(e env) *cobra.Command {
	var out output
	var config, headers []string
	var method, workload, mode string
	var short allowFlags
	var pods podFilter
	var visitor visitorFlags
	var daemon client
	var read offlineFlags
	cmd := &cobra.Command{
		Use:   "explain URL|HOST:PORT|IP:PORT",
		Short: "Say what would happen to a connection, and why",
		Long: `explain gives the decision, the verdict class, the rule with its place in the
files, and each step that led to it. With --config it reads policy files;
without, it asks the running daemon, which also knows what was learned.
The exit code is 1 when the policy denies the connection, also in the modes audit
and off, which let it pass. When rules spread it over several destinations, it
counts as denied if all of them are; else the answer says which part is.

Where Telemetry objects or the MeshConfig say something of it, it tells as well which
lines of the access log, spans and metrics there are. With --config it knows of no flags
of run for these.

A URL may have the scheme of any usual protocol; it says which port is meant
and what the client sends first. HOST:PORT is explained by what the policy
declares for the port.

With --gateway or --from the connection comes from outside, and what this
node's gateway does with it is explained.`,
		Example: `  egressd explain --config policy/ https://www.googleapis.com/storage
  egressd explain --config policy/ -X POST -H 'x-user: beta' http://api.example.com/v1
  sudo egressd explain 190.64.31.232:3306
  egressd explain --config policy/ postgres://db.example.com/orders
  egressd explain --allow '*.example.com:443' https://api.example.com/
  sudo egressd explain example.com:443/udp
  sudo egressd explain --pod shop/web-7d4b9c-x2x9p https://api.example.com/
  sudo egressd explain --from 203.0.113.7 https://shop.example.com/cart
  egressd explain --config gateway/ --gateway-selector istio=ingressgateway --gateway shop/edge http://shop.example.com/`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if printed, err := short.printed(e.stdout); printed {
				return err
			}
			if len(args) != 1 {
				return usageError{fmt.Errorf("give one URL, HOST:PORT or ADDRESS:PORT to explain, not %d", len(args))}
			}
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			t, err := explain.ParseTarget(args[0])
			if err != nil {
				return usageError{err}
			}
			header, err := explain.ParseHeader(headers)
			if err != nil {
				return usageError{err}
			}
			if workload, err = pods.orWorkload(workload); err != nil {
				return err
			}
			visit, err := visitor.visit(workload)
			if err != nil {
				return err
			}
			offline := len(config) > 0 || !short.allow().Empty()
			node, err := parseMode(mode, policy.Enforce, policy.Audit, policy.Off)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("mode") && !offline {
				return usageError{errors.New("--mode goes with --config or --allow; a running daemon knows its mode")}
			}
			var x explain.Explanation
			o, err := read.options()
			if err != nil {
				return err
			}
			if offline {
				l, err := goodPolicy(e, config, short, o)
				if err != nil {
					return err
				}
				if x, err = explain.Explain(l.Snapshot, nil, explain.Question{Target: t, Method: method, Header: header, Workload: workload, Visit: visit, Mode: node}); err != nil {
					return err
				}
			} else {
				q := url.Values{"target": {args[0]}, "method": {method}, "header": headers, "workload": {workload}}
				if visit != nil {
					visit.Query(q)
				}
				body, err := daemon.ask(cmd.Context(), http.MethodGet, explain.Path, q)
				if err != nil {
					return or(err, "give the policy with --config")
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
	listVar(cmd.Flags(), &config, "config", "policy to explain offline, - for standard input; without it the daemon is asked")
	short.register(cmd)
	read.register(cmd)
	cmd.Flags().StringVarP(&method, "method", "X", http.MethodGet, "HTTP method of the request")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "header of the HTTP request, as 'NAME: VALUE'; may be given several times")
	cmd.Flags().StringVar(&workload, "workload", "", "workload to explain for, NAME or NAMESPACE/NAME (default every process that is not described)")
	pods.register(cmd, "the same for a pod: NAMESPACE/NAME, or NAME in --namespace", "namespace of --pod (default \"default\")")
	cmd.Flags().StringVar(&mode, "mode", "enforce", "with --config: mode of the node: enforce, audit or off")
	visitor.register(cmd)
	daemon.register(cmd)
	return cmd
}

// visitorFlags say who comes from outside to the node's gateway.
type visitorFlags struct{ gateway, from, principal string }

func (f *visitorFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.gateway, "gateway", "", "explain what this node's gateway does with a visitor: the Gateway's NAMESPACE/NAME")
	cmd.Flags().StringVar(&f.from, "from", "", "the same, for a visitor from this address; without --gateway whichever Gateway has the port")
	cmd.Flags().StringVar(&f.principal, "principal", "", "with --gateway or --from: SPIFFE id of the visitor's client certificate")
}

// visit is what the flags say; nil: a workload asks.
func (f *visitorFlags) visit(workload string) (*explain.Visit, error) {
	if f.gateway == "" && f.from == "" {
		if f.principal != "" {
			return nil, usageError{errors.New("--principal goes with --gateway or --from")}
		}
		return nil, nil
	}
	if workload != "" {
		return nil, usageError{errors.New("--gateway and --from are about a visitor from outside, --workload and --pod about what runs here: ask for one of them")}
	}
	v, err := explain.NewVisit(f.gateway, f.from, f.principal)
	if err != nil {
		return nil, usageError{err}
	}
	return v, nil
}

func printExplanation(w io.Writer, x explain.Explanation) {
	w = quote.Writer(w)
	result := "allowed"
	if !x.Allowed {
		result = "denied"
		if x.Passes {
			result = "would be denied"
		}
	}
	part := ""
	if x.Allowed && x.DeniedShare > 0 {
		part = fmt.Sprintf("; %.4g%% of it is denied", 100*x.DeniedShare)
	}
	printLine(w, "%s: %s, verdict %s (%s)%s", x.Target, result, x.Verdict, x.Reason, part)
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
	if t := x.Telemetry; t != nil {
		printLine(w, "access log: %s", t.LogLine())
		printLine(w, "trace: %s", t.TraceLine())
		for _, m := range t.MetricLines() {
			printLine(w, "metrics: %s", m)
		}
		for _, o := range t.Objects {
			printLine(w, "  said by %s", o)
		}
	}
	if x.Suggestion != "" {
		fmt.Fprintf(w, "\nThis would allow it:\n\n%s", quote.Lines(x.Suggestion))
	}
}
