// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/quote"
)

func flowsCommand(e env) *cobra.Command {
	var out output
	var follow bool
	var verdict string
	var pods podFilter
	var daemon client
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "Show what was decided, one line each",
		Long: `flows shows what was denied, each kind once with how often and since when, and
the newest of the other events, by time. What is denied is kept apart from what
is allowed, and each workload has a share of both.

With -f it goes on with new events. When the daemon ends, or this reader is too slow
for it, flows says so on standard error and connects again.`,
		Example: `  sudo egressd flows
  sudo egressd flows -f --verdict deny
  sudo egressd flows --pod shop/web-7d4b9c-x2x9p
  sudo egressd flows --namespace shop --verdict deny
  sudo egressd flows -o json | jq 'select(.allowed == false)'`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			if !slices.Contains([]string{"", "deny", "direct", "inspect", "proxy"}, verdict) {
				return usageError{fmt.Errorf("--verdict is deny, direct, inspect or proxy, not %q", verdict)}
			}
			workload, err := pods.workload()
			if err != nil {
				return err
			}
			r := reader{e: e, daemon: daemon, asJSON: asJSON, query: url.Values{"verdict": {verdict}, "workload": {workload}, "namespace": {pods.namespace}}}
			if follow {
				r.query.Set("follow", "1")
				return r.follow(cmd.Context())
			}
			_, err = r.read(cmd.Context())
			return err
		},
	}
	out.register(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show new events as they come")
	cmd.Flags().StringVar(&verdict, "verdict", "", "only deny (with what audit mode would deny), direct, inspect or proxy")
	pods.register(cmd, "only this pod or workload, NAMESPACE/NAME, or NAME in --namespace", "only pods and workloads of this namespace")
	daemon.register(cmd)
	return cmd
}

// reader prints the daemon's events.
type reader struct {
	e      env
	daemon client
	asJSON bool
	query  url.Values
	// last is the time of the newest event that was printed.
	last time.Time
	// again says that it was connected before.
	again bool
}

// read prints what the daemon answers, until that ends. answered says that
// there was a daemon.
func (r *reader) read(ctx context.Context) (answered bool, err error) {
	if !r.last.IsZero() {
		r.query.Set("since", r.last.Format(time.RFC3339Nano))
	}
	body, err := openFlows(ctx, r.daemon, r.query)
	if err != nil {
		return false, err
	}
	defer body.Close()
	if r.again {
		printLine(r.e.stderr, "egressd: connected again")
	}
	r.again = true
	return true, r.print(body)
}

// openFlows asks for events, once or as they come.
func openFlows(ctx context.Context, c client, q url.Values) (io.ReadCloser, error) {
	if q.Has("follow") {
		return c.follow(ctx, admin.PathFlows, q)
	}
	data, err := c.ask(ctx, http.MethodGet, admin.PathFlows, q)
	return io.NopCloser(bytes.NewReader(data)), err
}

func (r *reader) print(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var ev flow.Event
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			return told(err)
		}
		if ev.Time.After(r.last) {
			r.last = ev.Time
		}
		if r.asJSON {
			fmt.Fprintln(r.e.stdout, lines.Text())
		} else {
			printLine(r.e.stdout, "%s", eventLine(ev))
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the daemon ended: %w", err)
	}
	return nil
}

// askAgain is how long a follower waits before it asks for the daemon again.
const askAgain = 500 * time.Millisecond

// follow reads until ctx is done. Without a daemon at the beginning there is
// nothing to follow.
func (r *reader) follow(ctx context.Context) error {
	answered, err := r.read(ctx)
	if !answered {
		return done(ctx, err)
	}
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for waits := false; ctx.Err() == nil; {
		if answered {
			printLine(r.e.stderr, "egressd: the daemon has ended, or this reader was too slow for it; connecting again")
		} else if !waits {
			printLine(r.e.stderr, "egressd: %v; waiting for it", err)
		}
		waits = !answered
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		answered, err = r.read(ctx)
	}
	return nil
}

// done is the error of what ended because ctx did: none.
func done(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// eventLine is the human form of an event, to be printed by printLine.
func eventLine(e flow.Event) string {
	if e.Kind == flow.Lost {
		return fmt.Sprintf("%s LOST  %d events that came faster than they were read", e.Time.Local().Format("15:04:05.000"), e.More)
	}
	var b strings.Builder
	result := "ALLOW"
	switch {
	case e.WouldDeny:
		result = "AUDIT"
	case !e.Allowed:
		result = "DENY"
	case e.Kind == flow.Close:
		result = "CLOSE"
	}
	who := fmt.Sprintf("%s[%d]", orDash(quote.Word(e.Process.Command)), e.Process.PID)
	if e.Interface != "" && e.Process.PID == 0 {
		who = "if:" + e.Interface
	}
	if strings.Contains(e.Workload, "/") { // one that somebody described, as a pod is
		who = quote.Word(e.Workload) + " " + who
	}
	fmt.Fprintf(&b, "%s %-5s %-7s %s", e.Time.Local().Format("15:04:05.000"), result, e.Layer, who)
	if e.Proto != "" {
		b.WriteString(" " + e.Proto)
	}
	if e.Method != "" {
		fmt.Fprintf(&b, " %s %s%s -> %d", e.Method, quote.Word(e.Name), e.Path, e.Status)
		if e.Kind == flow.Mirror {
			b.WriteString(" (copy)")
		}
	} else if e.Name != "" {
		b.WriteString(" " + quote.Word(e.Name))
	}
	if e.Dst.IsValid() {
		fmt.Fprintf(&b, " %s", e.Dst)
	}
	if e.Upstream.IsValid() && e.Upstream != e.Dst {
		fmt.Fprintf(&b, " via %s", e.Upstream)
	}
	if e.Kind == flow.Close {
		fmt.Fprintf(&b, " sent %d received %d in %s", e.BytesSent, e.BytesReceived, e.Duration.Round(1e6))
	}
	if !e.Allowed || e.WouldDeny || e.Kind == flow.Decision {
		fmt.Fprintf(&b, " (%s)", e.Reason)
	}
	if e.ResponseFlags != "" {
		b.WriteString(" " + e.ResponseFlags)
	}
	if e.StatPrefix != "" {
		b.WriteString(" statPrefix " + quote.Word(e.StatPrefix))
	}
	switch {
	case e.More > 0:
		fmt.Fprintf(&b, " %d more in %s", e.More, e.Duration.Round(time.Second))
	case e.Count > 1:
		fmt.Fprintf(&b, " %d times since %s", e.Count, e.First.Local().Format("15:04:05.000"))
	}
	if len(e.Names) > 1 {
		fmt.Fprintf(&b, " it may be any of %s", quote.Word(strings.Join(e.Names, ",")))
	}
	if e.Rule != nil {
		label := "rule"
		if !e.Allowed {
			label = "nearest"
		}
		fmt.Fprintf(&b, " %s: %s", label, e.Rule)
	}
	if e.Audited != nil {
		fmt.Fprintf(&b, "; audited by %s", e.Audited)
	}
	if e.DryRun != nil {
		fmt.Fprintf(&b, "; would be denied by %s (dry-run)", e.DryRun)
	}
	if e.Detail != "" {
		b.WriteString("; " + e.Detail)
	}
	return b.String()
}
