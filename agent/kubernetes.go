// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/egressd/egressd/agent/kubernetes"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source/kubestatus"
)

// follow begins to follow the API server; nil: the options name none.
func (a *Agent) follow() (*kubernetes.APIServer, error) {
	if a.opts.Kubernetes == nil {
		return nil, nil
	}
	of := *a.opts.Kubernetes
	of.Log, of.GatewaySelector, of.FindCluster = a.log, a.opts.GatewaySelector, a.opts.FindCluster
	return kubernetes.Follow(of, func() { a.life.ObjectsChanged() })
}

// publish makes who tells the people of a cluster what this daemon does, and has it
// told of denials; nil: there is no cluster.
func (a *Agent) publish() (*kubestatus.Publisher, error) {
	if a.kubernetes == nil {
		return nil, nil
	}
	p, err := kubestatus.New(kubestatus.Options{
		Config: a.opts.Kubernetes.Config, Node: a.opts.Kubernetes.Node, Namespace: a.opts.KubernetesNamespace, Log: a.log,
		Lookups: kubestatus.Lookups{Pods: a.kubernetes, Findings: func() []istio.Finding { _, f := a.control.Report(); return f }},
	})
	if err != nil {
		return nil, err
	}
	a.recorder.Tell(p)
	return p, nil
}

// usualGarbage is how much garbage may come to what lives, in per cent.
func (a *Agent) usualGarbage() int {
	if a.kubernetes != nil {
		return kubernetes.GCPercent
	}
	return 100 // Go's
}
