// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"time"

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
	c.Moves = policy.Moves(was, next)
	if err := a.datapath.Tighten(c); err != nil {
		return err
	}
	if err := a.names.Tighten(c); err != nil {
		return err
	}
	a.current.p.Store(next)
	err := errors.Join(
		a.names.Loosen(c),
		a.datapath.Loosen(c),
		a.changeOver(next),
		a.datapath.Retire(c),
		a.names.Retire(c),
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
