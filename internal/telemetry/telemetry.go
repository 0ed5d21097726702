// SPDX-License-Identifier: Apache-2.0

// Package telemetry says what Istio's Telemetry objects want of the access log, the
// metrics and the trace of a flow: which of them are for it, and what they say together
// (istio.io/istio pilot/pkg/model, telemetry.go).
package telemetry

import (
	"slices"
	"sync"

	"github.com/egressd/egressd/internal/expression"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// maxKept bounds the answers that are kept for flows to come.
const maxKept = 4096

// Defaults are what counts where no Telemetry says otherwise.
type Defaults struct {
	// Logs are the providers of the access log that act; none: there is no log.
	Logs []string
}

// Rulebook has all Telemetry objects of a snapshot. It is safe for concurrent use; nil:
// there are none.
type Rulebook struct {
	defaults Defaults
	objects  []*policy.Telemetry
	root     string
	gateway  map[string]string // its labels
	identity func(workload string) (policy.Identity, bool)
	targets  map[target]bool
	programs map[string]*expression.Expression // by text; nil: it has no value

	mu   sync.RWMutex
	kept map[whose]*FlowRules
}

// target is a ServiceEntry that objects name.
type target struct{ namespace, name string }

// whose is all by which rules are found.
type whose struct {
	gateway  bool
	workload string
	to       target
}

// New makes the Rulebook of a snapshot. identity is that of a workload.
func New(s *policy.Snapshot, d Defaults, identity func(string) (policy.Identity, bool)) *Rulebook {
	objects := s.Telemetries()
	if len(objects) == 0 {
		return nil
	}
	b := &Rulebook{
		defaults: d, objects: objects, root: s.RootNamespace(), gateway: s.GatewayLabels(), identity: identity,
		targets: map[target]bool{}, programs: map[string]*expression.Expression{}, kept: map[whose]*FlowRules{},
	}
	for _, o := range objects {
		for _, name := range o.ServiceEntries {
			b.targets[target{o.Ref.Namespace, name}] = true
		}
		for _, l := range o.Logs {
			if l.Filter != "" {
				b.programs[l.Filter], _, _ = expression.Condition(l.Filter) // it was checked
			}
		}
		for _, m := range o.Metrics {
			for _, v := range m.Tags {
				if v != "" {
					b.programs[v], _, _ = expression.Value(v)
				}
			}
		}
	}
	return b
}

// Subject is what rules are found by: who sends, through which part of egressd, and to what;
// nil: that is not known.
type Subject struct {
	Layer    flow.Layer
	Workload string
	To       *policy.Ref
}

// Of is the subject of an observation.
func Of(o *flow.Observation) Subject {
	f := Subject{Layer: o.Layer, Workload: o.Workload}
	switch {
	case o.To != nil:
		f.To = o.To.Rule
	case o.Host != nil:
		f.To = o.Host.Rule
	}
	return f
}

// Rules are those of a flow. They are immutable.
func (b *Rulebook) Rules(f Subject) *FlowRules {
	k := whose{gateway: f.Layer == flow.Ingress, workload: f.Workload}
	if f.To != nil && f.To.Kind == "ServiceEntry" && b.targets[target{f.To.Namespace, f.To.Name}] {
		k.to = target{f.To.Namespace, f.To.Name}
	}
	b.mu.RLock()
	r := b.kept[k]
	b.mu.RUnlock()
	if r != nil {
		return r
	}
	r = b.merge(b.acting(k))
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) >= maxKept {
		clear(b.kept)
	}
	b.kept[k] = r
	return r
}

// acting are the objects that are for a flow, the farthest first: of the mesh, of the
// namespace, of the workload, and of where it goes. The oldest of each has its way.
func (b *Rulebook) acting(k whose) []*policy.Telemetry {
	id := policy.Identity{Namespace: policy.DefaultNamespace}
	if k.gateway {
		id = policy.Identity{Namespace: b.root, Labels: b.gateway}
	} else if known, ok := b.identity(k.workload); ok {
		id = known
	}
	var level [4]*policy.Telemetry
	for _, o := range b.objects {
		at := 0
		switch ns := o.Ref.Namespace; {
		case len(o.ServiceEntries) > 0:
			if ns != k.to.namespace || !slices.Contains(o.ServiceEntries, k.to.name) {
				continue
			}
			at = 3
		case o.Selector != nil:
			if ns != id.Namespace && ns != b.root || !has(id.Labels, o.Selector) {
				continue
			}
			at = 2
		case ns == b.root:
		case ns == id.Namespace:
			at = 1
		default:
			continue
		}
		// What is selected in the namespace itself comes before what the root selects.
		if was := level[at]; was == nil || at == 2 && was.Ref.Namespace != id.Namespace && o.Ref.Namespace == id.Namespace {
			level[at] = o
		}
	}
	return slices.DeleteFunc(level[:], func(o *policy.Telemetry) bool { return o == nil })
}

// has says whether labels have all of a selector.
func has(labels, selector map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
