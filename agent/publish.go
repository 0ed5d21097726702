// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source/kubestatus"
)

// publisher tells the people of a cluster what this daemon does. Its methods do
// nothing when it is nil.
type publisher struct{ *kubestatus.Publisher }

// publish makes the publisher and has it told of denials; nil: there is no cluster.
func (a *Agent) publish() (*publisher, error) {
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
	return &publisher{p}, nil
}

// run tells until ctx is done.
func (p *publisher) run(ctx context.Context) {
	if p != nil {
		p.Run(ctx)
	}
}

// report is for the status.
func (p *publisher) report() *kubestatus.Stats {
	if p == nil {
		return nil
	}
	s := p.Stats()
	return &s
}
