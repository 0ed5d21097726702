// SPDX-License-Identifier: Apache-2.0

// Package config is what YAML becomes before it is compiled: plain data, with
// names made absolute and defaults filled in. What it has of methods says what
// an object is or writes it for people; who may reach what is for package
// policy to decide.
package config

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/egressd/egressd/internal/hostname"
)

// Ref says which object a rule came from, and where it is written. Line and
// Column count from 1; 0 means unknown.
type Ref struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Column    int    `json:"column,omitempty"`
}

// Position is "file:line:column" as far as it is known.
func (r Ref) Position() string {
	s := r.File
	if r.Line > 0 {
		s += ":" + strconv.Itoa(r.Line)
		if r.Column > 0 {
			s += ":" + strconv.Itoa(r.Column)
		}
	}
	return s
}

// Object is "Kind namespace/name".
func (r Ref) Object() string { return r.Kind + " " + r.Namespace + "/" + r.Name }

// String is "Kind namespace/name file:line:column".
func (r Ref) String() string {
	s := r.Object()
	if p := r.Position(); p != "" {
		s += " " + p
	}
	return s
}

// Protocol is the application protocol of a port, as Istio names them
// (istio.io/api networking/v1alpha3 Port.protocol).
type Protocol uint8

// The protocols. HTTPS and TLS are the same thing: opaque TLS told apart by SNI.
const (
	// ProtocolUnset: the port has no protocol; the first bytes decide.
	ProtocolUnset Protocol = iota
	ProtocolHTTP
	ProtocolHTTP2
	ProtocolGRPC
	ProtocolHTTPS
	ProtocolTLS
	ProtocolTCP
	ProtocolUDP
)

var protocolNames = [...]string{"", "HTTP", "HTTP2", "GRPC", "HTTPS", "TLS", "TCP", "UDP"}

// Valid says whether the protocol is one of those above.
func (p Protocol) Valid() bool { return int(p) < len(protocolNames) }

func (p Protocol) String() string {
	if p.Valid() {
		return protocolNames[p]
	}
	return "?"
}

// IsHTTP says whether requests on the port are read as plain-text HTTP.
func (p Protocol) IsHTTP() bool {
	return p == ProtocolHTTP || p == ProtocolHTTP2 || p == ProtocolGRPC
}

// IsTLS says whether the port carries opaque TLS whose SNI is the name.
func (p Protocol) IsTLS() bool { return p == ProtocolHTTPS || p == ProtocolTLS }

// Transport is the port's transport.
func (p Protocol) Transport() Transport {
	if p == ProtocolUDP {
		return UDP
	}
	return TCP
}

// Resolution says where a service's addresses come from
// (istio.io/api networking/v1alpha3 ServiceEntry.Resolution).
type Resolution uint8

// The resolutions.
const (
	// ResolutionNone: the address the workload chose, if it was learned for the name.
	ResolutionNone Resolution = iota
	// ResolutionStatic: the endpoints' addresses.
	ResolutionStatic
	// ResolutionDNS: all answers for the host (or for each endpoint's name).
	ResolutionDNS
	// ResolutionDNSRoundRobin: the first answer for new connections.
	ResolutionDNSRoundRobin
	// ResolutionDynamicDNS: the name that the request carries, resolved at the time of the request.
	ResolutionDynamicDNS
)

var resolutionNames = [...]string{"NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"}

// Valid says whether the resolution is one of those above.
func (r Resolution) Valid() bool { return int(r) < len(resolutionNames) }

func (r Resolution) String() string {
	if r.Valid() {
		return resolutionNames[r]
	}
	return "?"
}

