// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"os"
	"time"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// captured lists the processes of the workload.
func (a *Agent) captured() ([]int, error) { return cgroup.AllProcs(a.opts.Cgroup) }

// liveAddresses lists the addresses that open connections go to, in every
// network namespace that a captured process is in.
func (a *Agent) liveAddresses() (map[netip.Addr]bool, error) {
	pids, err := a.captured()
	if err != nil {
		return nil, err
	}
	return a.datapath.LiveAddresses(pids)
}

// endEarlier deals with the connections that were open before the workload
// was captured: the hooks of connect() never saw them. What others opened to
// the node stays, and so does what the address alone allows; the rest, of
// which no name can be known any more, is ended, and its owner opens it anew
// under the policy. In audit mode it is only said.
//
// After a restart there is nothing to do: the pinned programs saw everything.
func (a *Agent) endEarlier() {
	if a.datapath.Adopted() {
		return
	}
	captured := a.workloads.byCgroup()
	pids, err := a.captured()
	if err != nil {
		a.log.Warn("captured processes could not be listed", "error", err)
	}
	a.cutOthers()
	open, err := loader.OpenSockets(pids)
	if err != nil {
		a.log.Error("connections that were open before could not be checked; they go on until they end", "error", err)
	}
	for _, s := range open {
		w, ok := captured[s.Cgroup]
		if ok && s.Cgroup != a.workloads.own && !s.Inbound && !s.Dst.Addr().IsLoopback() {
			a.judgeEarlier(w, s)
		}
	}
}

// cutOthers silences raw and ping sockets and the like, which are refused at
// birth, when they are older than that.
func (a *Agent) cutOthers() {
	whose := a.workloads.byProcess()
	delete(whose, os.Getpid()) // whose cgroup is its own
	byMode := map[policy.Mode][]int{}
	for pid, w := range whose {
		byMode[w.Mode] = append(byMode[w.Mode], pid)
	}
	for _, mode := range []policy.Mode{policy.Enforce, policy.Audit} {
		found, err := a.datapath.CutOthers(byMode[mode], mode == policy.Audit)
		if err != nil {
			a.log.Error("sockets that are neither TCP nor UDP and older than egressd could not all be silenced", "error", err)
		}
		for _, s := range found {
			a.recorder.Record(flow.Event{
				Time: time.Now(), Kind: flow.Decision, Layer: flow.Kernel,
				Workload: whose[s.PID].name, Process: flow.Process{PID: s.PID},
				Transport: s.Transport(), Proto: s.Transport().String(),
				Allowed: mode == policy.Audit, WouldDeny: mode == policy.Audit, Reason: policy.ReasonSocketType,
				Detail: "it was open before the policy was in force",
			})
		}
	}
}

func (a *Agent) judgeEarlier(w workload, s loader.OpenSocket) {
	p := a.current.Policy(w.Policy)
	if p == nil || w.Mode == policy.Off {
		return
	}
	names := a.names.NamesOf(w.Policy, s.Dst.Addr())
	d := p.Decide(policy.Flow{Transport: s.Transport, Dst: s.Dst, Names: names})
	if d.Verdict == policy.Direct {
		return
	}
	audit := w.Mode != policy.Enforce
	if !audit {
		if err := a.datapath.Destroy(s, 0, a.captured); err != nil {
			a.log.Error("a connection that was open before could not be ended", "error", err)
			return
		}
	}
	if d.Reason == policy.ReasonAllowed {
		d.Reason = policy.ReasonNoName
	}
	a.recorder.Record(flow.Event{
		Time: time.Now(), Kind: flow.Decision, Layer: flow.Kernel,
		Workload: w.name, Process: flow.Process{UID: s.UID},
		Transport: s.Transport, Proto: s.Transport.String(), Dst: s.Dst,
		Allowed: audit, WouldDeny: audit, Reason: d.Reason, Rule: d.Rule,
		Detail: "it was open before the policy was in force",
	})
}
