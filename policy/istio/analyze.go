// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// analyze warns about objects that are right by themselves and wrong
// together. It runs only on configuration without errors: otherwise an object
// that could not be read would be missed everywhere else. Its cost is linear
// in the number of objects, whatever they are.
func (l *loader) analyze(cfg *policy.Config) {
	a := &analysis{
		loader: l, cfg: cfg, hosts: newHostSet(cfg.Services),
		gateways: map[string]*policy.Gateway{}, rules: map[*object]map[[2]int]*node{},
	}
	for _, g := range cfg.Gateways {
		a.gateways[g.Ref.Namespace+"/"+g.Ref.Name] = g
	}
	a.sharedHosts()
	a.foreignNames()
	a.virtualServices()
	a.destinationRules()
	a.sidecars()
	a.authorizations()
	a.workloads()
	a.exports()
	a.conflicts()
	a.consents()
	a.mistakes()
	for _, b := range a.restored {
		b.letGo()
	}
}

// analysis looks at a whole Config.
type analysis struct {
	*loader
	cfg      *policy.Config
	hosts    *hostSet
	gateways map[string]*policy.Gateway // by namespace/name
	subsets  *subsets
	// named are the Kubernetes Services by their names, once somebody has asked.
	named map[hostname.Pattern]*policy.Service
	// routed are the hosts that routes lead to.
	routed map[string]bool
	// rules are the nodes of an object's rules by line and column.
	rules map[*object]map[[2]int]*node
	// originating are the hosts to which DestinationRules make TLS, labelled
	// the workloads by their labels; both once somebody has asked.
	originating *hostSet
	labelled    map[[2]string][]*policy.Workload
	// restored are the batches whose trees were read again.
	restored []*batch
}

// part is a part of the Config, and where it is written.
type part struct {
	place
	o *object // nil: only the place of the part itself is known
	n *node
}

func (a *analysis) part(ref policy.Ref) part {
	n := &node{line: ref.Line, col: ref.Column}
	if o := a.objectOf(ref); o != nil {
		if o.root == nil {
			o.batch.restore(a.loader)
			a.restored = append(a.restored, o.batch)
		}
		return part{o.place, o, n}
	}
	return part{place{r: a.r, file: ref.File, object: ref.Kind + " " + ref.Namespace + "/" + ref.Name}, nil, n}
}

// spec is the node at path in the object's spec.
func (s part) spec(path ...any) *node {
	if s.o == nil {
		return s.n
	}
	return s.o.spec(path...)
}

// rule finds the rule that ref stands for, in the object that it is written in.
func (a *analysis) rule(ref policy.Ref) (part, *node) {
	s := a.part(ref)
	if s.o == nil {
		return s, s.n
	}
	known := a.rules[s.o]
	if known == nil {
		known = map[[2]int]*node{}
		for _, list := range [...]string{"http", "tls", "tcp", "rules"} {
			for _, n := range s.o.spec().get(list).list() {
				known[[2]int{n.line, n.col}] = n
			}
		}
		a.rules[s.o] = known
	}
	if n := known[[2]int{ref.Line, ref.Column}]; n != nil {
		return s, n
	}
	return s, s.n
}

// overlap says whether some namespace sees both.
func overlap(a, b policy.Visibility) bool {
	switch {
	case !a.Limited:
		return !b.Limited || len(b.Namespaces) > 0
	case !b.Limited:
		return len(a.Namespaces) > 0
	}
	seen := map[string]bool{}
	for _, ns := range a.Namespaces {
		seen[ns] = true
	}
	for _, ns := range b.Namespaces {
		if seen[ns] {
			return true
		}
	}
	return false
}

// nameOf is how findings call an object.
func nameOf(r policy.Ref) string { return r.Kind + " " + r.Namespace + "/" + r.Name }

// isKubernetes says whether a host is the name of a Kubernetes Service.
func isKubernetes(h hostname.Pattern) bool {
	const domain = ".svc.cluster.local"
	return len(h) > len(domain) && h[len(h)-len(domain):] == domain
}