// Config is everything that Compile needs: validated, defaulted, with names
// made absolute. policy/istio builds it. A compiled Snapshot points into its
// Config, which must not be changed afterwards.
type Config struct {
	// Services are the ServiceEntries and the Kubernetes Services. Of those that
	// declare one host the workload's own namespace comes first, then the
	// oldest (Created), then the first in the list; those of the namespace of
	// the first count, and no others. When two of them open one port
	// differently, the first has its way.
	Services []*Service
	// VirtualServices are in order of age, oldest first. For workloads those of
	// their own namespace come before those of others; see rules.
	VirtualServices []*VirtualService
	Gateways        []*Gateway
	// GatewaySelector holds the labels that this node's gateway carries;
	// Gateways whose selector they satisfy get listeners. Empty: none.
	GatewaySelector map[string]string
	// DestinationRules are in order of precedence, oldest first.
	DestinationRules []*DestinationRule
	Sidecars         []*Sidecar
	Authorizations   []*AuthorizationPolicy
	// Telemetries are for whoever watches, oldest first.
	Telemetries []*Telemetry
	// Workloads are those that are described; every other process has the
	// zero Identity.
	Workloads []*Workload
	Mesh      Mesh
	// Cluster is what lies inside of the node's Kubernetes cluster.
	Cluster Cluster
	// AllowedEndpoints are the node-local places that the node's operator lets
	// services lead to. They are not the configuration's to say.
	AllowedEndpoints []AllowedEndpoint
}

// Service is one destination: a ServiceEntry (External) or a Kubernetes
// Service. Only external ones open anything for workloads; Kubernetes
// Services are destinations of routes.
type Service struct {
	Ref        Ref
	External   bool
	Hosts      []hostname.Pattern
	Addresses  []netip.Prefix
	Ports      []Port
	Resolution Resolution
	Endpoints  []Endpoint
	// AllowPrivate lifts the refusal of private answers for names that only a
	// wildcard matched (annotation egressd.dev/allow-private: "true").
	AllowPrivate bool
	Export       Visibility
	// Created is when the object was made, in seconds since 1970; 0: it does
	// not say, and is taken to be younger than all that do.
	Created int64
	// SubjectAltNames are whom TLS that egressd originates must lead to,
	// unless a DestinationRule says so.
	SubjectAltNames []string
	// ClusterIPs are the addresses of a Kubernetes Service; none: it is headless
	// or an ExternalName.
	ClusterIPs []netip.Addr
	// Selector holds the selector of a Kubernetes Service.
	Selector map[string]string
	// Derived is set on services that a compiler makes of a configuration, which
	// itself has none.
	Derived *Derived
}

// Names are the hosts of a Kubernetes Service, and the name that is short of
// the cluster's domain.
func (s *Service) Names() []hostname.Pattern {
	return append(slices.Clone(s.Hosts), hostname.Pattern(s.Ref.Name+"."+s.Ref.Namespace+".svc"))
}

// Derived says what a service is made of.
type Derived struct {
	// Of is the service that this is a part of; nil: it is a part of none.
	Of *Service
	// ByRules: no ServiceEntry but rules for TLS declare the hosts.
	ByRules bool
}

// Port is one port of a Service. TargetPort 0 means Number.
type Port struct {
	Number     uint16
	TargetPort uint16
	Name       string
	Protocol   Protocol
}

// Endpoint is one address (or, with DNS resolution, one name) of a Service.
type Endpoint struct {
	Addr   netip.Addr // invalid when Host or Unix is set
	Host   string     // a name to resolve
	Unix   string     // the path of a socket, or "@name" of an abstract one
	Ports  map[string]uint16
	Weight uint32 // 0 counts as 1
	Labels map[string]string
	// Locality is "region/zone/subzone", as far as it is known.
	Locality string
}

// MeshGateway stands among the gateways of rules for the workloads themselves.
const MeshGateway = "mesh"

// VirtualService holds the rules for hosts. What it delegates is in it.
type VirtualService struct {
	Ref   Ref
	Hosts []hostname.Pattern
	// Gateways are MeshGateway or keys of Gateways (Gateway.Key); never empty.
	Gateways []string
	// Ports are those that the HTTP rules for workloads act on; requests on
	// others are forwarded as if there were no rules. None: all ports.
	Ports  []uint16
	Export Visibility
	HTTP   []*HTTPRule
	TLS    []*TLSRule
	TCP    []*TCPRule
}

