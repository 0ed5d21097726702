// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"

	"github.com/egressd/egressd/policy/internal/match"
)

// principal is the name of an identity in certificates, as Istio writes it
// (a SPIFFE id without its scheme).
func principal(id *Identity, trustDomain string) string {
	return trustDomain + "/ns/" + cmp.Or(id.Namespace, DefaultNamespace) + "/sa/" + cmp.Or(id.ServiceAccount, "default")
}

// account is "namespace/service account".
func account(id *Identity) string {
	return cmp.Or(id.Namespace, DefaultNamespace) + "/" + cmp.Or(id.ServiceAccount, "default")
}

// sourceOnIdentity says whether what the source asks of the workload holds; its
// IP blocks are not looked at.
func sourceOnIdentity(s *AuthSource, id Identity, trustDomain string) bool {
	ns := cmp.Or(id.Namespace, DefaultNamespace)
	return !s.Never &&
		match.OneOf(s.Principals, s.NotPrincipals, principal(&id, trustDomain)) &&
		match.OneOf(s.Namespaces, s.NotNamespaces, ns) &&
		match.OneOf(s.ServiceAccounts, s.NotServiceAccounts, account(&id)) &&
		match.OneOf(s.TrustDomains, s.NotTrustDomains, trustDomain)
}

// conditionOnIdentity says whether a condition about the workload holds; one
// about something else does.
func conditionOnIdentity(c *AuthCondition, id Identity, trustDomain string) bool {
	var have string
	switch c.Key {
	case "source.namespace":
		have = cmp.Or(id.Namespace, DefaultNamespace)
	case "source.principal":
		have = principal(&id, trustDomain)
	case "source.serviceAccount":
		have = account(&id)
	default:
		return true
	}
	return match.OneOf(match.ParseValues(c.Values), match.ParseValues(c.NotValues), have)
}
