// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

// The response flags that events have, as Envoy's access log has them
// (%RESPONSE_FLAGS%, envoyproxy.io, "Access logging"): why an answer is not the
// upstream's, or what was done to it.
const (
	FlagNoHealthyUpstream   = "UH"  // no endpoint to send it to
	FlagUpstreamTimeout     = "UT"  // the timeout of the rule or of one attempt
	FlagLocalReset          = "LR"  // ended from here
	FlagUpstreamReset       = "UR"  // the upstream reset the stream
	FlagConnectionFailure   = "UF"  // no connection to the upstream
	FlagUpstreamTermination = "UC"  // the upstream ended the connection
	FlagOverflow            = "UO"  // a limit of the upstream's connection pool
	FlagNoRoute             = "NR"  // no rule matches
	FlagDelayInjected       = "DI"  // a fault's delay
	FlagFaultInjected       = "FI"  // a fault's abort
	FlagClientTermination   = "DC"  // the client went away
	FlagRetryLimit          = "URX" // the last of the retries failed as well, or of the attempts to connect
	FlagStreamIdle          = "SI"  // nothing moved for too long
	FlagClientProtocol      = "DPE" // the request is no HTTP
	FlagUpstreamProtocol    = "UPE" // the answer is no HTTP
	FlagNoCluster           = "NC"  // nobody declares the destination
	FlagOverload            = "OM"  // a limit of egressd's own
	FlagMaxDuration         = "DT"  // maxConnectionDuration, or --max-stream-duration
	flagOrder               = "UH UT LR UR UF UC UO NR DI FI DC URX SI DPE DT UPE NC OM"
)

// flags are those that a reason stands for; others have none.
var flags = map[policy.Reason]string{
	policy.ReasonNoRoute:          FlagNoRoute,
	policy.ReasonGateway:          FlagNoRoute,
	policy.ReasonMisdirected:      FlagNoRoute,
	policy.ReasonResolve:          FlagNoHealthyUpstream,
	policy.ReasonUnhealthy:        FlagNoHealthyUpstream,
	policy.ReasonOverflow:         FlagOverflow,
	policy.ReasonUpstream:         FlagConnectionFailure,
	policy.ReasonTLSVerify:        FlagConnectionFailure,
	policy.ReasonTLSHandshake:     FlagConnectionFailure,
	policy.ReasonTLSRejected:      FlagConnectionFailure,
	policy.ReasonTLSCredential:    FlagConnectionFailure,
	policy.ReasonTunnel:           FlagConnectionFailure,
	policy.ReasonCredential:       FlagConnectionFailure,
	policy.ReasonUpstreamClosed:   FlagUpstreamTermination,
	policy.ReasonUpstreamReset:    FlagUpstreamReset,
	policy.ReasonUpstreamProtocol: FlagUpstreamProtocol,
	policy.ReasonNoDestination:    FlagNoCluster,
	policy.ReasonTimeout:          FlagUpstreamTimeout,
	policy.ReasonStreamIdle:       FlagStreamIdle,
	policy.ReasonStreamDuration:   FlagMaxDuration,
	policy.ReasonFault:            FlagFaultInjected,
	policy.ReasonClientGone:       FlagClientTermination,
	policy.ReasonPolicyChanged:    FlagLocalReset,
	policy.ReasonMalformed:        FlagClientProtocol,
	policy.ReasonFlood:            FlagClientProtocol,
	policy.ReasonOverload:         FlagOverload,
	policy.ReasonQuota:            FlagOverload,
}

// unread are those of connections that nobody reads requests of: where a mesh
// lets nothing out, they go to a cluster without endpoints.
var unread = map[policy.Reason]string{
	policy.ReasonNoRule:    FlagNoHealthyUpstream,
	policy.ReasonPort:      FlagNoHealthyUpstream,
	policy.ReasonName:      FlagNoHealthyUpstream,
	policy.ReasonNoName:    FlagNoHealthyUpstream,
	policy.ReasonAddress:   FlagNoHealthyUpstream,
	policy.ReasonEndpoint:  FlagNoHealthyUpstream,
	policy.ReasonTransport: FlagNoHealthyUpstream,
	// The kernel has no policy that says where such a workload may go.
	policy.ReasonUnknownWorkload: FlagNoHealthyUpstream,
	policy.ReasonNoWorkload:      FlagNoHealthyUpstream,
	policy.ReasonMalformed:       "",
	// Every address was tried.
	policy.ReasonUpstream: FlagConnectionFailure + "," + FlagRetryLimit,
}

// Flag gives e the flags of its reason beside those that it has, in Envoy's order.
// Answers of DNS have none, nor what audit mode let pass: its reason is that of a denial
// which did not happen.
func (e *Event) Flag() {
	if e.Reason == policy.ReasonAllowed || e.Layer == DNS || e.WouldDeny {
		return
	}
	of, ok := "", false
	if e.Kind == Decision || e.Kind == Close {
		of, ok = unread[e.Reason]
	}
	if !ok {
		of = flags[e.Reason]
	}
	if of == "" {
		return
	}
	if e.ResponseFlags == "" {
		e.ResponseFlags = of
		return
	}
	all := strings.Split(e.ResponseFlags+","+of, ",")
	order := strings.Fields(flagOrder)
	slices.SortFunc(all, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	e.ResponseFlags = strings.Join(slices.Compact(all), ",")
}

// FlagSink is a Sink that gives events their flags, and them to another.
type FlagSink struct{ Sink }

// Record implements Sink.
func (s FlagSink) Record(e *Event) {
	e.Flag()
	s.Sink.Record(e)
}