// Destinations are those of the routes of all rules: http, then tls, then tcp.
func (vs *VirtualService) Destinations() (out []*WeightedDestination) {
	for _, r := range vs.HTTP {
		out = append(out, r.Route...)
	}
	for _, r := range vs.TLS {
		out = append(out, r.Route...)
	}
	for _, r := range vs.TCP {
		out = append(out, r.Route...)
	}
	return out
}

// LedTo are the hosts of Destinations, and of the mirrors.
func (vs *VirtualService) LedTo() (out []string) {
	for _, d := range vs.Destinations() {
		out = append(out, d.Destination.Host)
	}
	for _, r := range vs.HTTP {
		for i := range r.Mirrors {
			out = append(out, r.Mirrors[i].Destination.Host)
		}
	}
	return out
}

// HTTPRule is one entry of VirtualService.http: what to match and what to do.
// Exactly one of Route, Redirect and DirectResponse is set.
type HTTPRule struct {
	Ref            Ref
	Name           string
	Matches        []*HTTPMatch // OR; empty matches everything
	Route          []*WeightedDestination
	Redirect       *Redirect
	DirectResponse *DirectResponse
	Rewrite        *Rewrite
	Timeout        time.Duration // 0: none
	Retries        *Retries      // nil: the safe default
	Fault          *Fault
	Headers        *Headers
	Credentials    []HeaderCredential
	Mirrors        []Mirror
	CORS           *CORS
	// UnknownStatus answers requests that the rule sends to a destination
	// which nobody declares; 0: 503, as Istio's VirtualServices.
	UnknownStatus int
}

// StringMatch is Istio's StringMatch. Regex is RE2 and matches the whole value.
type StringMatch struct {
	Kind  MatchKind
	Value string
}

// MatchKind is the kind of a StringMatch.
type MatchKind uint8

// The kinds of StringMatch.
const (
	// MatchPresent: an empty StringMatch: the thing is there, with any value.
	MatchPresent MatchKind = iota
	MatchExact
	MatchPrefix
	MatchRegex
	// MatchPathPrefix is a prefix of whole segments of a path (Gateway API
	// PathPrefix): /a matches /a and /a/b, not /ab. It starts with a slash and
	// ends with one only if it is nothing else.
	MatchPathPrefix
)

// HTTPMatch is Istio's HTTPMatchRequest: all set fields must match.
type HTTPMatch struct {
	Name           string
	URI            *StringMatch
	IgnoreURICase  bool
	Scheme         *StringMatch
	Method         *StringMatch
	Authority      *StringMatch
	Headers        map[string]StringMatch // keys in lower case
	WithoutHeaders map[string]StringMatch // keys in lower case
	QueryParams    map[string]StringMatch
	Port           uint16   // 0: any
	Gateways       []string // overrides VirtualService.Gateways when set
	// SourceLabels and SourceNamespace are about the workload; empty: any.
	SourceLabels    map[string]string
	SourceNamespace string
	StatPrefix      string
}

// WeightedDestination is one destination of a route. Its share is its weight
// by the sum of the weights; a single destination takes all.
type WeightedDestination struct {
	Destination Destination
	Weight      uint32
	Headers     *Headers
}

// Destination names a service host (absolute) and a port; Port 0 means the
// service's only port, else the port that the request came in on.
type Destination struct {
	Host   string
	Port   uint16
	Subset string // of a DestinationRule; "": all endpoints
}

// Redirect answers with a 3xx (Istio HTTPRedirect).
type Redirect struct {
	URI           string // replaces the whole path
	PrefixRewrite string // replaces the matched prefix
	Authority     string
	Port          uint16 // 0: unset
	// DerivePort is "", "FROM_PROTOCOL_DEFAULT" or "FROM_REQUEST_PORT".
	DerivePort string
	Scheme     string
	Code       int // 301 when unset in the source
}

