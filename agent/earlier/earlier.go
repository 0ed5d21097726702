// SPDX-License-Identifier: Apache-2.0

// Package earlier deals with what was open before the programs saw it.
package earlier

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/sockdiag"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/predecessor"
	"github.com/egressd/egressd/policy"
)

// Datapath is what is needed of the kernel's side.
type Datapath interface {
	// LiveAddresses lists the addresses that processes have connections to.
	LiveAddresses(pids []int) (map[netip.Addr]bool, error)
	// Earlier is what the programs of an earlier run were over.
	Earlier() predecessor.EarlierPrograms
	// Judged lists sockets, by their cookies, that the programs saw begin.
	Judged(pids []int) map[uint64]bool
	// CutOthers silences sockets that are neither TCP nor UDP, or, with only, finds
	// them.
	CutOthers(pids []int, only bool) ([]loader.OtherSocket, error)
	// Destroy ends a connection.
	Destroy(s sockdiag.Socket, pid int, rest func() ([]int, error)) error
}

// Names knows what addresses were learned for.
type Names interface {
	NamesOf(id policy.PolicyID, addr netip.Addr) []string
}

// Policies has the policies in force.
type Policies interface {
	Policy(id policy.PolicyID) *policy.Policy
}

// Earlier judges what was open before the programs were where they are.
type Earlier struct {
	log       *slog.Logger
	capture   *workload.Capture
	workloads *workload.Binding
	datapath  Datapath
	policies  Policies
	names     Names
	sink      flow.Sink
	// attached says that this run attached the programs once.
	attached bool
}

// Options of an Earlier.
type Options struct {
	Capture   *workload.Capture
	Workloads *workload.Binding
	Datapath  Datapath
	Policies  Policies
	Names     Names
	Sink      flow.Sink
	Log       *slog.Logger
}

// New makes one.
func New(o Options) *Earlier {
	return &Earlier{log: o.Log, capture: o.Capture, workloads: o.Workloads, datapath: o.Datapath, policies: o.Policies, names: o.Names, sink: o.Sink}
}

// LiveAddresses lists the addresses that open connections go to, in every
// network namespace that a captured process is in.
func (e *Earlier) LiveAddresses() (map[netip.Addr]bool, error) {
	pids, err := e.capture.Processes()
	if err != nil {
		return nil, err
	}
	return e.datapath.LiveAddresses(pids)
}

// End deals with the connections that were open before the programs were
// attached: the hooks of connect() never saw them. What others opened to
// the node stays, and so does what the address alone allows; the rest, of
// which no name can be known any more, is ended, and its owner opens it anew
// under the policy. In audit mode it is only said.
//
// After a restart there is mostly nothing to do: the pinned programs saw
// everything in the cgroups that they were over. Those that were made or named
// since are others.
func (e *Earlier) End() {
	saw := func([]uint64) bool { return false }
	if !e.attached {
		saw = e.datapath.Earlier().Saw
	}
	e.attached = true
	e.endUnseen(e.unseen(saw), func([]int) map[uint64]bool { return nil })
}

// EndUnjudged deals in the same way with what was opened while a program was not at
// its hook. Connections that the programs saw begin stay as they are, and datagrams
// are judged one by one.
func (e *Earlier) EndUnjudged() {
	e.endUnseen(e.unseen(func([]uint64) bool { return false }), e.datapath.Judged)
}

// endUnseen judges the connections of directories, but those that judged names by
// their cookies.
func (e *Earlier) endUnseen(unseen map[string]workload.Bound, judged func(pids []int) map[uint64]bool) {
	if len(unseen) == 0 {
		return
	}
	captured := map[uint64]workload.Bound{}
	var pids []int
	for dir, w := range unseen {
		id, err := cgroup.ID(dir)
		if err != nil {
			continue // gone meanwhile
		}
		captured[id] = w
	}
	whose := e.workloads.ByProcess()
	delete(whose, os.Getpid()) // whose cgroup is its own
	for dir := range unseen {
		inside, err := cgroup.Pids(dir)
		if err != nil {
			continue
		}
		pids = append(pids, inside...)
	}
	e.blockOthers(whose, pids)
	open, err := sockdiag.List(pids)
	if err != nil {
		e.log.Error("connections that were open before egressd could not be listed or checked; they continue whatever the policy says, until they end; restart the captured processes to end them", "error", err)
	}
	known := judged(pids)
	for _, s := range open {
		if known[s.Cookie] || known != nil && s.Transport == policy.UDP {
			continue
		}
		w, ok := captured[s.Cgroup]
		if ok && s.Cgroup != e.workloads.Own() && !s.Inbound && !s.Dst.Addr().IsLoopback() {
			e.recheck(w, s)
		}
	}
}

