// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"cmp"

	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// principal is the name of an identity in certificates, as Istio writes it
// (a SPIFFE id without its scheme).
func principal(id *config.Identity, trustDomain string) string {
	return trustDomain + "/ns/" + cmp.Or(id.Namespace, config.DefaultNamespace) + "/sa/" + cmp.Or(id.ServiceAccount, "default")
}

// account is "namespace/service account".
func account(id *config.Identity) string {
	return cmp.Or(id.Namespace, config.DefaultNamespace) + "/" + cmp.Or(id.ServiceAccount, "default")
}

// SourceIs says whether what the source asks of the workload holds; its
// IP blocks are not looked at.
func SourceIs(s *config.AuthSource, id config.Identity, trustDomain string) bool {
	ns := cmp.Or(id.Namespace, config.DefaultNamespace)
	return !s.Never &&
		match.OneOf(s.Principals, s.NotPrincipals, principal(&id, trustDomain)) &&
		match.OneOf(s.Namespaces, s.NotNamespaces, ns) &&
		match.OneOf(s.ServiceAccounts, s.NotServiceAccounts, account(&id)) &&
		match.OneOf(s.TrustDomains, s.NotTrustDomains, trustDomain)
}

// ConditionIs says whether a condition about the workload holds; one
// about something else does.
func ConditionIs(c *config.AuthCondition, id config.Identity, trustDomain string) bool {
	var have string
	switch c.Key {
	case "source.namespace":
		have = cmp.Or(id.Namespace, config.DefaultNamespace)
	case "source.principal":
		have = principal(&id, trustDomain)
	case "source.serviceAccount":
		have = account(&id)
	default:
		return true
	}
	return match.OneOf(match.ParseValues(c.Values), match.ParseValues(c.NotValues), have)
}
