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
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/agent"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/quote"
)

func flowsCommand(e env) *cobra.Command {
	var out output
	var follow bool
	var verdict, stateDir string
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "Show what was decided, one line each",
		Example: `  sudo egressd flows
  sudo egressd flows -f --verdict deny
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
			body, err := openFlows(cmd.Context(), daemonAt(stateDir), url.Values{"verdict": {verdict}}, follow)
			if err != nil {
				return err
			}
			defer body.Close()
			lines := bufio.NewScanner(body)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				if asJSON {
					fmt.Fprintln(e.stdout, lines.Text())
					continue
				}
				var ev flow.Event
				if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
					return told(err)
				}
				printLine(e.stdout, "%s", eventLine(ev))
			}
			if err := lines.Err(); err != nil && cmd.Context().Err() == nil {
				return fmt.Errorf("the daemon ended: %w", err)
			}
			return nil
		},
	}
	out.register(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new events")
	cmd.Flags().StringVar(&verdict, "verdict", "", "only deny (with what audit mode would deny), direct, inspect or proxy")
	registerDirs(cmd, &stateDir, nil)
	return cmd
}

// openFlows asks for events, once or as they come.
func openFlows(ctx context.Context, c client, q url.Values, follow bool) (io.ReadCloser, error) {
	if follow {
		q.Set("follow", "1")
		return c.follow(ctx, agent.PathFlows, q)
	}
	data, err := c.ask(ctx, http.MethodGet, agent.PathFlows, q)
	return io.NopCloser(bytes.NewReader(data)), err
}

// eventLine is the human form of an event, to be printed by printLine.
func eventLine(e flow.Event) string {
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
	fmt.Fprintf(&b, "%s %-5s %-7s %s", e.Time.Local().Format("15:04:05.000"), result, e.Layer, who)
	if e.Proto != "" {
		b.WriteString(" " + e.Proto)
	}
	if e.Method != "" {
		fmt.Fprintf(&b, " %s %s%s -> %d", e.Method, quote.Word(e.Name), e.Path, e.Status)
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
	if e.More > 0 {
		fmt.Fprintf(&b, " %d more in %s", e.More, e.Duration.Round(time.Second))
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

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func statusCommand(e env) *cobra.Command {
	var out output
	var stateDir string
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show the state of the running daemon",
		Example: "  sudo egressd status\n  sudo egressd status -o json | jq .kernel",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			body, err := daemonAt(stateDir).ask(cmd.Context(), http.MethodGet, agent.PathStatus, nil)
			if err != nil {
				return err
			}
			if asJSON {
				_, err = e.stdout.Write(body)
				return err
			}
			var s agent.Status
			if err := json.Unmarshal(body, &s); err != nil {
				return told(err)
			}
			printStatus(e.stdout, s)
			return nil
		},
	}
	out.register(cmd)
	registerDirs(cmd, &stateDir, nil)
	return cmd
}

func printStatus(w io.Writer, s agent.Status) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer tw.Flush()
	row := func(k string, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", k, quote.Line(fmt.Sprintf(format, args...)))
	}
	row("egressd", "%s, pid %d, since %s, ready: %t", s.Version, s.PID, s.Started.Local().Format("2006-01-02 15:04:05"), s.Ready)
	for _, dir := range sortedKeys(s.Capture.Cgroups) {
		row("captured", "%s%s", dir, presence(s.Capture, dir))
	}
	if s.Capture.Error != "" {
		row("NOT HELD", "%s", s.Capture.Error)
	}
	row("policy", "%.12s, loaded %s: %d services, %d virtual services, %d gateways", s.Policy.Hash,
		s.Policy.Loaded.Local().Format("15:04:05"), s.Policy.Services, s.Policy.VirtualServices, s.Policy.Gateways)
	if s.Policy.Error != "" {
		row("NOT APPLIED", "%s (the policy above stays in force)", s.Policy.Error)
	}
	for _, f := range s.Findings {
		row("finding", "%s", f)
	}
	for _, wl := range s.Workloads {
		row("workload", "%s, mode %s, cgroup %s, %d of %d origins", wl.Name, wl.Mode, wl.Cgroup, wl.Origins.Entries, wl.Origins.Max)
	}
	if len(s.Gates) > 0 {
		row("gates", "for other network namespaces: %s", strings.Join(s.Gates, ", "))
	}
	for _, g := range s.Gateway {
		row("gateway", "listens on %s", g)
	}
	for _, g := range s.GatewaySkipped {
		row("gateway", "%s", g)
	}
	row("dns servers", "%s", strings.Join(s.DNSServers, ", "))
	row("learned", "%d names and %d addresses; %d openings and %d proofs of at most %d and %d for a policy", s.Learned.Names, s.Learned.Addresses,
		s.Learned.Openings, s.Learned.Proofs, s.LearnedMax.Openings, s.LearnedMax.Proofs)
	row("connections", "%d open, %d accepted, %d refused, %d requests",
		s.Connections.Open, s.Connections.Accepted, s.Connections.Refused, s.Connections.Requests)
	row("programs", "%d attached: %s", len(s.Programs), strings.Join(sortedKeys(s.Programs), " "))
	if s.Pins.Lasting {
		row("pins", "%s, which outlives the daemon", s.Pins.Dir)
	} else {
		row("PINS", "all traffic is open when the daemon ends: %s", s.Pins.Error)
	}
	for _, i := range s.Interfaces {
		row("interface", "%s, %s %s", i.Name, i.As, i.Error)
	}
	for _, name := range sortedKeys(s.Maps) {
		row("map", "%s: %d of %d", name, s.Maps[name].Entries, s.Maps[name].Max)
	}
	for _, name := range sortedKeys(s.Kernel) {
		if s.Kernel[name] > 0 {
			row("kernel", "%s: %d", name, s.Kernel[name])
		}
	}
	for _, name := range sortedKeys(s.Denials) {
		row("denials", "%s: %d", name, s.Denials[name])
	}
	for _, name := range sortedKeys(s.Features) {
		if s.Features[name] != "yes" {
			row("missing", "%s: %s", name, s.Features[name])
		}
	}
}

// presence says how a captured cgroup is there.
func presence(c agent.CaptureStatus, dir string) string {
	switch {
	case c.Cgroups[dir] && c.ByName:
		return ", by its name below " + c.Attached
	case c.Cgroups[dir]:
		return ""
	case c.Held:
		return ", by its name below " + c.Attached + "; not there now"
	}
	return "; not there now"
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func versionCommand(e env) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  egressd version\n  egressd version -o json | jq -r .version",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			if asJSON {
				writeJSON(e.stdout, map[string]string{"version": version, "go": runtime.Version()})
				return nil
			}
			fmt.Fprintf(e.stdout, "egressd %s (%s)\n", version, runtime.Version())
			return nil
		},
	}
	out.register(cmd)
	return cmd
}

// printDenials lists what a command was denied, and what would allow it.
func printDenials(w io.Writer, denials agent.Denials, mode string) {
	if len(denials.List) == 0 && denials.Others == 0 && denials.Lost == 0 {
		return
	}
	what := "denied"
	if mode == "audit" {
		what = "would deny"
	}
	count := "1 destination"
	if n := len(denials.List); n != 1 {
		count = fmt.Sprintf("%d destinations", n)
	}
	fmt.Fprintln(w)
	printLine(w, "egressd %s %s:", what, count)
	for i, d := range denials.List {
		if i == denialsShown {
			times := 0
			for _, d := range denials.List[i:] {
				times += d.Count
			}
			printLine(w, "  and %d destinations that came later, %d times", len(denials.List)-i, times)
			break
		}
		times := "once"
		if d.Count > 1 {
			times = fmt.Sprintf("%d times", d.Count)
		}
		var commands []string
		for _, c := range d.Commands {
			commands = append(commands, quote.Word(c))
		}
		printLine(w, "  %s: %s, %s, by %s", d.Target, d.Reason, times, orDash(strings.Join(commands, ", ")))
		if d.Rule != nil {
			printLine(w, "    nearest rule: %s", d.Rule)
		}
	}
	if denials.Others > 0 {
		printLine(w, "  and %d denials of destinations that were too many to tell apart", denials.Others)
	}
	if denials.Lost > 0 {
		printLine(w, "  %d events were lost, because they came faster than they could be read: numbers are too low, and destinations may be missing", denials.Lost)
	}
	for i, suggestion := range agent.Suggestions(denials.List[:min(denialsShown, len(denials.List))]) {
		if i == 0 {
			fmt.Fprint(w, "\nThis would allow them:\n\n")
		} else {
			fmt.Fprintln(w, "---")
		}
		fmt.Fprint(w, quote.Lines(suggestion))
	}
}

// denialsShown is how many destinations are listed.
const denialsShown = 50
