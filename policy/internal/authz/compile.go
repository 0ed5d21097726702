// SPDX-License-Identifier: Apache-2.0

// Package authz compiles AuthorizationPolicies for groups of workloads and asks
// them of flows, also of flows of which not everything is known yet.
package authz

import (
	"cmp"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// Authorizer is what AuthorizationPolicies say about one destination to the
// workloads of one scope. What they ask of the identity is answered already:
// sources that the scope is not are left out. It is immutable; nil allows
// everything.
type Authorizer struct {
	deny, allow, audit []*authPolicy
	// dryDeny and dryAllow only say what they would do.
	dryDeny, dryAllow []*authPolicy
}

// authPolicy is an AuthorizationPolicy as one scope meets it.
type authPolicy struct {
	ref    *config.Ref
	policy *config.AuthorizationPolicy
	rules  []authRule // may be none: it matches nothing
}

type authRule struct {
	rule *config.AuthRule
	ref  *config.Ref
	// sources ask for source addresses; with none, any will do.
	sources    []*config.AuthSource
	operations []authOperation
	conditions []authCondition
}

// authOperation is an AuthOperation with its lists in the form in which they
// are asked.
type authOperation struct {
	*config.AuthOperation
	paths, notPaths []match.PathMatcher
}

// authCondition is a condition on something else than the identity.
type authCondition struct {
	key               string
	header            string // canonical; of request.headers[...]
	values, notValues []config.ValueMatch
	ports, notPorts   []uint16
	nets, notNets     []netip.Prefix
}

// The keys of conditions that are asked of flows.
const (
	keyDestinationIP   = "destination.ip"
	keyDestinationPort = "destination.port"
	keySNI             = "connection.sni"
	keySourceIP        = "source.ip"
	keyRemoteIP        = "remote.ip"
	keySourcePrincipal = "source.principal"
	keySourceNamespace = "source.namespace"
	keySourceAccount   = "source.serviceAccount"
	keyHeaders         = "request.headers["
)

// Catalog has the AuthorizationPolicies of a Config by what they guard.
type Catalog struct {
	rank     map[*config.AuthorizationPolicy]int
	services map[[2]string][]*config.AuthorizationPolicy // by namespace and name of a ServiceEntry
	gateways []*config.AuthorizationPolicy               // with a selector, or for all servers
	// root is the root namespace, domain the trust domain of all identities.
	root, domain string
}

// NewCatalog indexes AuthorizationPolicies, which are in order of precedence.
func NewCatalog(all []*config.AuthorizationPolicy, root, domain string) *Catalog {
	x := &Catalog{root: root, domain: domain, rank: map[*config.AuthorizationPolicy]int{}, services: map[[2]string][]*config.AuthorizationPolicy{}}
	for i, a := range all {
		x.rank[a] = i
		if len(a.Targets) == 0 {
			x.gateways = append(x.gateways, a)
		}
		for _, t := range a.Targets {
			if t.Kind == "ServiceEntry" {
				k := [2]string{a.Ref.Namespace, t.Name}
				x.services[k] = append(x.services[k], a)
			}
		}
	}
	return x
}

// Guards says whether any AuthorizationPolicy that is in force guards a
// ServiceEntry or, if there are Gateways, may guard one of these.
func (x *Catalog) Guards(gateways bool) bool {
	inForce := func(a *config.AuthorizationPolicy) bool { return !a.DryRun && a.Action != config.AuthAudit }
	for _, list := range x.services {
		if slices.ContainsFunc(list, inForce) {
			return true
		}
	}
	return gateways && slices.ContainsFunc(x.gateways, inForce)
}

// Of returns the AuthorizationPolicies that guard a service.
func (x *Catalog) Of(s *config.Service) []*config.AuthorizationPolicy {
	if len(x.services) == 0 || s.Derived != nil && s.Derived.ByRules {
		return nil
	}
	return x.services[[2]string{s.Ref.Namespace, s.Ref.Name}]
}

// Compiler makes the Authorizers for workloads that rules cannot tell apart, each
// combination once.
type Compiler struct {
	catalog  *Catalog
	identity config.Identity
	policies map[*config.AuthorizationPolicy]*authPolicy
	guards   map[string]*Authorizer
	visitors bool // the identity is each flow's
}

// For returns the Compiler for workloads of which id is one.
func (x *Catalog) For(id config.Identity) *Compiler {
	return &Compiler{catalog: x, identity: id, policies: map[*config.AuthorizationPolicy]*authPolicy{}, guards: map[string]*Authorizer{}}
}

// Guard compiles what a list of AuthorizationPolicies says; nil for nothing.
func (s *Compiler) Guard(list []*config.AuthorizationPolicy) *Authorizer {
	if len(list) == 0 {
		return nil
	}
	rank := s.catalog.rank
	list = slices.Clone(list)
	slices.SortFunc(list, func(x, y *config.AuthorizationPolicy) int { return rank[x] - rank[y] })
	list = slices.Compact(list)
	var key strings.Builder
	for _, a := range list {
		key.WriteString(strconv.Itoa(rank[a]) + " ")
	}
	if g, ok := s.guards[key.String()]; ok {
		return g
	}
	g := &Authorizer{}
	for _, a := range list {
		p := s.policy(a)
		switch {
		case a.DryRun && a.Action == config.AuthDeny:
			g.dryDeny = append(g.dryDeny, p)
		case a.DryRun && a.Action == config.AuthAllow:
			g.dryAllow = append(g.dryAllow, p)
		case a.Action == config.AuthDeny:
			g.deny = append(g.deny, p)
		case a.Action == config.AuthAudit:
			g.audit = append(g.audit, p)
		default:
			g.allow = append(g.allow, p)
		}
	}
	s.guards[key.String()] = g
	return g
}

// Gateway compiles what guards an egress gateway whose pods are in a
// namespace and carry labels: the AuthorizationPolicies there and in the root
// namespace that select these labels, and those for all servers of either.
// Others do not count, or whoever may write in any namespace could open a
// gateway with an ALLOW policy of his own.
func (s *Compiler) Gateway(namespace string, labels map[string]string) *Authorizer {
	var list []*config.AuthorizationPolicy
	for _, a := range s.catalog.gateways {
		if a.Ref.Namespace != namespace && a.Ref.Namespace != s.catalog.root {
			continue
		}
		if match.Labels(a.Selector, labels) {
			list = append(list, a)
		}
	}
	return s.Guard(list)
}

func (s *Compiler) policy(a *config.AuthorizationPolicy) *authPolicy {
	if p := s.policies[a]; p != nil {
		return p
	}
	p := &authPolicy{ref: &a.Ref, policy: a}
	for _, r := range a.Rules {
		if c, ok := s.rule(a, r); ok {
			p.rules = append(p.rules, c)
		}
	}
	s.policies[a] = p
	return p
}

// rule compiles a rule; false when the scope is not whom it is about.
func (s *Compiler) rule(a *config.AuthorizationPolicy, r *config.AuthRule) (authRule, bool) {
	out := authRule{rule: r, ref: &r.Ref}
	if r.Ref == (config.Ref{}) {
		out.ref = &a.Ref
	}
	id, domain := s.identity, s.catalog.domain
	for _, src := range r.From {
		if s.visitors && !src.Never || !s.visitors && SourceIs(src, id, domain) {
			out.sources = append(out.sources, src)
		}
	}
	if len(r.From) > 0 && len(out.sources) == 0 {
		return out, false
	}
	if !s.visitors && slices.ContainsFunc(out.sources, func(src *config.AuthSource) bool { return !src.Addresses() }) {
		out.sources = nil
	}
	for _, o := range r.To {
		out.operations = append(out.operations, authOperation{o, match.PathMatchers(o.Paths), match.PathMatchers(o.NotPaths)})
	}
	for _, c := range r.When {
		if !s.visitors && !ConditionIs(c, id, domain) {
			return out, false
		}
		if s.visitors || !strings.HasPrefix(c.Key, "source.") || c.Key == keySourceIP {
			out.conditions = append(out.conditions, newAuthCondition(c))
		}
	}
	return out, true
}

func newAuthCondition(c *config.AuthCondition) authCondition {
	out := authCondition{key: c.Key, values: match.ParseValues(c.Values), notValues: match.ParseValues(c.NotValues)}
	switch {
	case c.Key == keyDestinationPort:
		out.ports, _ = parsePorts(c.Values) // validated
		out.notPorts, _ = parsePorts(c.NotValues)
	case c.Key == keyDestinationIP, c.Key == keySourceIP, c.Key == keyRemoteIP:
		out.nets, _ = parsePrefixes(c.Values)
		out.notNets, _ = parsePrefixes(c.NotValues)
	case strings.HasPrefix(c.Key, keyHeaders):
		out.header = textproto.CanonicalMIMEHeaderKey(strings.TrimSuffix(c.Key[len(keyHeaders):], "]"))
	}
	return out
}

func parsePorts(list []string) ([]uint16, error) {
	out := make([]uint16, 0, len(list))
	for _, v := range list {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return nil, err
		}
		out = append(out, uint16(n))
	}
	return out, nil
}

