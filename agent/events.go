// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// kernelEvent turns what the kernel tells into an event with what is known
// besides: the names of the address, and the rule that allows or comes nearest.
func (a *Agent) kernelEvent(k loader.Event) flow.Event {
	allowed := k.Reason == policy.ReasonAllowed
	e := flow.Event{
		Time:      k.Time,
		Kind:      flow.Decision,
		Layer:     flow.Kernel,
		Workload:  a.workloadName(k.Workload),
		Process:   flow.Process{PID: k.PID, UID: k.UID, Command: k.Command},
		Transport: k.Transport,
		Proto:     k.Transport.String(),
		Verdict:   k.Verdict,
		Allowed:   allowed || k.Audit,
		WouldDeny: k.Audit,
		Reason:    k.Reason,
		Name:      k.Name,
		Interface: a.interfaceName(k.Interface),
	}
	if k.Peer != k.Dst {
		e.Upstream = k.Peer
	}
	if k.Closed {
		e.Kind, e.Duration = flow.Close, k.Duration
		e.BytesSent, e.BytesReceived = int64(k.Sent), int64(k.Received)
	}
	if !k.Dst.Addr().IsUnspecified() || k.Dst.Port() != 0 {
		e.Dst = k.Dst
	}
	names := a.names.NamesOf(k.Policy, k.Dst.Addr())
	meant := names
	if noted := a.noted(k); len(noted) > 0 {
		meant = noted
	}
	if e.Name == "" && len(meant) > 0 {
		e.Name = meant[0]
		if k.Audit && len(meant) > 1 {
			e.Names = meant
		}
	}
	if !allowed {
		e.Detail = a.lately(k.Policy, k.Dst.Addr())
	}
	p := a.control.Policy(k.Policy)
	if p == nil {
		return e
	}
	f := policy.Flow{Transport: k.Transport, Dst: k.Dst, Names: names}
	if k.Name != "" {
		f.Host, f.HostFrom = k.Name, policy.EvidenceSNI
	}
	switch d := p.Decide(f); {
	case allowed == (d.Verdict != policy.Deny):
		e.Rule, e.Audited, e.DryRun = d.Rule, d.Audited, d.DryRun
		// The kernel only knows that nothing opens the flow; the snapshot
		// knows what comes nearest.
		if k.Reason == policy.ReasonNoRule || k.Reason == policy.ReasonTransport {
			e.Reason = d.Reason
		}
	case !allowed && d.Rule != nil:
		e.Rule = d.Rule // the rule that the first bytes did not fit
	}
	return e
}

// lately says what an address was learned for that is not learned any more; ""
// when it is learned, or never was.
func (a *Agent) lately(id policy.PolicyID, addr netip.Addr) string {
	name, until, ok := a.names.Lately(id, addr)
	if !ok {
		return ""
	}
	return former(name, until)
}

// former is the text of lately.
func former(name string, until time.Time) string {
	return fmt.Sprintf("the address was learned for %s until %s; resolve the name again", name, until.Local().Format(time.TimeOnly))
}

// noted are the names that a flow may be for that would be denied: its process
// asked for one of them.
func (a *Agent) noted(k loader.Event) []string {
	if !k.Audit {
		return nil
	}
	return a.names.Noted(a.workloadName(k.Workload), k.Dst.Addr(), k.PID)
}

// workloadName names a workload of the kernel's tables.
func (a *Agent) workloadName(id uint32) string { return a.workloads.name(id) }

// recordKernelEvent records an event, and ends the socket of a connection that
// the kernel has cut: without that the application would wait for its timeout.
func (a *Agent) recordKernelEvent(k loader.Event) {
	if k.Workload == probeID {
		return // it tells by itself what it sees
	}
	if k.Cut() && k.Interface == 0 {
		if err := a.datapath.Destroy(k.Socket(), k.PID, a.captured); err != nil {
			a.log.Warn("a denied connection could not be reset; it is silent instead", "error", err)
		}
	}
	if k.Closed || k.Reason == policy.ReasonAllowed {
		a.recorder.Record(a.kernelEvent(k))
		return
	}
	// What is known besides is looked up only if it is to be told; but of one
	// address several names may be meant, one after the other.
	name := k.Name
	if name == "" {
		name = strings.Join(a.noted(k), " ")
	}
	a.recorder.denied(flow.Key{
		Workload: a.workloadName(k.Workload), Layer: flow.Kernel, Kind: flow.Decision, Allowed: k.Audit, Reason: k.Reason,
		Transport: k.Transport, Interface: a.interfaceName(k.Interface), Dst: k.Dst, Command: k.Command, Name: name,
	}, func() flow.Event { return a.kernelEvent(k) })
}

