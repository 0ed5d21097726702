// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/internal/hold"
	"github.com/egressd/egressd/internal/quote"
)

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func statusCommand(e env) *cobra.Command {
	var out output
	var daemon client
	var readyHere bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show the state of the running daemon",
		Example: "  sudo egressd status\n  sudo egressd status -o json | jq .kernel",
		Args:    usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			body, err := daemon.ask(cmd.Context(), http.MethodGet, admin.PathStatus, nil)
			if err != nil {
				return err
			}
			if asJSON && !readyHere {
				_, err = e.stdout.Write(body)
				return err
			}
			var s agent.Status
			if err := json.Unmarshal(body, &s); err != nil {
				return told(err)
			}
			if readyHere {
				return checkReadyHere(e, s)
			}
			printStatus(e.stdout, s)
			return nil
		},
	}
	out.register(cmd)
	cmd.Flags().BoolVar(&readyHere, "ready-here", false, "print nothing, and exit with 1 unless the daemon is ready and is that of this container: for a container's startup probe, when another daemon serves until this one has taken over")
	daemon.register(cmd)
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
	if pods := s.Capture.UnknownPods; len(pods) > 0 {
		row("UNKNOWN PODS", "%d that no Workload describes, which may reach nothing: %s", len(pods), few(pods))
	}
	containerRow(row, s.Capture.UnknownContainers)
	holdRows(row, s.Holding)
	row("policy", "%.12s, loaded %s: %d services, %d virtual services, %d gateways", s.Policy.Hash,
		s.Policy.Loaded.Local().Format("15:04:05"), s.Policy.Services, s.Policy.VirtualServices, s.Policy.Gateways)
	switch f := s.Policy.Failed; {
	case f != nil && f.InForce:
		row("IN PART", "since %s this step fails: %s: %s; nothing is open that the policy above or the one before does not allow, some of what it allows may be denied, and it is tried again every ten seconds",
			f.Since.Local().Format("15:04:05"), f.Step, f.Error)
	case s.Policy.Error != "":
		row("NOT APPLIED", "%s (the policy above stays in force)", s.Policy.Error)
	}
	kubernetesRows(row, s)
	clusterRows(row, s.Policy.Cluster)
	for _, f := range s.Findings {
		row("finding", "%s", f)
	}
	printProbe(tw, s.Probe)
	workloadRows(row, s.Workloads)
	if s.Unbound != "" {
		row("NOT BOUND", "%s", s.Unbound)
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
	certificateRows(row, s.Certificates)
	row("dns servers", "%s", strings.Join(s.DNSServers, ", "))
	dnsRows(row, s)
	row("learned", "%d names and %d addresses; %d openings and %d server names of at most %d and %d for a policy", s.Learned.Names, s.Learned.Addresses,
		s.Learned.Openings, s.Learned.ServerNames, s.LearnedMax.Openings, s.LearnedMax.ServerNames)
	row("connections", "%d open, %d accepted, %d refused, %d requests",
		s.Connections.Open, s.Connections.Accepted, s.Connections.Refused, s.Connections.Requests)
	row("programs", "%d attached: %s", len(s.Programs), strings.Join(sortedKeys(s.Programs), " "))
	if s.Pins.Lasting {
		row("pins", "%s, which outlives the daemon", s.Pins.Dir)
	} else {
		row("PINS", "all traffic is open when the daemon ends: %s", s.Pins.Error)
	}
	for _, file := range sortedKeys(s.Unsaved) {
		row("NOT SAVED", "%s, for the next start: %s", file, s.Unsaved[file])
	}
	for _, i := range s.Interfaces {
		row("interface", "%s, %s %s", i.Name, i.As, i.Error)
	}
	row("kernel tables", "%s", s.Memory.Text())
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

// clusterRows are about what is inside of the node's cluster.
func clusterRows(row func(k, format string, args ...any), c *control.ClusterStatus) {
	if c == nil {
		return
	}
	text := func(all []netip.Prefix) string {
		var out []string
		for _, p := range all {
			out = append(out, p.String())
		}
		return strings.Join(out, ", ")
	}
	if len(c.Prefixes) > 0 {
		found := "none of them found by auto"
		if len(c.Found) > 0 {
			found = "found by auto: " + text(c.Found)
		}
		row("cluster", "%s are inside of it; %s", text(c.Prefixes), found)
	}
	if c.Problem != "" {
		row("NO CLUSTER", "%s", c.Problem)
	}
}

// kubernetesRows are about the API server.
func kubernetesRows(row func(k, format string, args ...any), s agent.Status) {
	k := s.Kubernetes
	if k == nil {
		return
	}
	objects := 0
	for _, kind := range k.Kinds {
		objects += kind.Objects
	}
	row("kubernetes", "%s, node %s, %d objects, last event %s", k.Server, k.Node, objects, k.LastEvent.Local().Format("15:04:05"))
	if p := s.Published; p != nil {
		writer := "another daemon writes statuses"
		if p.Writer {
			writer = fmt.Sprintf("this daemon writes statuses: %d written, %d failed", p.Statuses.Written, p.Statuses.Failed)
		}
		row("kubernetes", "Events: %d written, %d denials without one of their own, %d failed; %s", p.Events.Written, p.Events.Folded+p.Events.Dropped, p.Events.Failed, writer)
	}
	if !k.Synced {
		row("NOT SYNCED", "the objects of the last good policy are in force; awaited: %s", strings.Join(k.Awaited, ", "))
	}
	for _, name := range sortedKeys(k.Kinds) {
		if text := k.Kinds[name].Error; text != "" {
			row("kubernetes", "%s: what was known stays in force: %s", name, text)
		}
	}
	for _, name := range sortedKeys(k.Problems) {
		row("kubernetes", "%s: %s", name, k.Problems[name])
	}
	for _, r := range s.Policy.Refused {
		row("LEFT OUT", "%s, since %s, %s is in force: %s", r.Object, r.Since.Local().Format("15:04:05"), r.InForce(), r.Message)
	}
}

// holdRows are about what egressd lost in the kernel, and who stands beside it.
func holdRows(row func(k, format string, args ...any), s hold.State) {
	for _, f := range s.Failures {
		row("NOT HELD", "%s: %s (%s)", f.What, f.Traffic, f.Error)
	}
	for _, p := range s.Foreign {
		where := "behind"
		if p.Before {
			where = "before"
		}
		row("foreign", "program %s, id %d, at %s of %s, %s egressd's; to remove it: %s", p.Name, p.ID, p.Hook, p.Cgroup, where, p.Detach())
	}
}

// containerRow tells of containers of which nothing is known, and why of one of them.
func containerRow(row func(string, string, ...any), unknown map[string]string) {
	if len(unknown) == 0 {
		return
	}
	ids := sortedKeys(unknown)
	why := unknown[ids[0]]
	for i, id := range ids {
		ids[i] = fmt.Sprintf("%.12s", id)
	}
	row("UNKNOWN CONTAINERS", "%d of which it is not known what they are, which may reach nothing: %s; %s", len(ids), few(ids), why)
}

// few are the first of a list that may be long.
func few(all []string) string {
	const most = 10
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return strings.Join(all[:most], ", ") + ", ..."
}

// presence says how a captured cgroup is there.
func presence(c workload.CaptureStatus, dir string) string {
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