// parsePrefixes reads addresses and prefixes.
func parsePrefixes(list []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(list))
	for _, v := range list {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			a, aerr := netip.ParseAddr(v)
			if aerr != nil {
				return nil, aerr
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, ipguard.Plain(p))
	}
	return out, nil
}

// Validate notes what no Authorizer could be made of.
func Validate(a *config.AuthorizationPolicy, errorf func(ref config.Ref, format string, args ...any)) {
	if !a.Action.Valid() {
		errorf(a.Ref, "action %d is unknown", a.Action)
	}
	for _, r := range a.Rules {
		for _, c := range r.When {
			validateCondition(cmp.Or(r.Ref, a.Ref), c, errorf)
		}
		for _, o := range r.To {
			for _, m := range slices.Concat(o.Paths, o.NotPaths) {
				if _, err := match.NewPathMatcher(m); err != nil {
					errorf(cmp.Or(r.Ref, a.Ref), "to: %v", err)
				}
			}
		}
	}
}

func validateCondition(ref config.Ref, c *config.AuthCondition, errorf func(config.Ref, string, ...any)) {
	var err error
	values := slices.Concat(c.Values, c.NotValues)
	switch c.Key {
	case keyDestinationPort:
		_, err = parsePorts(values)
	case keyDestinationIP, keySourceIP, keyRemoteIP:
		_, err = parsePrefixes(values)
	}
	if err != nil {
		errorf(ref, "when: %s: %v", c.Key, err)
	}
	if len(values) == 0 {
		errorf(ref, "when: %s: there is neither a value nor a notValue", c.Key)
	}
}