// recorder keeps events: what was denied in one table, which the log, the
// flows, the summary of exec and suggestions are read from; and all of them as
// they come, for who follows. Of many denials of a kind it tells the first, and
// how many more there were.
type recorder struct {
	events  *flow.Log
	denials *flow.Denials
	lines   *flow.Lines
	log     *slog.Logger
}

func newRecorder(log *slog.Logger) *recorder {
	return &recorder{events: flow.NewLog(eventsKept), denials: flow.NewDenials(), lines: flow.NewLines(), log: log}
}

// Record implements flow.Sink.
func (r *recorder) Record(e flow.Event) {
	if !e.Denied() {
		r.events.Record(e)
		return
	}
	r.denied(flow.KeyOf(&e), func() flow.Event { return e })
}

func (r *recorder) denied(k flow.Key, full func() flow.Event) {
	if e, now := r.denials.Add(k, time.Now(), full); now {
		r.tell(e)
	}
}

// flush tells what was counted for long enough, or everything.
func (r *recorder) flush(all bool) {
	now := time.Now()
	r.denials.Flush(now, all, r.tell)
	for _, s := range r.lines.Due(now, all) {
		r.log.Info("denials have no line here, to keep the log small; \"egressd flows\" has them", "workload", s.Workload,
			"suppressed", s.Count, "within", s.Within.Round(time.Second))
	}
}

// each calls f for what was denied, each kind once, and for the other events
// that are kept, by time, until f returns false.
func (r *recorder) each(f func(flow.Event) bool) {
	denials := r.denials.List()
	more := true
	until := func(t time.Time) {
		for more && len(denials) > 0 && (t.IsZero() || !denials[0].Time.After(t)) {
			more, denials = f(denials[0]), denials[1:]
		}
	}
	r.events.Each(func(e flow.Event) bool {
		if e.Denied() {
			return more // it is in the table
		}
		if until(e.Time); more {
			more = f(e)
		}
		return more
	})
	until(time.Time{})
}

// tell gives a denial to those who follow, and writes it to the log unless its
// workload has many lines there.
func (r *recorder) tell(e flow.Event) {
	r.events.Record(e)
	if !r.lines.Allow(&e, time.Now()) {
		return
	}
	msg := "denied"
	if e.WouldDeny {
		msg = "would be denied"
	}
	if e.More > 0 {
		msg += " again"
	}
	attrs := []slog.Attr{
		slog.String("layer", string(e.Layer)), slog.String("reason", string(e.Reason)),
		slog.String("workload", e.Workload), slog.Int("pid", e.Process.PID),
		slog.String("command", e.Process.Command), slog.String("proto", e.Proto),
	}
	if e.Interface != "" {
		attrs = append(attrs, slog.String("interface", e.Interface))
	}
	if e.Name != "" {
		attrs = append(attrs, slog.String("name", e.Name))
	}
	if e.Dst.IsValid() {
		attrs = append(attrs, slog.String("dst", e.Dst.String()))
	}
	if e.Rule != nil {
		attrs = append(attrs, slog.String("nearest_rule", e.Rule.String()))
	}
	if e.More > 0 {
		attrs = append(attrs, slog.Int("more", e.More), slog.Duration("within", e.Duration.Round(time.Second)))
	}
	if e.Detail != "" {
		attrs = append(attrs, slog.String("detail", e.Detail))
	}
	r.log.LogAttrs(context.Background(), slog.LevelInfo, msg, attrs...)
}
