// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy/internal/match"
)

// guard says what became of each AuthorizationPolicy that guards of.
func (w *why) guard(of string, g *guard, f authFacts) {
	if g == nil {
		return
	}
	for _, list := range [...][]*authPolicy{g.deny, g.allow, g.audit, g.dryDeny, g.dryAllow} {
		for _, p := range list {
			w.policy(of, p, &f)
		}
	}
}

func (w *why) policy(of string, p *authPolicy, f *authFacts) {
	denies := p.policy.Action == AuthDeny
	kind := fmt.Sprintf("%v policy for %s", p.policy.Action, of)
	if p.policy.DryRun {
		kind += ", dry-run"
	}
	// What will be known later decides against a flow at worst, for it at best.
	sure, maybe := asking{deny: denies, hope: denies}, asking{deny: denies, hope: !denies}
	number := func(r *authRule) int { return slices.Index(p.policy.Rules, r.rule) + 1 }
	if r := p.match(f, sure); r != nil {
		w.tell(*r.ref, true, "%s: rule %d matches", kind, number(r))
		return
	}
	if r := p.match(f, maybe); r != nil {
		w.tell(*r.ref, true, "%s: the forwarding core will know whether rule %d matches", kind, number(r))
		return
	}
	w.tell(*p.ref, false, "%s: no rule matches%s", kind, p.misses(f, sure))
}

// misses lists why each rule does not match, in brackets; "" when there is no
// rule.
func (p *authPolicy) misses(f *authFacts, q asking) string {
	var out []string
	for i, rule := range p.policy.Rules {
		text := "is not about this workload"
		for j := range p.rules {
			if p.rules[j].rule == rule {
				text = p.rules[j].miss(f, q)
			}
		}
		out = append(out, fmt.Sprintf("rule %d: %s", i+1, text))
	}
	if len(out) == 0 {
		return ""
	}
	return " (" + strings.Join(out, "; ") + ")"
}

// miss says which part of the rule fails first.
func (r *authRule) miss(f *authFacts, q asking) string {
	if len(r.sources) > 0 && !slices.ContainsFunc(r.sources, func(s *AuthSource) bool { return f.from(s.IPBlocks, s.NotIPBlocks, q) }) {
		return "from: " + unknownOr(f.srcIs, "the source address", "is not one of them")
	}
	var ops []string
	for i := range r.operations {
		text := r.operations[i].miss(f, q)
		if text == "" {
			ops = nil
			break
		}
		ops = append(ops, text)
	}
	if len(ops) > 0 {
		return "to: " + strings.Join(ops, ", or ")
	}
	for i := range r.conditions {
		if c := &r.conditions[i]; !c.matches(f, q) {
			return "when: " + unknownOr(c.knowledge(f), c.key, "does not match")
		}
	}
	return "does not match"
}

// unknownOr says that something is not known of the flow, or what it is not.
func unknownOr(k knowledge, what, not string) string {
	if k != known {
		return what + " is not known of the flow"
	}
	return what + " " + not
}

// knowledge is what is known of what the condition asks for.
func (c *authCondition) knowledge(f *authFacts) knowledge {
	switch c.key {
	case keyDestinationPort:
		return known
	case keyDestinationIP:
		return f.dstIs
	case keySourceIP, keyRemoteIP:
		return f.srcIs
	case keySNI:
		return f.sniIs
	}
	if c.header == "" {
		return never
	}
	return f.requestIs
}

// miss says which part of the operation fails first; "" for none.
func (o *authOperation) miss(f *authFacts, q asking) string {
	switch {
	case o.matches(f, q):
		return ""
	case len(o.Ports) > 0 && !slices.Contains(o.Ports, f.port), slices.Contains(o.NotPorts, f.port):
		return fmt.Sprintf("port %d does not match", f.port)
	case len(o.Hosts)+len(o.NotHosts) > 0 && !f.onHost(o, q):
		return unknownOr(f.hostIs, "the host", fmt.Sprintf("%s does not match", f.host))
	case f.requestIs != known:
		return "methods and paths are not known of the flow"
	case !match.OneOf(o.Methods, o.NotMethods, f.request.Method):
		return fmt.Sprintf("method %s does not match", f.request.Method)
	}
	return fmt.Sprintf("path %s does not match", f.request.Path)
}
