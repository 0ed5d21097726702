// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strings"
)

// principal is the name of an identity in certificates, as Istio writes it
// (a SPIFFE id without its scheme).
// principal is the name of an identity in certificates, as Istio writes it
// (a SPIFFE id without its scheme).
func principal(id *Identity, trustDomain string) string {
	return trustDomain + "/ns/" + cmp.Or(id.Namespace, DefaultNamespace) + "/sa/" + cmp.Or(id.ServiceAccount, "default")
}

// account is "namespace/service account".
// account is "namespace/service account".
func account(id *Identity) string {
	return cmp.Or(id.Namespace, DefaultNamespace) + "/" + cmp.Or(id.ServiceAccount, "default")
}

// matchesIdentity says whether what the source asks of the workload holds; its
// IP blocks are not looked at.
// sourceOnIdentity says whether what the source asks of the workload holds; its
// IP blocks are not looked at.
func sourceOnIdentity(s *AuthSource, id Identity, trustDomain string) bool {
	ns := cmp.Or(id.Namespace, DefaultNamespace)
	return !s.Never &&
		oneOf(s.Principals, s.NotPrincipals, principal(&id, trustDomain)) &&
		oneOf(s.Namespaces, s.NotNamespaces, ns) &&
		oneOf(s.ServiceAccounts, s.NotServiceAccounts, account(&id)) &&
		oneOf(s.TrustDomains, s.NotTrustDomains, trustDomain)
}

// matchesIdentity says whether a condition about the workload holds; one
// about something else does.
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
	return oneOf(valueMatches(c.Values), valueMatches(c.NotValues), have)
}

func valueMatches(values []string) []ValueMatch {
	out := make([]ValueMatch, len(values))
	for i, v := range values {
		out[i] = ParseValueMatch(v)
	}
	return out
}

// Matches says whether a value matches; an absent one is "".
// matchesValue says whether a value matches; an absent one is "".
func matchesValue(m ValueMatch, v string) bool {
	switch m.Kind {
	case ValuePresent:
		return v != ""
	case ValuePrefix:
		return strings.HasPrefix(v, m.Value)
	case ValueSuffix:
		return strings.HasSuffix(v, m.Value)
	}
	return v == m.Value
}

// oneOf says whether v matches one of wanted, if there are any, and none of
// unwanted.
func oneOf(wanted, unwanted []ValueMatch, v string) bool {
	match := func(m ValueMatch) bool { return matchesValue(m, v) }
	return (len(wanted) == 0 || slices.ContainsFunc(wanted, match)) && !slices.ContainsFunc(unwanted, match)
}
