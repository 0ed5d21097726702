// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"fmt"
	"strings"

	"github.com/egressd/egressd/policy/config"
)

// Text writes what the policies say, line by line; depth counts from 0.
func (g *Authorizer) Text(line func(depth int, format string, args ...any)) {
	if g == nil {
		return
	}
	for _, list := range [...][]*authPolicy{g.deny, g.allow, g.audit, g.dryDeny, g.dryAllow} {
		for _, p := range list {
			dry := ""
			if p.policy.DryRun {
				dry = " dry-run"
			}
			line(0, "%v%s (%v)", p.policy.Action, dry, p.ref)
			for i := range p.rules {
				line(1, "if %s (%v)", p.rules[i].text(), p.rules[i].ref)
			}
		}
	}
}

// text is the rule as it is asked of the scope; what it asks of the identity
// holds.
func (r *authRule) text() string {
	var out []string
	add := func(what string, yes, no any, n int) {
		if n > 0 {
			out = append(out, fmt.Sprintf("%s %v not %v", what, yes, no))
		}
	}
	for _, s := range r.rule.From {
		out = append(out, "from")
		add("principal", s.Principals, s.NotPrincipals, len(s.Principals)+len(s.NotPrincipals))
		add("namespace", s.Namespaces, s.NotNamespaces, len(s.Namespaces)+len(s.NotNamespaces))
		add("account", s.ServiceAccounts, s.NotServiceAccounts, len(s.ServiceAccounts)+len(s.NotServiceAccounts))
		add("domain", s.TrustDomains, s.NotTrustDomains, len(s.TrustDomains)+len(s.NotTrustDomains))
		add("address", s.IPBlocks, s.NotIPBlocks, len(s.IPBlocks)+len(s.NotIPBlocks))
		add("remote address", s.RemoteIPBlocks, s.NotRemoteIPBlocks, len(s.RemoteIPBlocks)+len(s.NotRemoteIPBlocks))
		if s.Never {
			out = append(out, "never")
		}
	}
	for i := range r.operations {
		o := &r.operations[i]
		out = append(out, "to")
		add("host", o.Hosts, o.NotHosts, len(o.Hosts)+len(o.NotHosts))
		add("port", o.Ports, o.NotPorts, len(o.Ports)+len(o.NotPorts))
		add("method", o.Methods, o.NotMethods, len(o.Methods)+len(o.NotMethods))
		add("path", pathTexts(o.Paths), pathTexts(o.NotPaths), len(o.Paths)+len(o.NotPaths))
	}
	for _, c := range r.rule.When {
		out = append(out, fmt.Sprintf("when %s is %q not %q", c.Key, c.Values, c.NotValues))
	}
	if len(out) == 0 {
		return "any"
	}
	return strings.Join(out, " ")
}

func pathTexts(list []config.PathMatch) []string {
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = m.ValueMatch.String()
		if m.Template != "" {
			out[i] = m.Template
		}
	}
	return out
}
