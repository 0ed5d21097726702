// SPDX-License-Identifier: Apache-2.0

package events

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// Names knows what addresses were learned for.
type Names interface {
	NamesOf(id policy.PolicyID, addr netip.Addr) []string
	// Lately is the name that an address is not learned for any more, and since when.
	Lately(id policy.PolicyID, addr netip.Addr) (name string, until time.Time, ok bool)
	// Noted are the names that a process asked for and would not have been told.
	Noted(workload string, addr netip.Addr, pid int) []string
}

// Kernel records what the kernel tells.
type Kernel struct {
	Recorder *Recorder
	Names    Names
	Policies interface {
		Policy(id policy.PolicyID) *policy.Policy
	}
	// Workload and Interface name those of the kernel's tables.
	Workload  func(id uint32) string
	Interface func(index int) string
	// Pod tells of which pod a cgroup is; nil: nobody knows.
	Pod func(cgroup uint64) string
	// Probe is the workload of which nothing is recorded: it tells by itself what it
	// sees.
	Probe uint32
	// Observer is told of what the kernel let pass, and of the denials that are told;
	// nil: nobody is.
	Observer flow.Observer
	// End ends the socket of a connection that the kernel has cut.
	End func(telemetry.KernelEvent) error
	Log *slog.Logger

	teller flow.Teller
}

// event turns what the kernel tells into an event with what is known
// besides: the names of the address, and the rule that allows or comes nearest.
func (r *Kernel) event(k telemetry.KernelEvent) flow.Event {
	var host *policy.Host
	allowed := k.Reason == policy.ReasonAllowed
	e := flow.Event{
		Time:      k.Time,
		Kind:      flow.Decision,
		Layer:     flow.Kernel,
		Workload:  r.Workload(k.Workload),
		Process:   flow.Process{PID: k.PID, UID: k.UID, Command: k.Command},
		Transport: k.Transport,
		Proto:     k.Transport.String(),
		Verdict:   k.Verdict,
		Allowed:   allowed || k.Audit,
		WouldDeny: k.Audit,
		Reason:    k.Reason,
		Name:      k.Name,
		Interface: r.Interface(k.Interface),
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
	names := r.Names.NamesOf(k.Policy, k.Dst.Addr())
	meant := names
	if noted := r.noted(k); len(noted) > 0 {
		meant = noted
	}
	if e.Name == "" && len(meant) > 0 {
		e.Name = meant[0]
		if (k.Audit || allowed) && len(meant) > 1 {
			e.Names = meant
		}
	}
	if !allowed {
		e.Detail = r.lately(k.Policy, k.Dst.Addr())
	}
	if k.Reason == policy.ReasonUnknownWorkload && r.Pod != nil {
		e.Detail = r.Pod(k.Cgroup)
	}
	defer func() { r.observe(k, e, host) }()
	p := r.Policies.Policy(k.Policy)
	if p == nil {
		return e
	}
	f := policy.Flow{Transport: k.Transport, Dst: k.Dst, Names: names}
	if k.Name != "" {
		f.Host, f.HostFrom = k.Name, policy.EvidenceSNI
	}
	switch d := p.Decide(f); {
	case allowed == (d.Verdict != policy.Deny):
		e.Rule, e.Audited, e.DryRun, host = d.Rule, d.Audited, d.DryRun, d.Host
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

// observe tells the observer of an event.
func (r *Kernel) observe(k telemetry.KernelEvent, e flow.Event, host *policy.Host) {
	if r.Observer != nil {
		e.Flag()
		r.Observer.Observe(&flow.Observation{Event: e, Src: k.Src, SNI: k.Name, Host: host, Begun: !k.Closed && e.Allowed})
	}
}

// lately says what an address was learned for that is not learned any more; ""
// when it is learned, or never was.
func (r *Kernel) lately(id policy.PolicyID, addr netip.Addr) string {
	name, until, ok := r.Names.Lately(id, addr)
	if !ok {
		return ""
	}
	return explain.Former(name, until)
}

// spoken is the event of what a connection began with that audit mode let pass. It has
// the names that its beginning was recorded with, and of several the one that its
// ClientHello says. A hello with another name is as good as none: no rule for these
// names lets it pass.
func (r *Kernel) spoken(k telemetry.KernelEvent) flow.Event {
	names := r.noted(k)
	if len(names) == 0 {
		names = r.Names.NamesOf(k.Policy, k.Dst.Addr())
	}
	e := flow.Event{
		Time:      k.Time,
		Kind:      flow.Spoken,
		Layer:     flow.Kernel,
		Workload:  r.Workload(k.Workload),
		Process:   flow.Process{PID: k.PID, UID: k.UID, Command: k.Command},
		Transport: k.Transport,
		Proto:     string(k.First),
		Dst:       k.Dst,
		Allowed:   true,
		WouldDeny: true,
		Reason:    k.Reason,
	}
	switch {
	case k.Name != "" && slices.Contains(names, k.Name):
		names = []string{k.Name}
	case k.Name != "":
		e.Proto = string(telemetry.SpokenOther)
		e.Detail = "its ClientHello has the name " + k.Name + ", for which it did not ask"
	}
	if len(names) > 0 {
		e.Name = names[0]
	}
	if len(names) > 1 {
		e.Names = names
	}
	return e
}

// noted are the names that a flow may be for that would be denied: its process
// asked for one of them.
func (r *Kernel) noted(k telemetry.KernelEvent) []string {
	if !k.Audit {
		return nil
	}
	return r.Names.Noted(r.Workload(k.Workload), k.Dst.Addr(), k.PID)
}

// Record records an event, and ends the socket of a connection that
// the kernel has cut: without that the application would wait for its timeout.
func (r *Kernel) Record(k telemetry.KernelEvent) {
	switch {
	case k.Workload == r.Probe:
		return
	case k.First != "":
		r.teller.Tell(r.Recorder, r.spoken(k))
		return
	}
	if k.Policy == policy.UnknownWorkload && (k.Reason == policy.ReasonNoRule || k.Reason == policy.ReasonTransport) {
		k.Reason = policy.ReasonUnknownWorkload
	}
	if k.Cut() && k.Interface == 0 {
		if err := r.End(k); err != nil {
			r.Log.Warn("a denied connection could not be reset (SOCK_DESTROY); its packets are dropped, and the client will time out", "error", err)
		}
	}
	if k.Closed || k.Reason == policy.ReasonAllowed {
		r.teller.Tell(r.Recorder, r.event(k))
		return
	}
	// What is known besides is looked up only if it is to be told; but of one
	// address several names may be meant, one after the other.
	name := k.Name
	if name == "" {
		name = strings.Join(r.noted(k), " ")
	}
	r.Recorder.Denied(flow.Key{
		Workload: r.Workload(k.Workload), Layer: flow.Kernel, Kind: flow.Decision, Allowed: k.Audit, Reason: k.Reason,
		Transport: k.Transport, Interface: r.Interface(k.Interface), Dst: k.Dst, Command: k.Command, Name: name,
	}, func() flow.Event { return r.event(k) })
}
