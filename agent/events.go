// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/egressd/egressd/agent/workload"
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
		Interface: a.guards.NameOf(k.Interface),
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
	p := a.current.Policy(k.Policy)
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
func (a *Agent) workloadName(id uint32) string { return a.workloads.NameOf(id) }

// recordKernelEvent records an event, and ends the socket of a connection that
// the kernel has cut: without that the application would wait for its timeout.
func (a *Agent) recordKernelEvent(k loader.Event) {
	if k.Workload == workload.Probe {
		return // it tells by itself what it sees
	}
	if k.Cut() && k.Interface == 0 {
		if err := a.datapath.Destroy(k.Socket(), k.PID, a.capture.Processes); err != nil {
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
	a.recorder.Denied(flow.Key{
		Workload: a.workloadName(k.Workload), Layer: flow.Kernel, Kind: flow.Decision, Allowed: k.Audit, Reason: k.Reason,
		Transport: k.Transport, Interface: a.guards.NameOf(k.Interface), Dst: k.Dst, Command: k.Command, Name: name,
	}, func() flow.Event { return a.kernelEvent(k) })
}
