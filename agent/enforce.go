// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// apply brings a changed policy in force, for gateways as well.
func (a *Agent) apply(l Loaded) error {
	if a.current.p.Load().Same(l.Snapshot) {
		return nil
	}
	err := a.enforce(l)
	if a.incoming != nil {
		err = errors.Join(err, a.incoming.Apply(a.current.p.Load()))
	}
	return err
}

// enforce brings kernel and user space to a snapshot: close what is newly
// denied, swap, open what is newly allowed, let workloads change over to
// their new policies, raise the epoch, and end the connections that are
// denied now. It costs what has changed, unless it failed the time before.
func (a *Agent) enforce(l Loaded) error {
	start := time.Now()
	old := a.current.p.Load()
	var err error
	if a.inStep {
		a.inStep = false
		err = a.enforceChanges(old, l.Snapshot)
	} else {
		err = a.enforceAll(old, l.Snapshot)
	}
	a.inStep = err == nil
	took := time.Since(start)
	a.outgoing.Recheck()
	a.log.Info("policy applied", "hash", l.Snapshot.Hash()[:12],
		"services", l.Services, "virtual_services", l.VirtualServices, "gateways", l.Gateways,
		"read", l.Took.Read, "decode", l.Took.Decode, "compile", l.Took.Compile, "apply", took)
	return err
}

// enforceAll compares everything that should be with everything that is.
func (a *Agent) enforceAll(old, next *policy.Snapshot) error {
	static := map[policy.PolicyID][]policy.Opening{}
	for _, id := range next.Policies() {
		static[id] = next.Policy(id).Static()
	}
	a.probe.Allow(static)
	leaving := map[policy.PolicyID][]policy.Opening{}
	for _, id := range gone(old, next) {
		leaving[id] = old.Policy(id).Static()
	}
	both := maps.Clone(static)
	maps.Copy(both, leaving)
	if err := a.datapath.Apply(both, loader.Tighten); err != nil {
		return err
	}
	if err := a.names.ReapplyTo(either{next, old}, learned.Tighten); err != nil {
		return err
	}
	a.current.p.Store(next)
	err := errors.Join(
		a.inherit(old, next),
		a.names.ReapplyTo(either{next, old}, learned.Loosen),
		a.datapath.Apply(both, loader.Loosen),
		a.changeOver(next),
	)
	if len(leaving) > 0 {
		err = errors.Join(err, a.datapath.Apply(static, loader.Tighten), a.datapath.Apply(static, loader.Loosen), a.forget(old, next))
	}
	return errors.Join(err, a.datapath.RaiseEpoch())
}

// enforceChanges does what enforceAll does for what two snapshots differ in.
func (a *Agent) enforceChanges(old, next *policy.Snapshot) error {
	static, hosts := map[policy.PolicyID][]policy.StaticChange{}, learned.Changed{}
	for _, id := range next.Policies() {
		was, is := old.Policy(id), next.Policy(id)
		if was == is {
			continue
		}
		if was != nil && was.AllowsUnknown() != is.AllowsUnknown() {
			return a.enforceAll(old, next)
		}
		static[id], hosts[id] = is.StaticChanges(was), is.ChangedHosts(was)
	}
	if err := a.datapath.Update(static, loader.Tighten); err != nil {
		return err
	}
	if err := a.names.ReapplyChanged(next, hosts, learned.Tighten); err != nil {
		return err
	}
	a.current.p.Store(next)
	err := errors.Join(
		a.inherit(old, next),
		a.names.ReapplyChanged(next, hosts, learned.Loosen),
		a.datapath.Update(static, loader.Loosen),
		a.changeOver(next),
	)
	if leaving := gone(old, next); len(leaving) > 0 {
		closed := map[policy.PolicyID][]policy.StaticChange{}
		for _, id := range leaving {
			closed[id] = policy.Closed(old.Policy(id))
		}
		err = errors.Join(err, a.datapath.Update(closed, loader.Tighten), a.datapath.Update(closed, loader.Loosen), a.forget(old, next))
	}
	return errors.Join(err, a.datapath.RaiseEpoch())
}

// changeOver binds the workloads to their policies once they are captured.
func (a *Agent) changeOver(next *policy.Snapshot) error {
	if !a.captures.Load() {
		return nil
	}
	err := a.bind(next)
	if a.opts.Daemon {
		a.regard()
	}
	return err
}

// inherit gives policies that are new what was learned under those that their
// workloads had.
func (a *Agent) inherit(old, next *policy.Snapshot) error {
	if old == nil {
		return nil
	}
	had := map[string]policy.PolicyID{}
	for _, w := range old.Workloads() {
		had[w.Key()] = w.Policy
	}
	type move struct{ to, from policy.PolicyID }
	done := map[move]bool{}
	var errs []error
	for _, w := range next.Workloads() {
		from, ok := had[w.Key()]
		if m := (move{w.Policy, from}); ok && w.Policy != from && !done[m] {
			done[m] = true
			errs = append(errs, a.names.Inherit(w.Policy, from))
		}
	}
	return errors.Join(errs...)
}

// forget drops what was learned for policies that are no more.
func (a *Agent) forget(old, next *policy.Snapshot) error {
	var errs []error
	for _, id := range gone(old, next) {
		errs = append(errs, a.names.Forget(id))
	}
	return errors.Join(errs...)
}

// gone lists the policies of old that next has not.
func gone(old, next *policy.Snapshot) []policy.PolicyID {
	if old == nil {
		return nil
	}
	return slices.DeleteFunc(old.Policies(), func(id policy.PolicyID) bool { return next.Policy(id) != nil })
}

// either has the policies of next, and those that only old has.
type either struct{ next, old *policy.Snapshot }

// Policy implements learned.Policies.
func (u either) Policy(id policy.PolicyID) *policy.Policy {
	if p := u.next.Policy(id); p != nil || u.old == nil {
		return p
	}
	return u.old.Policy(id)
}
