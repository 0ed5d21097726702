// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/quote"
)

// eventLine is the human form of an event, to be printed by printLine.
func eventLine(e flow.Event) string {
	if e.Kind == flow.Lost {
		return fmt.Sprintf("%s LOST  %d events that came faster than they were read or written", e.Time.Local().Format("15:04:05.000"), e.More)
	}
	var b strings.Builder
	result := "ALLOW"
	switch {
	case e.Kind == flow.Spoken:
		result = "SPOKE"
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
	if e.Socket != "" {
		b.WriteString(" unix:" + quote.Word(e.Socket))
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
	if how := explain.Remedy(&e); how != "" {
		b.WriteString("; allow: " + how)
	}
	return b.String()
}
