// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Remedy says what would allow a denied flow: "--allow ITEM" where that names it, else
// what is to be changed in the policy; "" where no change of it would help.
func Remedy(e *flow.Event) string {
	if !e.Denied() {
		return ""
	}
	if item := AllowItem(e); item != "" {
		return "--allow " + item
	}
	return remedyOf(e.Reason, e.Rule)
}

// Remedy says what would allow the denials, as the function of the same name does.
func (d *Denial) Remedy() string {
	if item := d.AllowItem(d.Reason); item != "" {
		return "--allow " + item
	}
	return remedyOf(d.Reason, d.Rule)
}

// remedyOf says what in the policy is to be changed where another destination would not
// help; rule comes nearest.
func remedyOf(reason policy.Reason, rule *policy.Ref) string {
	in := ""
	if rule != nil {
		in = " in " + rule.Object()
	}
	switch reason {
	case policy.ReasonNotTLS:
		return "the port is declared for TLS, and something else was sent: write protocol: TCP" + in
	case policy.ReasonNotHTTP:
		return "the port is declared for HTTP, and something else was sent: write protocol: TCP" + in
	case policy.ReasonNoName:
		return "nothing that was sent names a host: write protocol: TCP" + in
	case policy.ReasonAuthorization:
		if rule != nil {
			return rule.Object() + " denies it: change its rules, or what is sent"
		}
	case policy.ReasonNoAllow:
		if rule != nil {
			return "no rule of an ALLOW policy is for it: add one to " + rule.Object()
		}
		return "no rule of an ALLOW policy is for it: add one"
	case policy.ReasonNoRoute:
		return "no route is for it: add one" + in
	case policy.ReasonSocketType:
		return "no rule can: use TCP or UDP"
	}
	return ""
}
