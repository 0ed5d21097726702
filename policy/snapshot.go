// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/authz"
)

// PolicyID numbers a policy within the kernel's tables. 0 is no policy.
type PolicyID uint32

// DefaultPolicy is the policy that every workload has which no more specific
// rule gives another one.
const DefaultPolicy PolicyID = 1

// UnknownWorkload is the policy of workloads of which nothing is known yet, such as a pod
// that the API has not told of. No snapshot has it: it allows nothing.
const UnknownWorkload PolicyID = ^PolicyID(0) - 1

// Host is one allowed host pattern of a policy with everything it opens.
type Host struct {
	Pattern hostname.Pattern
	// Rule is the first service that declares the host.
	Rule *Ref
	// Ports are what the host may be reached on, by number; one host may be
	// declared by several services.
	Ports []*HostPort
	// Own says that egressd answers DNS queries for the host itself, with
	// Answers (STATIC endpoints, or the addresses of the ServiceEntry).
	Own     bool
	Answers []netip.Addr
	// AllowPrivate: private answers are good although a wildcard matched.
	AllowPrivate bool
	// Literal holds the addresses that the ServiceEntry itself names; they
	// are good whatever range they are in.
	Literal []netip.Prefix
	// services declare the host, in order of precedence; rules are what they
	// say about addresses.
	services []*Service
	rules    []addressRule
	// guarded says that AuthorizationPolicies guard one of Ports.
	guarded bool
	sum     digest
}

// Port returns the port rule for a transport and number, or nil.
func (h *Host) Port(t Transport, number uint16) *HostPort {
	for _, p := range h.Ports {
		if p.Number == number && p.Protocol.Transport() == t {
			return p
		}
	}
	return nil
}

// HostPort is one port of a Host.
type HostPort struct {
	Number   uint16
	Protocol Protocol
	// Verdict is what happens to flows that dial an address of the host; see Way.
	Verdict Verdict
	Rule    *Ref
	// Upstream is where connections go when no HTTP rule says otherwise.
	Upstream *Upstream
	host     *Host
	// routed says that rules for TLS or TCP choose where connections go; ruled
	// that they alone open the port, and what none matches is denied.
	routed, ruled bool
	// authorizer is what AuthorizationPolicies say about the port; nil: nothing.
	authorizer *authz.Authorizer
	// sniVerdict is what the kernel does where the ClientHello must carry a name:
	// Inspect, unless other names pass as well.
	sniVerdict Verdict
	// learned is what happens at learned addresses, IPv6 and IPv4.
	learned [2]Way
}

// Upstream is a destination that the forwarding core can dial: a host and
// port, with fixed endpoints or a name to resolve.
//
// Resolution says what the address is taken from. With ResolutionNone there
// are no Endpoints and no Names: the address that the workload dialled is
// used, on TargetPort, but only if it was learned for Host or lies in
// Match.Literal. With any other resolution it is Endpoints and Names; when
// both are empty there is nothing to dial, and the connection fails.
type Upstream struct {
	// Host is the service's host; for a wildcard it is the pattern, and the
	// request's own name is dialled (WithName).
	Host string
	// Port is the service port (host order); endpoints may have others.
	Port     uint16
	Protocol Protocol
	// Resolution is that of the service; Kubernetes Services are STATIC.
	Resolution Resolution
	// TargetPort is the port that resolved and dialled addresses are dialled
	// on; it is Port when the service says nothing else.
	TargetPort uint16
	// Endpoints are fixed endpoints; their Weight is at least 1.
	Endpoints []UpstreamEndpoint
	// Names are the names to resolve (DNS): the host, or the endpoints' names.
	Names []UpstreamName
	// Match is the host whose address rules apply to resolved addresses; nil
	// for Kubernetes Services.
	Match *Host
	Rule  *Ref
	// Subset is the part of the service's endpoints that these are; "": all.
	Subset string
	// Traffic is what DestinationRules say for the port and the subset, Ports
	// resolved; nil: nothing. TrafficRule is the one that says so.
	Traffic     *TrafficPolicy
	TrafficRule *Ref
	// Failover are the labels by whose values the endpoints have their priority, in
	// the order of their weight; nil: there are none.
	Failover []FailoverLabel
	// ServerName is the name that TLS is originated for where its rule has no SNI:
	// a request's host, which the forwarding core fills in; "": Host.
	ServerName string
	// transport is Traffic's.
	transport string
	// sans are whom certificates are for where no DestinationRule says it.
	sans []string
	// labels are those of Endpoints, nameLabels those of Names; Names without
	// any are not from endpoints.
	labels, nameLabels []map[string]string
	// empty: no endpoint has the labels of the subset.
	empty bool
	// refused is an endpoint that is left out because the node's operator has
	// not allowed it; "": there is none.
	refused string
	// virtual: the service has addresses of its own that are not where it is.
	virtual bool
}

