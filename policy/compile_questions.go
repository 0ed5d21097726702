// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy/internal/authz"
	"github.com/egressd/egressd/policy/internal/match"
)

// selectorsInUse are what the rules of a Config ask of identities.
type selectorsInUse struct {
	// namespaces are those that see or mean something else than others do.
	namespaces map[string]bool
	// sharing are those among them that index.sharing has.
	sharing map[string]bool
	// labels are the selectors of rules, by one of the labels that they ask for.
	labels map[[2]string][]*question
	// values are the labels whose values count, whatever they are.
	values map[string]bool
	// sources and conditions are those of AuthorizationPolicies.
	sources []*question
	byText  map[string]*question
}

// question is one that rules ask of a workload. It is the same in each Config
// that asks it.
type question struct {
	text  string
	holds func(Identity) bool
	// rules ask it, where one of them counts.
	rules []*VirtualService
	// namespaces are those whose workloads it is asked of.
	namespaces map[string]bool
	// services are guarded by who asks it, where one of them is visible.
	services []*Service
	// everywhere says that it is asked of all workloads.
	everywhere bool
}

// asked says whether the question makes a difference for the workloads of a
// class.
func (x *question) asked(b *builder, s *identityClass) bool {
	return x.everywhere || x.namespaces[s.identity.Namespace] ||
		slices.ContainsFunc(x.rules, func(vs *VirtualService) bool { return b.countsFor(s, vs) }) ||
		slices.ContainsFunc(x.services, func(sv *Service) bool { return b.sees(s, sv) })
}

// answers are the questions that a class answers with yes, of those that make
// a difference for it.
func (q *selectorsInUse) answers(b *builder, s *identityClass) string {
	var yes []string
	for k, v := range s.identity.Labels {
		for _, x := range q.labels[[2]string{k, v}] {
			if x.holds(s.identity) && x.asked(b, s) {
				yes = append(yes, x.text)
			}
		}
	}
	slices.Sort(yes)
	for _, x := range q.sources {
		if x.holds(s.identity) && x.asked(b, s) {
			yes = append(yes, x.text)
		}
	}
	for _, label := range slices.Sorted(maps.Keys(q.values)) {
		if v, ok := s.identity.Labels[label]; ok {
			yes = append(yes, fmt.Sprintf("label %q is %q", label, v))
		}
	}
	return strings.Join(yes, "\n")
}

// ask returns the question with a text.
func (q *selectorsInUse) ask(text string, holds func(Identity) bool) (x *question, known bool) {
	x, known = q.byText[text]
	if !known {
		x = &question{text: text, holds: holds}
		q.byText[text] = x
	}
	return x, known
}

// selector asks for labels; nil: there are none to ask for.
func (q *selectorsInUse) selector(labels map[string]string) *question {
	if len(labels) == 0 {
		return nil
	}
	x, known := q.ask(fmt.Sprintf("%q", labels), func(id Identity) bool { return match.Labels(labels, id.Labels) })
	if !known {
		least := slices.Min(slices.Collect(maps.Keys(labels)))
		k := [2]string{least, labels[least]}
		q.labels[k] = append(q.labels[k], x)
	}
	return x
}

func (b *builder) selectorsInUse() *selectorsInUse {
	q := &selectorsInUse{namespaces: b.index.distinguished(), sharing: b.index.sharing(),
		labels: map[[2]string][]*question{}, values: map[string]bool{}, byText: map[string]*question{}}
	sees := func(v Visibility) {
		for _, n := range v.Namespaces {
			q.namespaces[n] = true
		}
	}
	for _, v := range []*Visibility{b.cfg.Mesh.DefaultServiceExport, b.cfg.Mesh.DefaultVirtualServiceExport, b.cfg.Mesh.DefaultDestinationRuleExport} {
		if v != nil && v.Limited { // every namespace may see its own
			for _, w := range b.cfg.Workloads {
				q.namespaces[cmp.Or(w.Namespace, DefaultNamespace)] = true
			}
			for _, g := range b.cfg.Gateways {
				q.namespaces[g.Ref.Namespace] = true
			}
		}
	}
	for _, n := range slices.Concat(b.disputed(), b.index.takers, b.insiders()) {
		q.namespaces[n] = true
	}
	for _, vs := range b.cfg.VirtualServices {
		sees(vs.Export)
		q.virtualService(vs)
	}
	for _, dr := range b.cfg.DestinationRules {
		sees(dr.Export)
		// Rules of the client's own namespace come first, and of those with a
		// selector only they count.
		q.namespaces[dr.Ref.Namespace] = true
		for _, label := range dr.Labels() {
			q.values[label] = true
		}
		if x := q.selector(dr.Selector); x != nil {
			if x.namespaces == nil {
				x.namespaces = map[string]bool{}
			}
			x.namespaces[dr.Ref.Namespace] = true
		}
	}
	b.askAuthorizations(q)
	return q
}

