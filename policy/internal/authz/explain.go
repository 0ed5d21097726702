// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// Explain says what became of each policy for a flow to of: by which rule, and
// whether that counts.
func (g *Authorizer) Explain(of string, f *Facts, tell func(rule config.Ref, won bool, format string, args ...any)) {
	if g == nil {
		return
	}
	for _, list := range [...][]*authPolicy{g.deny, g.allow, g.audit, g.dryDeny, g.dryAllow} {
		for _, p := range list {
			p.explain(of, f, tell)
		}
	}
}

func (p *authPolicy) explain(of string, f *Facts, tell func(config.Ref, bool, string, ...any)) {
	denies := p.policy.Action == config.AuthDeny
	kind := fmt.Sprintf("%v policy for %s", p.policy.Action, of)
	if p.policy.DryRun {
		kind += ", dry-run"
	}
	// What will be known later decides against a flow at worst, for it at best.
	sure, maybe := assumption{deny: denies, optimistic: denies}, assumption{deny: denies, optimistic: !denies}
	number := func(r *authRule) int { return slices.Index(p.policy.Rules, r.rule) + 1 }
	if r := p.match(f, sure); r != nil {
		tell(*r.ref, true, "%s: rule %d matches", kind, number(r))
		return
	}
	if r := p.match(f, maybe); r != nil {
		tell(*r.ref, true, "%s: the forwarding core will know whether rule %d matches", kind, number(r))
		return
	}
	tell(*p.ref, false, "%s: no rule matches%s", kind, p.misses(f, sure))
}

// misses lists why each rule does not match, in brackets; "" when there is no
// rule.
func (p *authPolicy) misses(f *Facts, q assumption) string {
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
func (r *authRule) miss(f *Facts, q assumption) string {
	if len(r.sources) > 0 && !slices.ContainsFunc(r.sources, func(s *config.AuthSource) bool { return f.is(s, q) }) {
		return "from: " + unknownOr(f.SrcIs, "the source address", "is not one of them")
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
func unknownOr(k Knowledge, what, not string) string {
	if k != Known {
		return what + " is not known of the flow"
	}
	return what + " " + not
}

// knowledge is what is known of what the condition asks for.
func (c *authCondition) knowledge(f *Facts) Knowledge {
	switch c.key {
	case keyDestinationPort:
		return Known
	case keyDestinationIP:
		return f.DstIs
	case keySourceIP, keyRemoteIP:
		return f.SrcIs
	case keySNI:
		return f.SNIIs
	}
	if c.header == "" {
		return Unavailable
	}
	return f.RequestIs
}

// miss says which part of the operation fails first; "" for none.
func (o *authOperation) miss(f *Facts, q assumption) string {
	switch {
	case o.matches(f, q):
		return ""
	case len(o.Ports) > 0 && !slices.Contains(o.Ports, f.Port), slices.Contains(o.NotPorts, f.Port):
		return fmt.Sprintf("port %d does not match", f.Port)
	case len(o.Hosts)+len(o.NotHosts) > 0 && !f.onHost(o, q):
		return unknownOr(f.HostIs, "the host", fmt.Sprintf("%s does not match", f.Host))
	case f.RequestIs != Known:
		return "methods and paths are not known of the flow"
	case !match.OneOf(o.Methods, o.NotMethods, f.Request.Method):
		return fmt.Sprintf("method %s does not match", f.Request.Method)
	}
	return fmt.Sprintf("path %s does not match", f.Request.Path)
}
