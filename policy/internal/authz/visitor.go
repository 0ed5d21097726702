// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"net/netip"
	"strings"

	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// Visitors returns the Compiler for who comes from outside to a gateway. Who that is,
// each connection says.
func (x *Catalog) Visitors() *Compiler {
	s := x.For(config.Identity{})
	s.visitors = true
	return s
}

// is says whether the flow is from a source.
func (f *Facts) is(s *config.AuthSource, q assumption) bool {
	return f.from(s.IPBlocks, s.NotIPBlocks, q) && f.through(s.RemoteIPBlocks, s.NotRemoteIPBlocks, q) &&
		(f.Visitor == nil || f.identified(s, q))
}

// through is from for the address that trusted proxies give the visitor. Before a
// workload there is no proxy.
func (f *Facts) through(nets, not []netip.Prefix, q assumption) bool {
	if f.Visitor == nil {
		return f.from(nets, not, q)
	}
	is := f.SrcIs
	if f.Visitor.Remote.IsValid() { // a proxy said it, which itself may have no address
		is = Known
	}
	return within(f.Visitor.Remote, is, nets, not, q)
}

// peer is what a principal says: "" where it says nothing of that.
type peer struct{ principal, namespace, account, domain string }

// peerOf takes DOMAIN/ns/NAMESPACE/sa/ACCOUNT apart.
func peerOf(principal string) peer {
	out := peer{principal: principal}
	parts := strings.Split(principal, "/")
	out.domain = parts[0]
	if len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa" {
		out.namespace, out.account = parts[2], parts[2]+"/"+parts[4]
	}
	return out
}

// identified says whether a visitor is who a source asks for.
func (f *Facts) identified(s *config.AuthSource, q assumption) bool {
	if len(s.Principals)+len(s.NotPrincipals)+len(s.Namespaces)+len(s.NotNamespaces)+len(s.ServiceAccounts)+len(s.NotServiceAccounts)+
		len(s.TrustDomains)+len(s.NotTrustDomains) == 0 {
		return true
	}
	if f.PrincipalIs != Known {
		return q.unknown(f.PrincipalIs)
	}
	p := peerOf(f.Visitor.Principal)
	return match.OneOf(s.Principals, s.NotPrincipals, p.principal) &&
		match.OneOf(s.Namespaces, s.NotNamespaces, p.namespace) &&
		match.OneOf(s.ServiceAccounts, s.NotServiceAccounts, p.account) &&
		match.OneOf(s.TrustDomains, s.NotTrustDomains, p.domain)
}

// bears says whether a visitor has what a condition asks of its identity. Only
// Authorizers for visitors have such conditions.
func (f *Facts) bears(c *authCondition, q assumption) bool {
	if f.Visitor == nil || f.PrincipalIs != Known {
		return q.unknown(f.PrincipalIs)
	}
	p := peerOf(f.Visitor.Principal)
	have := map[string]string{keySourcePrincipal: p.principal, keySourceNamespace: p.namespace, keySourceAccount: p.account}
	return match.OneOf(c.values, c.notValues, have[c.key])
}
