// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"maps"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// control are the options of what brings the policy in force.
func (o Options) control() control.Options {
	return control.Options{
		Config: o.Config, GatewaySelector: o.GatewaySelector, AllowEndpoints: o.AllowEndpoints,
		AllowEmpty: o.AllowEmptyPolicy, LastGood: o.LastGood, Log: o.Log,
	}
}

// targets are all that follows from the policy.
func (a *Agent) targets() control.Targets {
	t := control.Targets{
		Tables: a.datapath, Learned: a.names, Workloads: binding{a},
		Epoch: a.datapath.RaiseEpoch, Recheck: a.outgoing.Recheck,
		Gateway: func(s *policy.Snapshot) error {
			if a.incoming == nil {
				return nil
			}
			return a.incoming.Apply(s)
		},
	}
	if a.probe != nil {
		t.Fixed = map[policy.PolicyID][]policy.Opening{probePolicy: a.probe.openings()}
	}
	return t
}

// letGo says that the state directory is another daemon's.
func (a *Agent) letGo() {
	a.gone.Store(true)
	a.control.Release()
}

// binding binds the workloads to their policies, by their cgroups and by the
// interfaces that they are behind.
type binding struct{ *Agent }

// Tighten lets nobody pass any more where the tables know nothing, unless the
// next policy does as well.
func (b binding) Tighten(c policy.Change) error {
	b.workloads.narrow.Tighten(c)
	if !b.captures.Load() {
		return nil
	}
	shut := func(w loader.Workload) bool { return w.AllowAny && control.Shuts(c, w.Policy) }
	return errors.Join(b.shutUnknown(shut), b.shutInterfaces(shut))
}

// shutUnknown takes what the tables do not know from some workloads.
func (b binding) shutUnknown(shut func(loader.Workload) bool) error {
	w := b.workloads
	w.mu.Lock()
	defer w.mu.Unlock()
	table := maps.Clone(w.cgroups)
	for id, one := range table {
		if shut(one) {
			one.AllowAny = false
			table[id] = one
		}
	}
	if maps.Equal(table, w.cgroups) {
		return nil
	}
	if err := w.short.room(b.datapath.SetWorkloads(table)); err != nil {
		return err
	}
	w.cgroups = table
	return nil
}

// shutInterfaces does the same for those behind interfaces.
func (b binding) shutInterfaces(shut func(loader.Workload) bool) error {
	var errs []error
	for _, i := range b.datapath.Guarded() {
		if i.Kind == loader.WorkloadInterface && shut(i.Workload) {
			i.Workload.AllowAny = false
			errs = append(errs, b.datapath.Guard(i))
		}
	}
	return errors.Join(errs...)
}

// Loosen lets workloads change over once they are captured.
func (b binding) Loosen(c policy.Change) error {
	b.workloads.narrow.Loosen(c)
	if !b.captures.Load() {
		return nil
	}
	err := b.bind(c.Next)
	if b.opts.Interfaces {
		b.regard()
	}
	return err
}
