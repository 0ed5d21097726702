// SPDX-License-Identifier: Apache-2.0

package authorization

import (
	"fmt"
	"net/netip"
	"strings"

	security "istio.io/api/security/v1beta1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// source translates who a rule is about.
func (a *auth) source(at *strictyaml.Node, number int, s *security.Source) *policy.AuthSource {
	out := &policy.AuthSource{}
	identities := len(s.Principals) + len(s.NotPrincipals) + len(s.Namespaces) + len(s.NotNamespaces)
	accounts := len(s.ServiceAccounts) + len(s.NotServiceAccounts)
	rest := len(s.RequestPrincipals) + len(s.NotRequestPrincipals) + len(s.IpBlocks) + len(s.NotIpBlocks) +
		len(s.RemoteIpBlocks) + len(s.NotRemoteIpBlocks) + len(s.TrustDomains) + len(s.NotTrustDomains)
	given := at.Has("serviceAccounts") || at.Has("notServiceAccounts")
	if identities > 0 && (accounts > 0 || given) {
		a.Errorf(at, "cannot set serviceAccounts with namespaces or principals, found at rule %d", number)
	}
	if identities+accounts+rest == 0 {
		a.Errorf(at, "`from.source` must not be empty, found at rule %d", number)
	}
	out.Principals = a.principals(at, "principals", "Principals", s.Principals)
	out.NotPrincipals = a.principals(at, "notPrincipals", "NotPrincipals", s.NotPrincipals)
	out.Namespaces = a.values(at, "namespaces", "Namespaces", s.Namespaces)
	out.NotNamespaces = a.values(at, "notNamespaces", "NotNamespaces", s.NotNamespaces)
	out.TrustDomains = a.trustDomains(at, "trustDomains", "TrustDomains", s.TrustDomains)
	out.NotTrustDomains = a.trustDomains(at, "notTrustDomains", "NotTrustDomains", s.NotTrustDomains)
	out.ServiceAccounts = a.accounts(at, "serviceAccounts", "ServiceAccounts", s.ServiceAccounts)
	out.NotServiceAccounts = a.accounts(at, "notServiceAccounts", "NotServiceAccounts", s.NotServiceAccounts)
	out.IPBlocks = a.blocks(at, "ipBlocks", s.IpBlocks)
	out.NotIPBlocks = a.blocks(at, "notIpBlocks", s.NotIpBlocks)
	out.RemoteIPBlocks = a.blocks(at, "remoteIpBlocks", s.RemoteIpBlocks)
	out.NotRemoteIPBlocks = a.blocks(at, "notRemoteIpBlocks", s.NotRemoteIpBlocks)
	a.requests(at, s, out)
	return out
}

// requests treats what is about JSON web tokens. Nobody has one here, so
// that asking for any finds none, and asking for none finds all.
func (a *auth) requests(at *strictyaml.Node, s *security.Source, out *policy.AuthSource) {
	a.empty(at, "requestPrincipals", "RequestPrincipals", s.RequestPrincipals)
	a.empty(at, "notRequestPrincipals", "NotRequestPrincipals", s.NotRequestPrincipals)
	if len(s.RequestPrincipals) > 0 {
		out.Never = true
		a.Warnf(at.KeyOf("requestPrincipals"), "requestPrincipals: egressd does not look into JSON web tokens, so no request has a principal and the source never matches")
	}
	if len(s.NotRequestPrincipals) > 0 {
		a.Warnf(at.KeyOf("notRequestPrincipals"), "notRequestPrincipals: egressd does not look into JSON web tokens, so no request has a principal and this always matches")
	}
}

// values reads a list of strings.
func (a *auth) values(at *strictyaml.Node, key, label string, values []string) []policy.ValueMatch {
	if a.empty(at, key, label, values) {
		return nil
	}
	var out []policy.ValueMatch
	for i, s := range values {
		out = append(out, a.value(at.At(key, i), key, s))
	}
	return out
}

func (a *auth) value(at *strictyaml.Node, key, s string) policy.ValueMatch {
	v := valueMatch(s)
	if strings.Contains(v.Value, "*") {
		a.Warnf(at, "%s: only one '*', at the start or the end of %q, stands for other characters", key, s)
	}
	return v
}

// valueMatch reads a string as Istio does: the '*' at the start counts first.
func valueMatch(s string) policy.ValueMatch {
	if s == "*" {
		return policy.ValueMatch{Kind: policy.ValuePresent}
	}
	if end, ok := strings.CutPrefix(s, "*"); ok {
		return policy.ValueMatch{Kind: policy.ValueSuffix, Value: end}
	}
	if start, ok := strings.CutSuffix(s, "*"); ok {
		return policy.ValueMatch{Kind: policy.ValuePrefix, Value: start}
	}
	return policy.ValueMatch{Kind: policy.ValueExact, Value: s}
}

// trustDomains reads a list of trust domains, which have one '*' at most.
func (a *auth) trustDomains(at *strictyaml.Node, key, label string, values []string) []policy.ValueMatch {
	for i, s := range values {
		n := at.At(key, i)
		switch {
		case strings.Contains(s, "/"):
			a.Errorf(n, "trust domain must not contain '/', found in %s: %q", label, s)
		case strings.Count(s, "*") > 1:
			a.Errorf(n, "at most one wildcard is allowed, found in %s: %q", label, s)
		case strings.Contains(strings.Trim(s, "*"), "*"):
			a.Errorf(n, "wildcard is only allowed at the start or end, found in %s: %q", label, s)
		}
	}
	return a.values(at, key, label, values)
}

func (a *auth) principals(at *strictyaml.Node, key, label string, values []string) []policy.ValueMatch {
	for i, s := range values {
		if strings.HasPrefix(s, "spiffe://") {
			a.Warnf(at.At(key, i), "%s: principals are written without \"spiffe://\"; %q matches nobody", key, s)
		}
	}
	return a.values(at, key, label, values)
}

// accounts reads service accounts, and makes them absolute.
func (a *auth) accounts(at *strictyaml.Node, key, label string, values []string) []policy.ValueMatch {
	if n := len(values); n > maxTargetRefs {
		a.Errorf(at.At(key), "%s: %d are more than %d", key, n, maxTargetRefs)
	}
	var out []policy.ValueMatch
	for i, s := range values {
		account, err := a.account(label, s)
		if err != nil {
			a.SayCode(code.FormAuthorization, strictyaml.Error, at.At(key, i), "%s", err)
			continue
		}
		out = append(out, policy.ValueMatch{Kind: policy.ValueExact, Value: account})
	}
	return out
}

// account reads "namespace/name", or a name in the policy's own namespace.
func (a *auth) account(label, s string) (string, error) {
	if s == "" {
		return "", fmt.Errorf("empty value not allowed, found in %s", label)
	}
	if strings.Contains(s, "*") {
		return "", fmt.Errorf("wildcard is not allowed, found in %s: %q", label, s)
	}
	ns, name, found := strings.Cut(s, "/")
	if !found {
		ns, name = a.Ref.Namespace, s
	}
	if !check.IsLabel(ns) || !check.IsSubdomain(name) {
		return "", fmt.Errorf("%s: %q is not a service account, or namespace/serviceaccount", label, s)
	}
	return ns + "/" + name, nil
}

func (a *auth) blocks(at *strictyaml.Node, key string, values []string) []netip.Prefix {
	var out []netip.Prefix
	for i, s := range values {
		p, err := ipBlock(s)
		if err != nil {
			a.SayCode(code.FormAuthorization, strictyaml.Error, at.At(key, i), "%s", err)
			continue
		}
		if p != p.Masked() {
			a.Warnf(at.At(key, i), "%s has host bits set; it is read as %s", s, p.Masked())
		}
		out = append(out, p.Masked())
	}
	return out
}

// ipBlock reads an address or a prefix.
func ipBlock(s string) (netip.Prefix, error) {
	var p netip.Prefix
	if strings.Contains(s, "/") {
		var err error
		if p, err = netip.ParsePrefix(s); err != nil {
			return p, fmt.Errorf("bad CIDR range (%s): %v", s, err)
		}
	} else {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return p, fmt.Errorf("bad IP address (%s)", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return p, fmt.Errorf("%q is an IPv4 address in IPv6 form; write it as IPv4", s)
	}
	return p, nil
}
