// SPDX-License-Identifier: Apache-2.0

// Package analyze warns about objects that are right by themselves and wrong
// together: what a Config cannot do, or does otherwise than its author is
// likely to think.
package analyze

import (
	"slices"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// Config looks at a whole Config. It is for configuration without errors:
// otherwise an object that could not be read would be missed everywhere else.
// Its cost is linear in the number of objects, whatever they are.
func Config(cfg *policy.Config, from Files) {
	a := &analysis{
		Files: from, cfg: cfg, hosts: newHostSet(cfg.Services),
		gateways: map[string]*policy.Gateway{}, rules: map[*strictyaml.Node]map[[2]int]*strictyaml.Node{},
	}
	for _, g := range cfg.Gateways {
		a.gateways[g.Key()] = g
	}
	for _, one := range analyzers {
		one.run(a)
	}
}

// Analyzer looks at what objects of some kinds mean together.
type Analyzer struct {
	Name string
	// Kinds are those whose objects the findings are about.
	Kinds []string
	// Codes are those of the findings.
	Codes []string
	run   func(*analysis)
}

// analyzers are all of them, in the order in which they look. Another one is a
// row here, and a file.
var analyzers = []Analyzer{
	{"shared hosts", []string{"ServiceEntry", "Service"}, []string{"EGD1101", "EGD1102", "EGD1103"}, (*analysis).sharedHosts},
	{"names of Services", []string{"ServiceEntry"}, []string{"EGD1105"}, (*analysis).foreignNames},
	{"routes", []string{"VirtualService", "HTTPRoute"}, []string{"EGD12", "EGD13", "EGD1401", "EGD1402", "EGD1403", "EGD15", "EGD16", "EGD21", "EGD22"}, (*analysis).virtualServices},
	{"credentials", []string{"VirtualService"}, []string{"EGD1404", "EGD1405"}, (*analysis).credentials},
	{"destination rules", []string{"DestinationRule"}, []string{"EGD17"}, (*analysis).destinationRules},
	{"sidecars", []string{"Sidecar", "Workload"}, []string{"EGD1801", "EGD1802", "EGD1803", "EGD1804", "EGD1805"}, (*analysis).sidecars},
	{"authorization", []string{"AuthorizationPolicy"}, []string{"EGD1806", "EGD1807", "EGD1808", "EGD1809", "EGD181"}, (*analysis).authorizations},
	{"cgroups", []string{"Workload"}, []string{"EGD23"}, (*analysis).workloads},
	{"exports", []string{"ServiceEntry", "Service", "VirtualService", "DestinationRule"}, []string{"EGD1104"}, (*analysis).exports},
	{"conflicts", []string{"ServiceEntry"}, []string{"EGD0201"}, (*analysis).conflicts},
	{"consent", []string{"ServiceEntry", "Service"}, []string{"EGD19"}, (*analysis).consents},
	{"mistakes", []string{"ServiceEntry"}, []string{"EGD20"}, (*analysis).mistakes},
}

// Analyzers are all that look at a Config.
func Analyzers() []Analyzer { return slices.Clone(analyzers) }

// Files is what a Config was read from.
type Files struct {
	// Report is where the findings go.
	Report *strictyaml.Report
	// Object finds the object that a part of the Config came from: who speaks
	// of it, and its spec; nil where the object is not known.
	Object func(policy.Ref) (strictyaml.Reporter, *strictyaml.Node)
	// Written is where the destinations of routes are written. Those that it
	// does not have are looked for at their rules.
	Written map[*policy.WeightedDestination]strictyaml.Passage
	// Namespaces are those that have an object.
	Namespaces map[string]bool
}

// analysis looks at a whole Config.
type analysis struct {
	Files
	cfg      *policy.Config
	hosts    *hostSet
	gateways map[string]*policy.Gateway // by namespace/name
	subsets  *subsets
	// named are the Kubernetes Services by their names, once somebody has asked.
	named map[hostname.Pattern]*policy.Service
	// routed are the hosts that routes lead to.
	routed map[string]bool
	// rules are the nodes of the rules of an object, which is known by its
	// spec, by line and column.
	rules map[*strictyaml.Node]map[[2]int]*strictyaml.Node
	// originating are the hosts to which DestinationRules make TLS, labelled
	// the workloads by their labels; both once somebody has asked.
	originating *hostSet
	labelled    map[[2]string][]*policy.Workload
}

// part is a part of the Config, and where it is written.
type part struct {
	strictyaml.Reporter
	object *strictyaml.Node // its spec; nil: only the place of the part itself is known
	n      *strictyaml.Node
}

func (w Files) part(ref policy.Ref) part {
	n := &strictyaml.Node{Line: ref.Line, Col: ref.Column}
	if r, spec := w.Object(ref); spec != nil {
		return part{r, spec, n}
	}
	return part{strictyaml.Reporter{Report: w.Report, File: ref.File, Object: ref.Kind + " " + ref.Namespace + "/" + ref.Name}, nil, n}
}

// spec is the node at path in the object's spec.
func (s part) spec(path ...any) *strictyaml.Node {
	if s.object == nil {
		return s.n
	}
	return s.object.At(path...)
}

// rule finds the rule that ref stands for, in the object that it is written in.
func (a *analysis) rule(ref policy.Ref) (part, *strictyaml.Node) {
	s := a.part(ref)
	if s.object == nil {
		return s, s.n
	}
	known := a.rules[s.object]
	if known == nil {
		known = map[[2]int]*strictyaml.Node{}
		for _, list := range [...]string{"http", "tls", "tcp", "rules"} {
			for _, n := range s.object.Get(list).List() {
				known[[2]int{n.Line, n.Col}] = n
			}
		}
		a.rules[s.object] = known
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
