// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"strings"
)

// AuthorizationPolicy says which workloads may use which destinations, and
// how (istio.io/api security/v1beta1). Istio evaluates it at the destination;
// here it is evaluated where the connection starts, by the identity of the
// workload, for destinations that are ServiceEntries or stand behind an
// egress gateway.
type AuthorizationPolicy struct {
	Ref    Ref
	Action AuthAction
	// Targets are the objects that it guards; with none and no Selector it
	// guards all of its namespace, or of the mesh in the root namespace.
	Targets []AuthTarget
	// Selector holds the labels of the egress gateway that it guards.
	Selector map[string]string
	// Rules: one that matches is enough. None at all: an ALLOW policy that
	// allows nothing.
	Rules []*AuthRule
	// DryRun: what it would do is only said (annotation istio.io/dry-run).
	DryRun bool
}

// AuthAction is the action of an AuthorizationPolicy.
type AuthAction uint8

// The actions. DENY has precedence over ALLOW; AUDIT only marks the event.
const (
	AuthAllow AuthAction = iota
	AuthDeny
	AuthAudit
)

var authActionNames = [...]string{"ALLOW", "DENY", "AUDIT"}

// Valid says whether the action is one of those above.
func (a AuthAction) Valid() bool { return int(a) < len(authActionNames) }

func (a AuthAction) String() string {
	if a.Valid() {
		return authActionNames[a]
	}
	return "?"
}

// AuthTarget names an object in the policy's own namespace.
type AuthTarget struct{ Kind, Name string }

// AuthRule matches when one of From, one of To and all of When do; an empty
// list matches everything.
type AuthRule struct {
	Ref  Ref
	From []*AuthSource
	To   []*AuthOperation
	When []*AuthCondition
}

// AuthSource is about the workload. All set fields must match, in each one
// value is enough, and none of the Not lists may match.
type AuthSource struct {
	Principals, NotPrincipals           []ValueMatch
	Namespaces, NotNamespaces           []ValueMatch
	ServiceAccounts, NotServiceAccounts []ValueMatch // "namespace/name"
	TrustDomains, NotTrustDomains       []ValueMatch
	// IPBlocks are about the source address of the connection.
	IPBlocks, NotIPBlocks []netip.Prefix
	// RemoteIPBlocks are about the address of the request: what trusted proxies before
	// a gateway say it is, else that of the connection.
	RemoteIPBlocks, NotRemoteIPBlocks []netip.Prefix
	// Never says that the source asks for what nobody here can have
	// (requestPrincipals): it never matches.
	Never bool
}

// Addresses says whether the source asks for addresses.
func (s *AuthSource) Addresses() bool {
	return len(s.IPBlocks)+len(s.NotIPBlocks)+len(s.RemoteIPBlocks)+len(s.NotRemoteIPBlocks) > 0
}

// AuthOperation is about the request. Methods and paths are known of plain
// HTTP only: on other flows an operation that asks for them does not match an
// ALLOW rule, and is left out of a DENY rule, which then denies more (as in
// Istio).
type AuthOperation struct {
	Hosts, NotHosts     []ValueMatch // normalized; a ":port" stays
	Ports, NotPorts     []uint16
	Methods, NotMethods []ValueMatch
	Paths, NotPaths     []PathMatch
}

// AuthCondition is one entry of `when`.
type AuthCondition struct {
	Key               string
	Values, NotValues []string
}

// ValueMatch is a string of an AuthorizationPolicy: exact, "prefix*",
// "*suffix", or "*" for anything that is there.
type ValueMatch struct {
	Kind  ValueKind
	Value string
}

// ValueKind is the kind of a ValueMatch.
type ValueKind uint8

// The kinds of ValueMatch.
const (
	ValueExact ValueKind = iota
	ValuePrefix
	ValueSuffix
	ValuePresent
)

// PathMatch is a path: a ValueMatch, or a template with {*} (one segment)
// and {**} (the rest) when Template is set.
type PathMatch struct {
	ValueMatch
	Template string
}

// ParseValueMatch reads a string of an AuthorizationPolicy.
func ParseValueMatch(s string) ValueMatch {
	switch {
	case s == "*":
		return ValueMatch{Kind: ValuePresent}
	case strings.HasSuffix(s, "*"):
		return ValueMatch{ValuePrefix, s[:len(s)-1]}
	case strings.HasPrefix(s, "*"):
		return ValueMatch{ValueSuffix, s[1:]}
	}
	return ValueMatch{ValueExact, s}
}

// String is the ValueMatch as it is written.
func (m ValueMatch) String() string {
	switch m.Kind {
	case ValuePresent:
		return "*"
	case ValuePrefix:
		return m.Value + "*"
	case ValueSuffix:
		return "*" + m.Value
	}
	return m.Value
}