// DirectResponse answers without an upstream.
type DirectResponse struct {
	Status int
	Body   []byte
}

// Rewrite changes the request before it goes upstream.
type Rewrite struct {
	URI          string // replaces the matched prefix or the whole exact path
	Authority    string
	RegexMatch   string // RE2
	RegexRewrite string // with \1
}

// Retries is Istio's HTTPRetry. Attempts 0 disables retries.
type Retries struct {
	Attempts      int
	PerTryTimeout time.Duration // 0: the route's timeout
	// On holds Envoy retry_on tokens, in lower case; nil: the safe default.
	On []string
	// Codes are the retriable status codes of On.
	Codes []int
	// Backoff is the base interval; 0: 25 ms.
	Backoff time.Duration
	// AnyHost: another attempt may go to an endpoint that failed
	// (retryIgnorePreviousHosts: false).
	AnyHost bool
	// Remote: after every second attempt the next ones go to endpoints of other
	// priorities than those before (retryRemoteLocalities).
	Remote bool
}

// Fault is Istio's HTTPFaultInjection. Percentages are 0 to 100; one that is
// left out in the source is 0, which injects nothing.
type Fault struct {
	Delay        time.Duration
	DelayPercent float64
	// AbortStatus is an HTTP status, 0: none. AbortGRPC is a gRPC status code
	// with HTTP 200, -1: none.
	AbortStatus  int
	AbortGRPC    int
	AbortPercent float64
}

// Headers is Istio's Headers: operations on request and response headers.
type Headers struct {
	Request, Response HeaderOps
}

// HeaderOps are applied in the order remove, set, add.
type HeaderOps struct {
	Set, Add []Header
	Remove   []string
}

// HeaderCredential sets a header of requests that go out by TLS that egressd
// originates. Its value is elsewhere, and is in no configuration.
type HeaderCredential struct {
	Name string
	// Secret is NAMESPACE/NAME and Key one of its keys; or File is a path.
	Secret, Key, File string
	// FromCluster: an object of an API server says so.
	FromCluster bool
}

// Header is one name and value.
type Header struct{ Name, Value string }

// Gateway is an Istio Gateway, or one listener of a Gateway of the Gateway API: what
// attaches to one of its listeners is not for the others.
type Gateway struct {
	Ref      Ref
	Listener string // its name; "" for Istio's
	Selector map[string]string
	Servers  []GatewayServer
	// Topology is where it stands; nil: where the mesh says.
	Topology *Topology
}

// Key is the name by which VirtualServices are bound to the Gateway:
// "namespace/name", and "/listener" behind it.
func (g *Gateway) Key() string {
	key := g.Ref.Namespace + "/" + g.Ref.Name
	if g.Listener != "" {
		key += "/" + g.Listener
	}
	return key
}

// GatewayServer is one listener of a Gateway. Hosts are patterns; a host's
// namespace part ("ns/host") is in HostNamespaces at the same index ("*" any).
type GatewayServer struct {
	Ref  Ref
	Name string
	Port uint16
	Bind netip.Addr // invalid: all addresses
	// Unix is the absolute path of the socket that the server has in the place of an
	// address and port, which are unset then.
	Unix           string
	Protocol       Protocol
	Hosts          []hostname.Pattern
	HostNamespaces []string
	HTTPSRedirect  bool
	TLS            *ServerTLS
}

// Terminates says whether TLS ends at the server.
func (s *GatewayServer) Terminates() bool {
	return s.Protocol.IsTLS() && s.TLS != nil && s.TLS.Mode != ServerPassthrough && s.TLS.Mode != ServerAutoPassthrough
}

// ServesHTTP says whether the server reads requests.
func (s *GatewayServer) ServesHTTP() bool {
	return s.Protocol.IsHTTP() || s.Protocol == ProtocolHTTPS && s.Terminates()
}
