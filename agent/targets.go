// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// control are the options of what brings the policy in force.
func (o Options) control(objects control.Objects) control.Options {
	if len(o.Config) == 0 && objects == nil {
		o.LastGood = "" // nothing is read that could be bad, and the file may be another daemon's
	}
	return control.Options{
		Config: o.Config, GatewaySelector: o.GatewaySelector, AllowEndpoints: o.AllowEndpoints,
		Cluster: o.Cluster, FindCluster: o.FindCluster,
		AllowEmpty: o.AllowEmptyPolicy, LastGood: o.LastGood, Objects: objects, Log: o.Log,
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
		t.Fixed = map[policy.PolicyID][]policy.Opening{selfprobe.Policy: a.probe.Openings()}
	}
	return t
}

// letGo says that the state directory is another daemon's.
func (a *Agent) letGo() {
	a.gone.Store(true)
	a.control.Release()
	a.remembered.Release()
}

// binding binds the workloads to their policies, by their cgroups and by the
// interfaces that they are behind.
type binding struct{ *Agent }

// Tighten lets nobody pass any more where the tables know nothing, unless the
// next policy does as well.
func (b binding) Tighten(c policy.Change) error {
	b.narrow.Tighten(c)
	if !b.captures.Load() {
		return nil
	}
	shut := func(w loader.WorkloadState) bool { return w.AllowAny && control.Shuts(c, w.Policy) }
	return errors.Join(b.workloads.Shut(shut), b.guards.Shut(shut))
}

// Loosen lets workloads change over once they are captured.
func (b binding) Loosen(c policy.Change) error {
	b.narrow.Loosen(c)
	if !b.captures.Load() {
		return nil
	}
	err := b.bind(c.Next)
	if b.opts.Daemon {
		b.updatePolicy()
	}
	return err
}