// FailoverLabel is a label of a failoverPriority, and the value that an endpoint is
// compared with.
type FailoverLabel struct {
	Name, Value string
	// Fixed: the rule says the value, else it is the workload's own.
	Fixed bool
}

// UpstreamEndpoint is a fixed endpoint: an address, or a socket in the file
// system. An upstream has endpoints of one kind only.
type UpstreamEndpoint struct {
	Addr   netip.AddrPort // invalid when Unix is set
	Weight uint32
	Unix   string // the path of a socket, or "@name" of an abstract one
	// Locality is where it is: "region/zone/subzone", as far as it is known.
	Locality string
}

// UpstreamName is a name to resolve and the port to dial. Its weight is that of
// all its addresses together.
type UpstreamName struct {
	Name   string
	Port   uint16
	Weight uint32 // 1 or more
	// Locality is where its addresses are, as of an endpoint.
	Locality string
}

// WithName returns an Upstream that stands for name where u stands for a
// wildcard: name is its Host and, unless the service has endpoints or leaves
// the address to the workload, the name to resolve. Upstreams that are not
// wildcards are returned as they are, and so is nil.
func (u *Upstream) WithName(name string) *Upstream {
	if u == nil || len(u.Host) == 0 || u.Host[0] != '*' || len(u.Endpoints) > 0 || len(u.Names) > 0 {
		return u
	}
	w := *u
	w.Host = name
	if u.Resolution == ResolutionDNS || u.Resolution == ResolutionDNSRoundRobin || u.Resolution == ResolutionDynamicDNS {
		w.Names = []UpstreamName{{Name: name, Port: u.TargetPort, Weight: 1}}
	}
	return &w
}

// Opening is one entry of the kernel's verdict tables: an address or prefix
// with a port and transport, and what happens to flows to it.
type Opening struct {
	Prefix    netip.Prefix
	Port      uint16 // host order
	Transport Transport
	Verdict   Verdict
	// To is where flows with the verdicts Direct and Inspect go.
	To Endpoints
	// Name is set with Inspect: the name that the address proves on the port.
	// Several names are several openings.
	Name string
}

// Flow is a connection or datagram as far as it is known when it is decided.
type Flow struct {
	Transport Transport
	Dst       netip.AddrPort
	// Names are the names that Dst's address was learned for, in this policy.
	Names []string
	// Host is the name that the flow itself carried, "" when none was seen.
	Host string
	// HostFrom says where Host was read.
	HostFrom Evidence
	// Draw is a uniformly distributed number, by which rules for TLS and TCP
	// choose among weighted destinations.
	Draw uint64
	// Src is the address that the connection comes from; invalid when it is
	// not known.
	Src netip.Addr
	// Trace takes what the decision meets on its way; nil: nobody asks.
	Trace *Trace
}

// Evidence says where a flow's name comes from.
type Evidence uint8

// The kinds of evidence.
const (
	EvidenceNone Evidence = iota
	EvidenceSNI
	EvidenceHTTP
)

func (e Evidence) String() string {
	switch e {
	case EvidenceSNI:
		return "sni"
	case EvidenceHTTP:
		return "host"
	}
	return ""
}

// Decision is the answer for a flow, with its reason.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	// To is where flows with the verdicts Direct and Inspect go.
	To Endpoints
	// WouldDeny says that the policy denies for Reason, and that the flow is
	// let pass because the workload's mode is Audit. Decide never sets it.
	WouldDeny bool
	// Rule is the rule that allowed, or on a denial the nearest one; may be nil.
	Rule *Ref
	// Host and Port are what the flow is allowed as; both are nil on a denial,
	// and when it is allowed because no rule names its destination.
	Host *Host
	Port *HostPort
	// Audited is the AUDIT policy that matched, DryRun the AuthorizationPolicy
	// that would deny the flow if it were not dry-run only; nil for none.
	Audited, DryRun *Ref
	// Through is the last Gateway that a connection goes on through, when rules for TLS
	// or TCP send it; nil: none. Requests have HTTPDecision.Via.
	Through *GatewayListener
}
