// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// captured lists the processes of the workload.
func (a *Agent) captured() ([]int, error) {
	var all []int
	var errs []error
	for _, dir := range a.capture.named {
		pids, err := cgroup.AllProcs(dir)
		all, errs = append(all, pids...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// liveAddresses lists the addresses that open connections go to, in every
// network namespace that a captured process is in.
func (a *Agent) liveAddresses() (map[netip.Addr]bool, error) {
	pids, err := a.captured()
	if err != nil {
		return nil, err
	}
	return a.datapath.LiveAddresses(pids)
}

// endEarlier deals with the connections that were open before the programs were
// attached: the hooks of connect() never saw them. What others opened to
// the node stays, and so does what the address alone allows; the rest, of
// which no name can be known any more, is ended, and its owner opens it anew
// under the policy. In audit mode it is only said.
//
// After a restart there is mostly nothing to do: the pinned programs saw
// everything in the cgroups that they were over. Those that were made or named
// since are others.
func (a *Agent) endEarlier() {
	saw := func([]uint64) bool { return false }
	if !a.attached {
		saw = a.datapath.Earlier().Saw
	}
	a.attached = true
	a.endUnseen(a.unseen(saw), func([]int) map[uint64]bool { return nil })
}

// endUnjudged deals in the same way with what was opened while a program was not at
// its hook. Connections that the programs saw begin stay as they are, and datagrams
// are judged one by one.
func (a *Agent) endUnjudged() {
	a.endUnseen(a.unseen(func([]uint64) bool { return false }), a.datapath.Judged)
}

// endUnseen judges the connections of directories, but those that judged names by
// their cookies.
func (a *Agent) endUnseen(unseen map[string]workload, judged func(pids []int) map[uint64]bool) {
	if len(unseen) == 0 {
		return
	}
	captured := map[uint64]workload{}
	var pids []int
	for dir, w := range unseen {
		id, err := cgroup.ID(dir)
		if err != nil {
			continue // gone meanwhile
		}
		captured[id] = w
	}
	whose := a.workloads.byProcess()
	delete(whose, os.Getpid()) // whose cgroup is its own
	for dir := range unseen {
		inside, err := cgroup.Pids(dir)
		if err != nil {
			continue
		}
		pids = append(pids, inside...)
	}
	a.cutOthers(whose, pids)
	open, err := loader.OpenSockets(pids)
	if err != nil {
		a.log.Error("connections that were open before could not be checked; they go on until they end", "error", err)
	}
	known := judged(pids)
	for _, s := range open {
		if known[s.Cookie] || known != nil && s.Transport == policy.UDP {
			continue
		}
		w, ok := captured[s.Cgroup]
		if ok && s.Cgroup != a.workloads.own && !s.Inbound && !s.Dst.Addr().IsLoopback() {
			a.judgeEarlier(w, s)
		}
	}
}

// unseen are the captured directories whose connections the programs that were at
// work before did not all see.
func (a *Agent) unseen(saw func(ids []uint64) bool) map[string]workload {
	out := map[string]workload{}
	a.workloads.each(func(top string, w workload) {
		above, err := cgroup.IDsUpwards(filepath.Dir(top))
		if err != nil {
			above = nil // what is captured is the root itself
		}
		err = cgroup.Walk(top, above, func(dir string, ids []uint64) {
			delete(out, dir) // of a workload around this one
			if !saw(ids) {
				out[dir] = w
			}
		})
		if err != nil {
			a.log.Warn("captured cgroups could not all be listed", "error", err)
		}
	})
	return out
}

// tellFreed says which cgroups an earlier run had captured and this one has not.
func (a *Agent) tellFreed() {
	for _, id := range a.datapath.Earlier().Captured() {
		if dir := cgroup.PathOf(id); dir != "" && !a.capture.holds(dir) {
			a.log.Warn("a cgroup that egressd had captured before this start is free now, because it is not among those to capture any more", "cgroup", dir)
		}
	}
}

// cutOthers silences raw and ping sockets and the like of some processes, which are
// refused at birth, when they are older than that.
func (a *Agent) cutOthers(whose map[int]workload, pids []int) {
	byMode := map[policy.Mode][]int{}
	for _, pid := range pids {
		if w, ok := whose[pid]; ok {
			byMode[w.Mode] = append(byMode[w.Mode], pid)
		}
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
	p := a.control.Policy(w.Policy)
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
