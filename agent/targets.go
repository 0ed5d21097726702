// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/internal/loglevel"
	"github.com/egressd/egressd/policy"
)

// control are the options of what brings the policy in force.
func (o Options) control(objects control.Objects, secrets func(map[string]map[string][]byte)) control.Options {
	if len(o.Config) == 0 && o.Allow.Empty() && objects == nil {
		o.LastGood = "" // nothing is read that could be bad, and the file may be another daemon's
	}
	return control.Options{
		Config: o.Config, Allow: o.Allow, GatewaySelector: o.GatewaySelector, AllowEndpoints: o.AllowEndpoints,
		Cluster: o.Cluster, FindCluster: o.FindCluster,
		AllowEmpty: o.AllowEmptyPolicy, LastGood: o.LastGood, Objects: objects, Secrets: secrets, Log: loglevel.Scope(o.Log, scopePolicy),
	}
}

// targets are all that follows from the policy.
func (a *Agent) targets() control.Targets {
	t := control.Targets{
		Tables: a.datapath, Learned: a.names, Workloads: a.governor,
		Epoch: a.datapath.RaiseEpoch, Recheck: a.outgoing.Recheck,
		Gateway: func(s *policy.Snapshot) error {
			a.observers.Follow(s)
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
