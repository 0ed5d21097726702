// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/internal/flowsummary"
)

func flowsCommand(e env) *cobra.Command {
	var f flows
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "Show what was decided, one line each, or count it",
		Long: `flows shows what was denied, each kind once with how often and since when, and
the newest of the other events, by time. What is denied is kept apart from what
is allowed, and each workload has a share of both. At the end of a denial stands
what would allow it: what --allow would name, or what to change in the policy.

With -f it goes on with new events. When the daemon ends, or this reader is too slow
for it, flows says so on standard error and connects again. It goes on behind the last
event that it has read; where the daemon keeps some of what came since then no more, a
line says how many are lost.

With --file it reads flow logs that "egressd run --flow-log" has written, also those
that were rotated or compressed (gzip), and needs no daemon. docs/FLOWS.md says what
is in a line.

A filter may have several values, separated by commas, of which one is enough. Of
what has several filters all must hold.`,
		Example: `  sudo egressd flows
  sudo egressd flows -f --verdict deny
  sudo egressd flows --pod shop/web-7d4b9c-x2x9p
  sudo egressd flows --namespace shop --verdict deny
  sudo egressd flows --since 1h --host '*.example.com' --port 443
  sudo egressd flows --summary --top 10
  egressd flows --file /var/log/egressd/flows.jsonl* --since 2026-01-02T15:04:05Z --address 10.0.0.0/8
  sudo egressd flows -o json | jq 'select(.allowed == false)'`,
		Args: usageArgs(func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && len(f.files) == 0 {
				return errors.New("flows takes files with --file alone")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.files = append(f.files, args...) // what the shell made of --file NAME*
			return f.run(cmd.Context(), e)
		},
	}
	f.out.register(cmd)
	cmd.Flags().BoolVarP(&f.follow, "follow", "f", false, "show new events as they come")
	f.filter.register(cmd)
	listVar(cmd.Flags(), &f.files, "file", "flow log to read in place of the daemon's events, - for standard input; may be given several times, and files may follow it")
	cmd.Flags().BoolVar(&f.summary, "summary", false, "count by workload and host: denied, allowed, bytes, first and last seen; most denied first")
	cmd.Flags().IntVar(&f.top, "top", 0, "with --summary: this many lines at most; 0: all")
	f.daemon.register(cmd)
	return cmd
}

// flows is what the command line asks for.
type flows struct {
	out     output
	follow  bool
	filter  flowFilterFlags
	files   []string
	summary bool
	top     int
	daemon  client
}

func (f *flows) run(ctx context.Context, e env) error {
	asJSON, err := f.out.json()
	switch {
	case err != nil:
		return err
	case f.follow && (f.summary || len(f.files) > 0):
		return usageError{errors.New("-f goes on for ever: leave out --summary and --file")}
	case f.top < 0 || f.top > 0 && !f.summary:
		return usageError{errors.New("--top is a number of lines of --summary")}
	}
	query, wanted, err := f.filter.read()
	if err != nil {
		return err
	}
	var sum flowsummary.Summary
	show, shown := showEvent(e, asJSON), 0
	if f.summary {
		show = func(ev flow.Event, _ []byte) { sum.Add(&ev) }
	}
	r := reader{e: e, daemon: f.daemon, query: query, wanted: wanted, show: func(ev flow.Event, line []byte) {
		shown++
		show(ev, line)
	}}
	switch {
	case len(f.files) > 0:
		err = r.readFiles(f.files)
	case f.follow:
		return r.follow(ctx)
	default:
		err = or(r.once(ctx), "name a flow log with --file")
	}
	if err != nil && !errors.As(err, new(exitError)) {
		return err
	}
	if f.summary {
		printTallies(e, sum.Tallies(f.top), sum.Lost, asJSON)
	}
	if shown == 0 {
		complainNothing(e, f.filter.given(), "")
	}
	return err
}

// showEvent prints events, each in a line.
func showEvent(e env, asJSON bool) func(flow.Event, []byte) {
	return func(ev flow.Event, line []byte) {
		if asJSON {
			fmt.Fprintf(e.stdout, "%s\n", line)
		} else {
			printLine(e.stdout, "%s", eventLine(ev))
		}
	}
}

// readFiles shows what is wanted of flow logs. Lines that are none are told at the end,
// and make the exit code one of a finding.
func (r *reader) readFiles(paths []string) error {
	p := newProgress(r.e)
	u, err := flowrecord.LogFiles{Paths: paths, Stdin: r.e.stdin, Progress: p.told}.EachLine(func(ev flow.Event, line []byte) bool {
		if r.wanted.Wants(&ev) {
			p.erase()
			r.show(ev, line)
		}
		return true
	})
	p.erase()
	if err != nil {
		return err
	}
	return complainUnread(r.e, u)
}

// complainNothing tells that there was no event, so that a filter with a slip is not
// taken for a quiet node. then is what follows from it.
func complainNothing(e env, filtered bool, then string) {
	why := "there is no event"
	if filtered {
		why = "no event is what the filters ask for (docs/REASONS.md has the reasons, and \"egressd flows --summary\" the workloads and hosts)"
	}
	printLine(e.stderr, "egressd: %s%s", why, then)
}

// complainUnread tells of lines that could not be read.
func complainUnread(e env, u flowrecord.Unread) error {
	if u.Complete() {
		return nil
	}
	if u.Bad > 0 {
		printLine(e.stderr, "egressd: %s could not be read, and what they said is missing; the first: %v", counted(u.Bad, "line"), u.First)
	}
	for _, c := range u.Cut {
		printLine(e.stderr, "egressd: %s ends too early: what was compressed (gzip) is cut short. %s of it could be read, and the flows behind them are missing here. Where the file is still whole, copy it again", c.Name, counted(c.Read, "line"))
	}
	return exitError{exitFinding}
}
