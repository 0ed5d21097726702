// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/explain/learn"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
	"github.com/egressd/egressd/policy/source"
)

// suggestFlags say what a policy is learned from, and what becomes of it.
type suggestFlags struct {
	e         env
	out       output
	daemon    client
	workload  string
	since     string
	from      []string
	workloads []string
	merge     string
	write     bool
	exact     bool
	// beside and read are what the policy of merge stands in.
	beside []string
	read   offlineFlags
}

func suggestCommand(e env) *cobra.Command {
	f := suggestFlags{e: e}
	cmd := &cobra.Command{
		Use:   "suggest",
		Short: "Print a policy that allows what was seen",
		Long: `suggest prints the fewest ServiceEntries that allow what workloads did: what was
allowed, and what was denied, or would have been but for audit mode. It asks the
running daemon, or reads lines of "egressd flows -o json" with --from. Where
described workloads of one namespace did different things, each gets a Sidecar.
Read the policy before it is put in force: programs may have done more than they
should.

Hosts stand before addresses. A protocol is what was read of the connection, or
the port's usual one, which is said then. A wildcard is for many names with generated
labels below one domain that is nobody's in particular. Each port says how often
and when it was seen. What is not complete is said in the first lines.

With --merge, suggest prints what is missing in a policy, as a difference to its file
learned.yaml (or to PATH, if that is a file), and writes it with --write. The exit
code is 1 when something is missing and was not written. What is in force beside that
policy is named by --config, as objects of a cluster, and by the flags of check that
say what is the cluster's: that is asked as well, and not changed.`,
		Example: `  sudo egressd run --mode audit --cgroup /sys/fs/cgroup/build &   # for a day
  sudo egressd suggest --since 24h > policy/learned.yaml
  sudo egressd suggest --workload shop/web
  sudo egressd suggest --merge policy/            # what is missing there?
  sudo egressd suggest --merge policy/ --write
  kubectl get serviceentries,sidecars,services,servicecidrs -A -o yaml |
    sudo egressd suggest --merge policy/ --config - --cluster-cidr auto
  egressd suggest --from flows.jsonl --workloads workloads.yaml
  sudo egressd suggest -o json | jq .unknown      # asked for, never connected to`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range ofMerge {
				if cmd.Flags().Changed(name) && f.merge == "" {
					return usageError{fmt.Errorf("--%s goes with --merge", name)}
				}
			}
			return f.run(cmd.Context())
		},
	}
	f.out.register(cmd)
	f.daemon.register(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.workload, "workload", "", "only of this workload, as flows names it")
	fs.StringVar(&f.since, "since", "", "only what was seen since: how long ago, as in 1h, or a time, as in 2026-01-02T15:04:05Z")
	listVar(fs, &f.from, "from", "file with lines of \"egressd flows -o json\" (- is standard input) instead of the daemon; may be given several times")
	listVar(fs, &f.workloads, "workloads", "with --from, file or directory with the Workloads that the flows are of; may be given several times")
	fs.StringVar(&f.merge, "merge", "", "policy, a file or directory: print what is missing there")
	fs.BoolVar(&f.write, "write", false, "with --merge, write what is missing")
	listVar(fs, &f.beside, "config", "with --merge, policy that is in force beside it and is not changed: a file, a directory, or - for standard input; may be given several times")
	f.read.register(cmd)
	fs.BoolVar(&f.exact, "exact", false, "name each host, without wildcards for generated names")
	return cmd
}

// ofMerge are the flags that say something of the policy of --merge alone.
var ofMerge = []string{"write", "config", "gateway-selector", "allow-endpoint", "cluster-cidr", "cluster-domain", "cluster-dns"}

// suggested is what "suggest -o json" prints.
type suggested struct {
	// Objects are ServiceEntries and Sidecars in YAML.
	Objects []string `json:"objects"`
	// Unknown are names that were asked for and never connected to: which port they are
	// for is not known.
	Unknown []string `json:"unknown,omitempty"`
	// Notes say where it is from, and what is not in it.
	Notes []string `json:"notes,omitempty"`
}

func (f *suggestFlags) run(ctx context.Context) error {
	asJSON, err := f.out.json()
	if err != nil {
		return err
	}
	since, err := f.begin()
	if err != nil {
		return err
	}
	if len(f.workloads) > 0 && len(f.from) == 0 {
		return usageError{errors.New("--workloads goes with --from")}
	}
	if slices.Contains(f.beside, "-") && slices.Contains(f.from, flowrecord.Stdin) {
		return usageError{errStdinTwice}
	}
	o, err := f.read.options()
	if err != nil {
		return err
	}
	l := learn.New(since, f.workload)
	identities, about, err := f.learn(ctx, l, since)
	if err != nil {
		return err
	}
	if f.merge != "" {
		return f.merged(l, identities, o, asJSON)
	}
	p := l.Propose(learn.Options{Identities: identities, Exact: f.exact})
	if asJSON {
		objects, err := p.Objects()
		if err != nil {
			return err
		}
		writeJSON(f.e.stdout, suggested{objects, p.Unknown, append(about, p.Notes...)})
		return nil
	}
	text, err := p.YAML(about...)
	if err != nil {
		return err
	}
	fmt.Fprint(f.e.stdout, quote.Lines(text))
	return nil
}

