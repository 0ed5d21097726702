// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/top"
	"github.com/egressd/egressd/internal/top/screen"
)

// topFlags are the flags of top.
type topFlags struct {
	out          output
	once         bool
	sort, filter string
	pods         podFilter
	daemon       client
}

func topCommand(e env) *cobra.Command {
	var f topFlags
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch workloads, hosts, verdicts and bytes in the terminal",
		Long: `top shows what the running daemon decides, as it comes: workloads, the hosts of
one, the flows to a host, and of a flow why it is allowed or denied and what would
allow it. ? shows the keys. It begins with what the daemon still knows: each kind
of denial, and the newest of the other events. What was seen longest ago is summed
up as "others" when there is too much.

When the daemon ends, top says so, and connects again.

--once prints one table and ends. A table for programs is --once -o json; "flows"
has the events themselves.`,
		Example: `  sudo egressd top
  sudo egressd top --sort denied --filter deny
  sudo egressd top --pod shop/web-7d4b9c-x2x9p
  sudo egressd top --once
  sudo egressd top --once -o json | jq '.workloads[] | {name, denied}'`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), e) },
	}
	f.out.register(cmd)
	cmd.Flags().BoolVar(&f.once, "once", false, "print one table and end; needs no terminal")
	cmd.Flags().StringVar(&f.sort, "sort", string(top.ByLast), "what comes first: "+sortWords())
	cmd.Flags().StringVar(&f.filter, "filter", "", "only what has this text in a name, an address, a process, a verdict or a reason")
	f.pods.register(cmd, "only this pod or workload, NAMESPACE/NAME, or NAME in --namespace", "only pods and workloads of this namespace")
	f.daemon.register(cmd)
	return cmd
}

func sortWords() string {
	var words []string
	for _, s := range top.Sorts {
		words = append(words, string(s))
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func (f *topFlags) run(ctx context.Context, e env) error {
	asJSON, err := f.out.json()
	if err != nil {
		return err
	}
	if asJSON && !f.once {
		return usageError{errors.New("-o json goes with --once; \"egressd flows -f -o json\" has events as they come")}
	}
	if !slices.Contains(top.Sorts, top.Sort(f.sort)) {
		return usageError{fmt.Errorf("--sort is %s, not %q", sortWords(), f.sort)}
	}
	workload, err := f.pods.workload()
	if err != nil {
		return err
	}
	q := url.Values{"workload": {workload}, "namespace": {f.pods.namespace}}
	if f.once {
		return f.printOnce(ctx, e, q, asJSON)
	}
	if err := needTerminal(e); err != nil {
		return err
	}
	return f.watch(ctx, e, q)
}

// needTerminal says what to do without one.
func needTerminal(e env) error {
	for _, file := range []any{e.stdin, e.stdout} {
		if !isTerminal(file) {
			return usageError{errors.New("top needs a terminal for its keys and its screen: \"egressd flows\" prints events, \"egressd top --once\" one table")}
		}
	}
	if term := e.getenv("TERM"); term == "dumb" {
		return usageError{errors.New("this terminal (TERM=dumb) has no screen that top could draw on: \"egressd flows\" prints events, \"egressd top --once\" one table")}
	}
	return nil
}

// hasUnicode says whether the terminal's locale (locale(7)) has more letters than ASCII's.
// Where none is set, as in most containers and services, nothing is known against it.
func hasUnicode(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return true
}

func isTerminal(file any) bool {
	f, ok := file.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// watch shows the screen until somebody ends it.
func (f *topFlags) watch(ctx context.Context, e env, q url.Values) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q.Set("follow", "1")
	body, err := f.daemon.follow(ctx, admin.PathFlows, q)
	if err != nil {
		return done(ctx, err) // without a daemon at the beginning there is nothing to watch
	}
	explain := func(ctx context.Context, ev flow.Event) string { return explainFlow(ctx, f.daemon, ev) }
	s := screen.New(ctx, explain, top.Sort(f.sort), f.filter, time.Now)
	if !hasUnicode(e.getenv) {
		s.Plain()
	}
	p := tea.NewProgram(s, tea.WithContext(ctx), tea.WithInput(e.stdin), tea.WithOutput(e.stdout), tea.WithEnvironment(e.environ()), tea.WithoutSignalHandler())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r := topReader{daemon: f.daemon, query: q, tell: p.Send}
		r.follow(ctx, body)
	}()
	_, err = p.Run()
	err = done(ctx, err)
	cancel()
	<-ended
	return err
}

// printOnce prints what the daemon knows.
func (f *topFlags) printOnce(ctx context.Context, e env, q url.Values, asJSON bool) error {
	data, err := f.daemon.ask(ctx, http.MethodGet, admin.PathFlows, q)
	if err != nil {
		return err
	}
	traffic := top.New(top.Bounds{})
	if err := eachEvent(data, traffic.Add); err != nil {
		return err
	}
	sheet := sheetOf(traffic, top.Query{Sort: top.Sort(f.sort), Filter: f.filter}, time.Now())
	if asJSON {
		writeJSON(e.stdout, sheet)
		return nil
	}
	sheet.print(e.stdout)
	return nil
}