// virtualService asks what the matches of a VirtualService ask.
func (q *selectorsInUse) virtualService(vs *VirtualService) {
	source := func(namespace string, labels map[string]string) {
		if namespace != "" {
			q.namespaces[namespace] = true
		}
		if x := q.selector(labels); x != nil && (len(x.rules) == 0 || x.rules[len(x.rules)-1] != vs) {
			x.rules = append(x.rules, vs)
		}
	}
	for _, r := range vs.HTTP {
		for _, m := range r.Matches {
			source(m.SourceNamespace, m.SourceLabels)
		}
	}
	for _, r := range vs.TLS {
		for _, m := range r.Matches {
			source(m.SourceNamespace, m.SourceLabels)
		}
	}
	for _, r := range vs.TCP {
		for _, m := range r.Matches {
			source(m.SourceNamespace, m.SourceLabels)
		}
	}
}

// askAuthorizations asks what AuthorizationPolicies ask that guard something
// here. In a cluster most of them are about what comes in to Pods.
func (b *builder) askAuthorizations(q *selectorsInUse) {
	targets := map[[2]string][]*Service{}
	for _, a := range b.cfg.Authorizations {
		for _, t := range a.Targets {
			targets[[2]string{a.Ref.Namespace, t.Name}] = nil
		}
	}
	if len(targets) > 0 {
		for _, s := range b.cfg.Services {
			k := [2]string{s.Ref.Namespace, s.Ref.Name}
			if list, ok := targets[k]; ok && s.External {
				targets[k] = append(list, s)
			}
		}
	}
	gateways := b.gatewayLabels()
	for _, a := range b.cfg.Authorizations {
		var guarded []*Service
		for _, t := range a.Targets {
			guarded = append(guarded, targets[[2]string{a.Ref.Namespace, t.Name}]...)
		}
		gateway := len(a.Targets) == 0 && slices.ContainsFunc(gateways, func(l map[string]string) bool { return match.Labels(a.Selector, l) })
		if !gateway && len(guarded) == 0 {
			continue
		}
		for _, r := range a.Rules {
			for _, src := range r.From {
				one := *src
				one.IPBlocks, one.NotIPBlocks = nil, nil // are not asked of the workload
				one.RemoteIPBlocks, one.NotRemoteIPBlocks = nil, nil
				x, known := q.ask(fmt.Sprintf("source %#v", one), func(id Identity) bool { return authz.SourceIs(src, id, b.trustDomain()) })
				q.guards(x, known, guarded, gateway)
			}
			for _, c := range r.When {
				if strings.HasPrefix(c.Key, "source.") && c.Key != "source.ip" {
					x, known := q.ask(fmt.Sprintf("when %#v", *c), func(id Identity) bool { return authz.ConditionIs(c, id, b.trustDomain()) })
					q.guards(x, known, guarded, gateway)
				}
			}
		}
	}
}

// guards adds where a question of an AuthorizationPolicy is asked.
func (q *selectorsInUse) guards(x *question, known bool, services []*Service, gateway bool) {
	if !known {
		q.sources = append(q.sources, x)
	}
	x.everywhere = x.everywhere || gateway
	for _, s := range services {
		if !slices.Contains(x.services, s) {
			x.services = append(x.services, s)
		}
	}
}

// gatewayLabels are the labels that gateways have as which connections may go
// on: those that Gateways select, and those that Kubernetes Services in front
// of them do.
func (b *builder) gatewayLabels() []map[string]string {
	var out []map[string]string
	anybody := false
	for _, g := range b.cfg.Gateways {
		anybody = anybody || len(g.Selector) == 0
		out = append(out, g.Selector)
	}
	if len(out) == 0 {
		return nil
	}
	for _, s := range b.cfg.Services {
		if s.External || len(s.Selector) == 0 {
			continue
		}
		if anybody || slices.ContainsFunc(b.cfg.Gateways, func(g *Gateway) bool { return match.Labels(g.Selector, s.Selector) }) {
			out = append(out, s.Selector)
		}
	}
	return out
}