// unseen are the captured directories whose connections the programs that were at
// work before did not all see.
func (e *Earlier) unseen(saw func(ids []uint64) bool) map[string]workload.Bound {
	out := map[string]workload.Bound{}
	e.workloads.Each(func(top string, w workload.Bound) {
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
			e.log.Warn("some captured cgroups could not be listed; connections that their processes opened before egressd continue until they end", "error", err)
		}
	})
	return out
}

// TellFreed says which cgroups an earlier run had captured and this one has not.
func (e *Earlier) TellFreed() {
	for _, id := range e.datapath.Earlier().Captured() {
		if dir := cgroup.PathOf(id); dir != "" && !e.capture.Holds(dir) {
			e.log.Warn("a cgroup that an earlier egressd captured is not among those to capture any more; its traffic is NOT filtered", "cgroup", dir)
		}
	}
}

// blockOthers silences raw and ping sockets and the like of some processes, which are
// refused at birth, when they are older than that.
func (e *Earlier) blockOthers(whose map[int]workload.Bound, pids []int) {
	byMode := map[policy.Mode][]int{}
	for _, pid := range pids {
		if w, ok := whose[pid]; ok {
			byMode[w.Mode] = append(byMode[w.Mode], pid)
		}
	}
	for _, mode := range []policy.Mode{policy.Enforce, policy.Audit} {
		found, err := e.datapath.CutOthers(byMode[mode], mode == policy.Audit)
		if err != nil {
			e.log.Error("some raw, ping or similar sockets that are older than egressd could not be blocked; they may still send; restart their processes", "error", err)
		}
		for _, s := range found {
			e.sink.Record(&flow.Event{
				Time: time.Now(), Kind: flow.Decision, Layer: flow.Kernel,
				Workload: whose[s.PID].Name, Process: flow.Process{PID: s.PID},
				Transport: s.Transport(), Proto: s.Transport().String(),
				Allowed: mode == policy.Audit, WouldDeny: mode == policy.Audit, Reason: policy.ReasonSocketType,
				Detail: "it was open before the policy was in force",
			})
		}
	}
}

func (e *Earlier) recheck(w workload.Bound, s sockdiag.Socket) {
	p := e.policies.Policy(w.Policy)
	if p == nil || w.Mode == policy.Off {
		return
	}
	names := e.names.NamesOf(w.Policy, s.Dst.Addr())
	d := p.Decide(policy.Flow{Transport: s.Transport, Dst: s.Dst, Names: names})
	if d.Verdict == policy.Direct {
		return
	}
	audit := w.Mode != policy.Enforce
	if !audit {
		if err := e.datapath.Destroy(s, 0, e.capture.Processes); err != nil {
			e.log.Error("a connection that was open before egressd is denied by the policy, but could not be reset; it continues until it ends; restart its process", "error", err)
			return
		}
	}
	if d.Reason == policy.ReasonAllowed {
		d.Reason = policy.ReasonNoName
	}
	e.sink.Record(&flow.Event{
		Time: time.Now(), Kind: flow.Decision, Layer: flow.Kernel,
		Workload: w.Name, Process: flow.Process{UID: s.UID},
		Transport: s.Transport, Proto: s.Transport.String(), Dst: s.Dst,
		Allowed: audit, WouldDeny: audit, Reason: d.Reason, Rule: d.Rule,
		Detail: "it was open before the policy was in force",
	})
}
