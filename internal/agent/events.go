// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// kernelEvent turns a denial of the kernel into an event that names what is
// known about it: the names of the address, and the rule that comes nearest.
func (a *Agent) kernelEvent(k loader.Event) flow.Event {
	e := flow.Event{
		Time:      k.Time,
		Kind:      flow.Decision,
		Layer:     flow.Kernel,
		Workload:  a.workloadName(k.Workload),
		Process:   flow.Process{PID: k.PID, UID: k.UID, Command: k.Command},
		Transport: k.Transport,
		Proto:     k.Transport.String(),
		Verdict:   policy.Deny,
		Allowed:   k.Audit,
		WouldDeny: k.Audit,
		Reason:    k.Reason,
	}
	if !k.Dst.Addr().IsUnspecified() || k.Dst.Port() != 0 {
		e.Dst = k.Dst
	}
	names := a.names.NamesOf(k.Policy, k.Dst.Addr())
	if len(names) > 0 {
		e.Name = names[0]
	}
	// The kernel only knows that nothing opens the flow; the snapshot knows
	// what comes nearest.
	p := a.current.Policy(k.Policy)
	if p == nil || (k.Reason != policy.ReasonNoRule && k.Reason != policy.ReasonTransport) {
		return e
	}
	d := p.Decide(policy.Flow{Transport: k.Transport, Dst: k.Dst, Names: names})
	if d.Verdict == policy.Deny {
		e.Reason, e.Rule = d.Reason, d.Rule
	}
	return e
}

// workloadName names a workload of the kernel's tables.
func (a *Agent) workloadName(id uint32) string {
	if id == workloadID {
		return a.opts.Workload
	}
	return ""
}

func (a *Agent) recordKernelEvent(k loader.Event) { a.sink.Record(a.kernelEvent(k)) }

// recorder keeps events and writes denials to the log of the daemon.
type recorder struct {
	events *flow.Log
	log    *slog.Logger
}

// Record implements flow.Sink.
func (r recorder) Record(e flow.Event) {
	r.events.Record(e)
	if e.Allowed && !e.WouldDeny {
		return
	}
	msg := "denied"
	if e.WouldDeny {
		msg = "would be denied"
	}
	attrs := []slog.Attr{
		slog.String("layer", string(e.Layer)), slog.String("reason", string(e.Reason)),
		slog.String("workload", e.Workload), slog.Int("pid", e.Process.PID),
		slog.String("command", e.Process.Command), slog.String("proto", e.Proto),
	}
	if e.Name != "" {
		attrs = append(attrs, slog.String("name", e.Name))
	}
	if e.Dst.IsValid() {
		attrs = append(attrs, slog.String("dst", e.Dst.String()))
	}
	if e.Rule != nil {
		attrs = append(attrs, slog.String("nearestRule", e.Rule.String()))
	}
	r.log.LogAttrs(context.Background(), slog.LevelInfo, msg, attrs...)
}
