// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// What a policy is compiled from; see package config.
type (
	AllowedEndpoint     = config.AllowedEndpoint
	AuthAction          = config.AuthAction
	AuthCondition       = config.AuthCondition
	AuthOperation       = config.AuthOperation
	AuthRule            = config.AuthRule
	AuthSource          = config.AuthSource
	AuthTarget          = config.AuthTarget
	AuthorizationPolicy = config.AuthorizationPolicy
	CORS                = config.CORS
	Cluster             = config.Cluster
	CertificateFiles    = config.CertificateFiles
	ClientTLS           = config.ClientTLS
	HeaderCredential    = config.HeaderCredential
	ClientTLSMode       = config.ClientTLSMode
	Config              = config.Config
	ConnectionPool      = config.ConnectionPool
	ConsistentHash      = config.ConsistentHash
	Derived             = config.Derived
	Destination         = config.Destination
	DestinationRule     = config.DestinationRule
	DirectResponse      = config.DirectResponse
	Distribute          = config.Distribute
	Endpoint            = config.Endpoint
	Failover            = config.Failover
	Fault               = config.Fault
	Gateway             = config.Gateway
	GatewayServer       = config.GatewayServer
	HTTPMatch           = config.HTTPMatch
	HTTPRule            = config.HTTPRule
	HashCookie          = config.HashCookie
	Header              = config.Header
	HeaderOps           = config.HeaderOps
	Headers             = config.Headers
	Identity            = config.Identity
	Keepalive           = config.Keepalive
	HTTP2Keepalive      = config.HTTP2Keepalive
	L4Match             = config.L4Match
	LoadBalancer        = config.LoadBalancer
	Locality            = config.Locality
	LocalityWeight      = config.LocalityWeight
	MatchKind           = config.MatchKind
	Mesh                = config.Mesh
	Topology            = config.Topology
	MeshTelemetry       = config.MeshTelemetry
	Mirror              = config.Mirror
	Mode                = config.Mode
	OutboundMode        = config.OutboundMode
	OutlierDetection    = config.OutlierDetection
	PathMatch           = config.PathMatch
	Port                = config.Port
	Protocol            = config.Protocol
	Redirect            = config.Redirect
	Ref                 = config.Ref
	Resolution          = config.Resolution
	Retries             = config.Retries
	RetryBudget         = config.RetryBudget
	Rewrite             = config.Rewrite
	ServerTLS           = config.ServerTLS
	ServerTLSMode       = config.ServerTLSMode
	Service             = config.Service
	Sidecar             = config.Sidecar
	SidecarEgress       = config.SidecarEgress
	SidecarHost         = config.SidecarHost
	StringMatch         = config.StringMatch
	Subset              = config.Subset
	TCPRule             = config.TCPRule
	Telemetry           = config.Telemetry
	TelemetryLog        = config.TelemetryLog
	TelemetryTrace      = config.TelemetryTrace
	TelemetryTag        = config.TelemetryTag
	TelemetryTarget     = config.TelemetryTarget
	LogProvider         = config.LogProvider
	TraceProvider       = config.TraceProvider
	TelemetryMetric     = config.TelemetryMetric
	TLSRule             = config.TLSRule
	TrafficPolicy       = config.TrafficPolicy
	Transport           = config.Transport
	Tunnel              = config.Tunnel
	ValueKind           = config.ValueKind
	ValueMatch          = config.ValueMatch
	VirtualService      = config.VirtualService
	Visibility          = config.Visibility
	Warmup              = config.Warmup
	WeightedDestination = config.WeightedDestination
	Workload            = config.Workload
	ContainerSelector   = config.ContainerSelector
)

// The values of the types above; see package config.
const (
	DefaultRootNamespace = config.DefaultRootNamespace
	DefaultClusterDomain = config.DefaultClusterDomain
	AuthAllow            = config.AuthAllow
	AuthDeny             = config.AuthDeny
	AuthAudit            = config.AuthAudit

	ValueExact   = config.ValueExact
	ValuePrefix  = config.ValuePrefix
	ValueSuffix  = config.ValueSuffix
	ValuePresent = config.ValuePresent

	ProtocolUnset = config.ProtocolUnset
	ProtocolHTTP  = config.ProtocolHTTP
	ProtocolHTTP2 = config.ProtocolHTTP2
	ProtocolGRPC  = config.ProtocolGRPC
	ProtocolHTTPS = config.ProtocolHTTPS
	ProtocolTLS   = config.ProtocolTLS
	ProtocolTCP   = config.ProtocolTCP
	ProtocolUDP   = config.ProtocolUDP

	LeastRequest = config.LeastRequest
	RoundRobin   = config.RoundRobin
	Random       = config.Random
	Passthrough  = config.Passthrough

	ResolutionNone          = config.ResolutionNone
	ResolutionStatic        = config.ResolutionStatic
	ResolutionDNS           = config.ResolutionDNS
	ResolutionDNSRoundRobin = config.ResolutionDNSRoundRobin
	ResolutionDynamicDNS    = config.ResolutionDynamicDNS

	MatchPresent    = config.MatchPresent
	MatchExact      = config.MatchExact
	MatchPrefix     = config.MatchPrefix
	MatchRegex      = config.MatchRegex
	MatchPathPrefix = config.MatchPathPrefix

	TLSDisable     = config.TLSDisable
	TLSSimple      = config.TLSSimple
	TLSMutual      = config.TLSMutual
	TLSIstioMutual = config.TLSIstioMutual

	ServerPassthrough     = config.ServerPassthrough
	NoCipherSuite         = config.NoCipherSuite
	ServerSimple          = config.ServerSimple
	ServerMutual          = config.ServerMutual
	ServerAutoPassthrough = config.ServerAutoPassthrough
	ServerIstioMutual     = config.ServerIstioMutual
	ServerOptionalMutual  = config.ServerOptionalMutual

	Enforce = config.Enforce
	Audit   = config.Audit
	Off     = config.Off

	TCP = config.TCP
	UDP = config.UDP

	RegistryOnly = config.RegistryOnly
	AllowAny     = config.AllowAny

	DefaultNamespace = config.DefaultNamespace
)

// Request is what HTTP rules match on: match.Request.
type Request = match.Request

// Visitor is who sent a Request from outside: match.Visitor.
type Visitor = match.Visitor

// ParseCluster is config.ParseCluster.
func ParseCluster(prefixes, domains, servers []string) (c Cluster, find bool, err error) {
	return config.ParseCluster(prefixes, domains, servers)
}

// ParseClusterPrefix is config.ParseClusterPrefix.
func ParseClusterPrefix(s string) (netip.Prefix, error) { return config.ParseClusterPrefix(s) }

// ParseClusterDomain is config.ParseClusterDomain.
func ParseClusterDomain(s string) (string, error) { return config.ParseClusterDomain(s) }

// ParseAllowedEndpoint is config.ParseAllowedEndpoint.
func ParseAllowedEndpoint(s string) (AllowedEndpoint, error) { return config.ParseAllowedEndpoint(s) }