// begin reads --since.
func (f *suggestFlags) begin() (time.Time, error) {
	if f.since == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(f.since); err == nil && d > 0 {
		return time.Now().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, f.since)
	if err != nil {
		return t, usageError{fmt.Errorf("--since is how long ago, as in 90m or 24h, or a time, as in 2026-01-02T15:04:05Z, not %q", f.since)}
	}
	return t, nil
}

// learn fills l, and says which workloads are described and where it is from.
func (f *suggestFlags) learn(ctx context.Context, l *learn.Learner, since time.Time) ([]policy.Identity, []string, error) {
	if len(f.from) > 0 {
		return f.fromFiles(l)
	}
	body, err := f.daemon.ask(ctx, http.MethodGet, admin.PathSeen, nil)
	if err != nil {
		return nil, nil, or(err, "name a flow log with --from")
	}
	var r learn.Recording
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, nil, told(err)
	}
	if err := l.AddRecording(r); err != nil {
		return nil, nil, err
	}
	about := []string{"learned from the daemon, which has recorded since " + stamp(r.Started)}
	if !since.IsZero() && r.Started.After(since) {
		about = append(about, fmt.Sprintf("not complete: --since asks for what was seen from %s on, and the daemon has recorded since %s", stamp(since), stamp(r.Started)))
	}
	return r.Workloads, about, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (f *suggestFlags) fromFiles(l *learn.Learner) ([]policy.Identity, []string, error) {
	unread, err := readLogs(f.e, f.from, func(e flow.Event) bool { l.Add(e); return true })
	if err != nil {
		return nil, nil, err
	}
	about := []string{"learned from " + counted(unread.Read, "line") + " of flow logs"}
	if first, last := l.Span(); !first.IsZero() {
		about[0] += ", from " + stamp(first) + " to " + stamp(last)
	}
	for _, c := range unread.Cut {
		about = append(about, fmt.Sprintf("not complete: %s is cut short, and was read as far as %s", quote.Line(c.Name), counted(c.Read, "line")))
	}
	if unread.Bad > 0 {
		about = append(about, fmt.Sprintf("not complete: %s could not be read, the first of them %s", counted(unread.Bad, "line"), quote.Line(unread.First.Error())))
	}
	if len(f.workloads) == 0 {
		return nil, about, nil
	}
	w, err := load.Paths(f.workloads, nil)
	if err != nil {
		printFindings(f.e, w)
		return nil, nil, fmt.Errorf("--workloads: %w", err)
	}
	return learn.IdentitiesOf(w.Snapshot), about, nil
}

// printFindings prints the errors of a policy.
func printFindings(e env, l load.Result) {
	for _, finding := range l.Findings {
		if finding.Severity == istio.Error {
			printLine(e.stderr, "%s", finding)
		}
	}
}

// merged prints what is missing in a policy, or writes it.
func (f *suggestFlags) merged(l *learn.Learner, identities []policy.Identity, o istio.Options, asJSON bool) error {
	files, err := source.Files([]string{f.merge})
	if err != nil && !errors.As(err, new(*source.EmptyError)) { // all is missing in an empty directory
		return err
	}
	beside, err := readFiles(f.e, f.beside)
	if err != nil {
		return err
	}
	for _, b := range beside { // what is merged into may be among it
		if !slices.ContainsFunc(files, func(f istio.File) bool { return filepath.Clean(f.Name) == filepath.Clean(b.Name) }) {
			files = append(files, b)
		}
	}
	m, err := newMerge(f.e, f.merge, files, o, identities)
	if err != nil {
		return err
	}
	p, err := m.add(l, learn.Options{Identities: m.identities, Exact: f.exact, Adds: true})
	if err != nil {
		return err
	}
	if asJSON {
		objects, err := p.Objects()
		if err != nil {
			return err
		}
		writeJSON(f.e.stdout, suggested{objects, p.Unknown, p.Notes})
	} else {
		for _, n := range p.Notes {
			printLine(f.e.stderr, "egressd: %s", n)
		}
		fmt.Fprint(f.e.stdout, quote.Lines(m.diff()))
	}
	switch {
	case p.Empty():
		return nil
	case !f.write:
		return exitError{exitFinding}
	}
	return m.save()
}
