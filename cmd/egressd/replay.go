// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/explain/replay"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy/istio"
)

func replayCommand(e env) *cobra.Command {
	var r replayFlags
	cmd := &cobra.Command{
		Use:   "replay FLOWS... --config NEW|--allow HOST...",
		Short: "Say which recorded flows a policy would decide in another way",
		Long: `replay reads flow logs, and says before a policy is in force which of the flows in
them it would deny (-), newly allow (+), or send another way (~), for each workload
and host, with how often they were recorded. A flow log is what "egressd run
--flow-log FILE" writes, or what "egressd flows -o json" prints; it may be rotated or
compressed (gzip), and - is standard input.

Each flow is decided by what was recorded of it: host, address, port, what it speaks,
of a request the method and the path. The headers and the query of a request are not
recorded; where that may matter, replay says so. Of a request, and of a TLS or TCP
connection that the proxy passed unread, the lines have the route that it took, so
another route, destination, subset, egress gateway or timeout is a change as well. It
also says of what it could not ask the policy. What a change does to flows that were
not recorded, "egressd diff" says.

The exit code is 0 when nothing that was allowed would be denied, 1 when something
would be, or lines could not be read, and 2 when a file or the policy cannot be read.`,
		Example: `  egressd replay /var/log/egressd/flows.jsonl* --config policy.new/
  sudo egressd flows -o json | egressd replay - --config policy.new/
  egressd replay flows.jsonl --allow api.github.com --allow '*.pypi.org:443'
  egressd replay flows.jsonl --config policy.new/ --workload 'shop/*' --since 7d
  egressd replay flows.jsonl --config policy.new/ -o json | jq '.changes[] | select(.kind == "denied")'`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("give the files of a flow log, or - for standard input: egressd replay FLOWS... --config NEW")
			}
			return nil
		}),
		RunE: func(_ *cobra.Command, args []string) error { return r.run(e, args) },
	}
	r.out.register(cmd)
	listVar(cmd.Flags(), &r.config, "config", "policy that is asked: a file or a directory of YAML; may be given several times")
	cmd.Flags().BoolVarP(&r.verbose, "verbose", "v", false, "print the steps that lead to each decision")
	r.short.register(cmd)
	r.read.register(cmd)
	r.filter.register(cmd)
	return cmd
}

// replayFlags are what the command line asks for.
type replayFlags struct {
	out     output
	config  []string
	short   allowFlags
	read    offlineFlags
	filter  flowFilterFlags
	verbose bool
}

func (r *replayFlags) run(e env, paths []string) error {
	asJSON, err := r.out.json()
	if err != nil {
		return err
	}
	if len(r.config) == 0 && r.short.allow().Empty() {
		return usageError{errors.New("say which policy is asked: --config PATH, or --allow HOST")}
	}
	for _, path := range r.config {
		if path == flowrecord.Stdin {
			return usageError{errors.New("standard input is for flows: name the policy's file or directory")}
		}
	}
	_, wanted, err := r.filter.read()
	if err != nil {
		return err
	}
	o, err := r.read.options()
	if err != nil {
		return err
	}
	l, err := readPolicy(e, r.config, r.short, o)
	if err != nil {
		for _, f := range l.Findings {
			if f.Severity == istio.Error {
				printLine(e.stderr, "%s", f)
			}
		}
		printLine(e.stderr, "egressd: %s", quote.Lines(err.Error()))
		return exitError{exitUsage}
	}
	var flows replay.Flows
	seen := 0
	unread, err := readLogs(e, paths, func(ev flow.Event) bool {
		if wanted.Wants(&ev) {
			seen++
			flows.Add(&ev)
		}
		return true
	})
	if err != nil {
		printLine(e.stderr, "egressd: %s", quote.Lines(err.Error()))
		return exitError{exitUsage}
	}
	out := flows.Run(l.Snapshot)
	if asJSON {
		writeJSON(e.stdout, out)
	} else {
		printReplay(e, out, r.verbose)
	}
	if seen == 0 {
		complainNothing(e, r.filter.given(), ", so that the policy was asked about nothing")
	}
	if err := complainUnread(e, unread); err != nil {
		return err
	}
	if out.Count(replay.Denied) > 0 || out.Overflow > 0 {
		return exitError{exitFinding}
	}
	return nil
}

// signs stand before a change.
var signs = map[replay.ChangeKind]string{replay.Denied: "-", replay.Allowed: "+", replay.Otherwise: "~"}

// printReplay prints changes by workload and host, and what is not known on standard
// error.
func printReplay(e env, out replay.Outcomes, verbose bool) {
	w := quote.Writer(e.stdout)
	for i, c := range out.Changes {
		if i == 0 || c.Workload != out.Changes[i-1].Workload {
			printLine(w, "%s:", orDash(c.Workload))
		}
		if i == 0 || c.Workload != out.Changes[i-1].Workload || c.Host != out.Changes[i-1].Host {
			printLine(w, "  %s:", c.Host)
		}
		printChange(w, c, verbose)
	}
	for _, u := range out.Unasked {
		printLine(e.stderr, "not asked about: %s of %s, %s: %s", u.Host, orDash(u.Workload), times(u.Count), u.Why)
	}
	if len(out.Undescribed) > 0 {
		printLine(e.stderr, "the policy describes no workload %s: asked about as a process that nobody describes", strings.Join(out.Undescribed, ", "))
	}
	if out.Missing > 0 {
		printLine(e.stderr, "the flows say that %s are missing among them", counted(out.Missing, "event"))
	}
	if out.Overflow > 0 {
		printLine(e.stderr, "%s were not asked about: there are more than %d different ones; filter them", counted(out.Overflow, "flow"), replay.MaxFlows)
	}
	fmt.Fprintf(e.stderr, "%s: %d would be denied, %d newly allowed, %d sent another way, %d as before\n", counted(out.Flows, "different flow"),
		out.Count(replay.Denied), out.Count(replay.Allowed), out.Count(replay.Otherwise), out.Same)
}

func printChange(w io.Writer, c replay.FlowChange, verbose bool) {
	printLine(w, "    %s %s", signs[c.Kind], c.Says)
	when := "at " + second(c.First)
	if c.Count > 1 {
		when = fmt.Sprintf("from %s to %s", second(c.First), second(c.Last))
	}
	printLine(w, "      recorded %s, %s", times(c.Count), when)
	if verbose {
		for i, s := range c.Steps {
			printLine(w, "      %d. %s", i+1, s)
		}
	}
	for _, l := range c.Lacks {
		printLine(w, "      not recorded: %s", l)
	}
	if c.Allow != "" {
		printLine(w, "      allow: --allow %s", c.Allow)
	}
}

// times is a number of times in words.
func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
