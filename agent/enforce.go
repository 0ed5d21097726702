// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/policy"
)

// apply brings a changed policy in force, for gateways as well.
func (a *Agent) apply(l Loaded) error {
	if a.current.p.Load().Hash() == l.Snapshot.Hash() {
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
		err = a.enforceChange(old, l.Snapshot)
	} else {
		err = a.enforceChange(nil, l.Snapshot)
	}
	a.inStep = err == nil
	took := time.Since(start)
	a.outgoing.Recheck()
	a.log.Info("policy applied", "hash", l.Snapshot.Hash()[:12],
		"services", l.Services, "virtualServices", l.VirtualServices, "gateways", l.Gateways,
		"read", l.Took.Read, "decode", l.Took.Decode, "compile", l.Took.Compile, "apply", took)
	return err
}

// enforceChange brings everything along; a nil old: from whatever there is.
func (a *Agent) enforceChange(old, next *policy.Snapshot) error {
	c := policy.Diff(old, next)
	if a.probe != nil {
		c.Add(probePolicy, a.probe.openings()...)
	}
	was := a.current.p.Load()
	names := func(phase learned.Phase) error {
		changed := learned.Changed{}
		for _, p := range c.Policies {
			if p.AllHosts {
				return a.names.ReapplyTo(either{next, was}, phase)
			}
			changed[p.ID] = p.Hosts
		}
		return a.names.ReapplyChanged(next, changed, phase)
	}
	if err := a.datapath.Tighten(c); err != nil {
		return err
	}
	if err := names(learned.Tighten); err != nil {
		return err
	}
	a.current.p.Store(next)
	err := errors.Join(
		a.inherit(was, next),
		names(learned.Loosen),
		a.datapath.Loosen(c),
		a.changeOver(next),
		a.datapath.Retire(c),
		a.forget(was, next),
	)
	return errors.Join(err, a.datapath.RaiseEpoch())
}

// changeOver binds the workloads to their policies once they are captured.
func (a *Agent) changeOver(next *policy.Snapshot) error {
	if !a.captures.Load() {
		return nil
	}
	err := a.bind(next)
	if a.opts.Interfaces {
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
