// SPDX-License-Identifier: Apache-2.0

// Package policy is the policy engine: it compiles validated configuration
// into an immutable Snapshot and decides flows and HTTP requests from it.
//
// The package is pure: no I/O, no clock, no randomness, no goroutines. What
// changes at run time (learned addresses, percentages, the clock) comes in
// through arguments. YAML and Istio types live in policy/istio, which
// translates them into those of policy/config; they have aliases here. Which
// file stands on which is in internal/house/stages.go.
package policy

import "fmt"

// Verdict is what the kernel does with a flow. The numbers are shared with
// the kernel programs (enum egd_verdict in bpf/egressd.h); a test in loader
// keeps the two equal.
type Verdict uint8

// The four verdicts. The zero value denies, so that forgetting to decide is
// a denial.
const (
	// Deny refuses the flow with an errno and an event.
	Deny Verdict = iota
	// Direct lets the flow go straight to its destination: address and port decide.
	Direct
	// Inspect lets the flow go straight, after the kernel read an allowed SNI in its first data.
	Inspect
	// Proxy redirects the flow to the forwarding core.
	Proxy
)

var verdictNames = [...]string{"deny", "direct", "inspect", "proxy"}

func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "deny"
}

// MarshalText writes the verdict's name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (v *Verdict) UnmarshalText(text []byte) error {
	for i, name := range verdictNames {
		if name == string(text) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("unknown verdict %q", text)
}

// Reason names why a decision was made. The strings are stable: they appear
// in events, metrics and machine-readable output.
type Reason string

// Reasons of decisions, by the layer that finds them.
const (
	// ReasonAllowed: a rule allows the flow.
	ReasonAllowed Reason = "allowed"

	// ReasonNoRule: no rule allows this address and port and no name is known for the address.
	ReasonNoRule Reason = "no-rule"
	// ReasonPort: the name or address is allowed, but not on this port.
	ReasonPort Reason = "port-not-allowed"
	// ReasonTransport: the name or address is allowed on this port, but with another transport.
	ReasonTransport Reason = "transport-not-allowed"
	// ReasonSocketType: raw, ping, SCTP and other sockets that no rule can allow.
	ReasonSocketType Reason = "socket-type"
	// ReasonNetns: the socket is in another network namespace, from which no listener of egressd can be reached.
	ReasonNetns Reason = "foreign-netns"
	// ReasonOwnPort: a workload dialled one of egressd's own listeners.
	ReasonOwnPort Reason = "own-port"
	// ReasonMapFull: a kernel table had no room for the flow.
	ReasonMapFull Reason = "map-full"
	// ReasonQuota: the workload, interface or policy has used up its share of a table that all use.
	ReasonQuota Reason = "quota"
	// ReasonGroup: the multicast group is in no rule; joining it would announce the group, and data with it, on the link.
	ReasonGroup Reason = "multicast-group"
	// ReasonSource: the source address and port is in use in another network namespace.
	ReasonSource Reason = "foreign-source"
	// ReasonMartian: a packet for loopback that leaves by another device, or one over loopback with a foreign source (RFC 1812 section 5.3.7).
	ReasonMartian Reason = "martian"
	// ReasonDevice: the socket is bound to a network device that egressd has no listener on, so what must be proxied cannot be redirected.
	ReasonDevice Reason = "bound-to-device"
	// ReasonOptions: a source route or another IP option or extension header.
	ReasonOptions Reason = "ip-options"
	// ReasonNoWorkload: the kernel could not tell which workload the socket belongs to.
	ReasonNoWorkload Reason = "no-workload"
	// ReasonUnknownWorkload: no Workload describes the pod yet, or no runtime has said what the container is, so that nothing is known of what it may reach; the kernel counts it as no-rule.
	ReasonUnknownWorkload Reason = "workload-unknown"
	// ReasonNoConfig: the kernel programs found no configuration.
	ReasonNoConfig Reason = "no-config"
	// ReasonNoEndpoint: the kernel's tables do not have the endpoint that was drawn for the address.
	ReasonNoEndpoint Reason = "no-endpoint"
	// ReasonStorage: the kernel had no memory for what must be kept about the socket.
	ReasonStorage Reason = "no-socket-storage"

	// ReasonEthertype: a frame that is not IP, or has a VLAN tag.
	ReasonEthertype Reason = "not-ip"
	// ReasonFragment: a fragment, whose ports or first bytes are elsewhere.
	ReasonFragment Reason = "fragment"
	// ReasonNoState: a packet from the middle of a connection whose beginning egressd did not see, where the address alone does not decide.
	ReasonNoState Reason = "no-connection"
	// ReasonFrame: a frame that went past the IP stack (AF_PACKET).
	ReasonFrame Reason = "raw-frame"
	// ReasonSequence: a segment that does not fit those before it.
	ReasonSequence Reason = "out-of-sequence"
	// ReasonNoListener: no daemon listens for the flow, which must pass the proxy.
	ReasonNoListener Reason = "no-listener"

	// ReasonNoOrigin: a connection reached a listener without a recorded original destination.
	ReasonNoOrigin Reason = "no-original-destination"
	// ReasonName: the SNI, Host or queried name is not allowed for the workload.
	ReasonName Reason = "name-not-allowed"
	// ReasonQueryType: the queried name is allowed, but not with this DNS record type.
	ReasonQueryType Reason = "query-type-not-allowed"
	// ReasonNoName: a TLS or HTTP flow carried no name.
	ReasonNoName Reason = "no-name"
	// ReasonNotTLS: the first bytes on a TLS port are not a ClientHello.
	ReasonNotTLS Reason = "not-tls"
	// ReasonNotHTTP: the first bytes on an HTTP port are not HTTP.
	ReasonNotHTTP Reason = "not-http"
	// ReasonMalformed: a ClientHello, DNS message or HTTP request that cannot be parsed.
	ReasonMalformed Reason = "malformed"
	// ReasonFlood: a client sent more HTTP/2 frames that say nothing than its requests account for.
	ReasonFlood Reason = "flood"
	// ReasonPeekTimeout: the first bytes, or the head of a request, did not arrive in time.
	ReasonPeekTimeout Reason = "peek-timeout"
	// ReasonAddress: the address is reserved (loopback, link-local, metadata, ...), and no DNS answer may name it.
	ReasonAddress Reason = "address-not-allowed"
	// ReasonEndpoint: the endpoint is the node's own or node-local, and the node's operator has not allowed it.
	ReasonEndpoint Reason = "endpoint-not-allowed"
	// ReasonPolicyChanged: a connection was open and a newer policy denies it.
	ReasonPolicyChanged Reason = "policy-changed"

	// ReasonAuthorization: an AuthorizationPolicy denies the flow.
	ReasonAuthorization Reason = "authorization-denied"
	// ReasonNoAllow: AuthorizationPolicies guard the destination, and none of them allows the flow.
	ReasonNoAllow Reason = "authorization-no-allow"
	// ReasonNotSupported: a DestinationRule asks for something that egressd does not support.
	ReasonNotSupported Reason = "not-supported"

	// ReasonNoRoute: the host is allowed, but no HTTP rule matches the request.
	ReasonNoRoute Reason = "no-route"
	// ReasonGateway: a rule leads to a Gateway that has no server for the port and protocol.
	ReasonGateway Reason = "gateway-mismatch"
	// ReasonMisdirected: the request's host is not one of the Gateway server that the SNI of its connection has chosen.
	ReasonMisdirected Reason = "misdirected"
	// ReasonCertificate: the Gateway server that the SNI has chosen has no certificate that can be used.
	ReasonCertificate Reason = "no-certificate"
	// ReasonHandshake: a visitor and the Gateway server had no TLS handshake: no version, cipher or protocol that both have, or it was not completed.
	ReasonHandshake Reason = "tls-handshake"
	// ReasonClientCertificate: a visitor has no client certificate that the Gateway server accepts.
	ReasonClientCertificate Reason = "client-certificate"
	// ReasonProxyProtocol: the connection to a Gateway does not begin with the PROXY protocol header that it must have.
	ReasonProxyProtocol Reason = "proxy-protocol"
	// ReasonGatewayLoop: rules lead from Gateway to Gateway more than twice.
	ReasonGatewayLoop Reason = "gateway-loop"
	// ReasonNoDestination: the rule leads to a destination that nobody declares.
	ReasonNoDestination Reason = "no-destination"
	// ReasonUpstream: the upstream could not be reached.
	ReasonUpstream Reason = "upstream-unreachable"
	// ReasonTLSVerify: the upstream's certificate is not of the name, or not of a CA, that a DestinationRule asks for, or it is expired or revoked.
	ReasonTLSVerify Reason = "upstream-tls-verify"
	// ReasonTLSHandshake: no TLS could be agreed on with the upstream: it speaks something else, or ended the connection.
	ReasonTLSHandshake Reason = "upstream-tls-handshake"
	// ReasonTLSRejected: the upstream refused TLS with an alert, as for a client certificate that it misses or does not trust.
	ReasonTLSRejected Reason = "upstream-tls-rejected"
	// ReasonTLSCredential: a certificate, key, CA or CRL that a DestinationRule names cannot be used.
	ReasonTLSCredential Reason = "upstream-tls-credential"
	// ReasonTunnel: the proxy that a DestinationRule's tunnel leads through refused it.
	ReasonTunnel Reason = "upstream-tunnel"
	// ReasonCredential: a value that a VirtualService takes from a Secret or a file cannot be had, or may not be sent that way.
	ReasonCredential Reason = "credential-unavailable"
	// ReasonOverflow: a limit of a DestinationRule's connectionPool has no room for the request or connection.
	ReasonOverflow Reason = "upstream-overflow"
	// ReasonUnhealthy: outlier detection, or the locality of endpoints, leaves no endpoint to use.
	ReasonUnhealthy Reason = "no-healthy-upstream"
	// ReasonUpstreamClosed: the upstream ended the connection before its answer was complete.
	ReasonUpstreamClosed Reason = "upstream-closed"
	// ReasonUpstreamReset: the upstream reset the HTTP/2 stream before its answer was complete.
	ReasonUpstreamReset Reason = "upstream-reset"
	// ReasonUpstreamProtocol: the upstream's answer is not HTTP, or not an answer to the request.
	ReasonUpstreamProtocol Reason = "upstream-protocol"
	// ReasonResolve: the upstream's name could not be resolved.
	ReasonResolve Reason = "upstream-unresolved"
	// ReasonTimeout: the route's timeout ended the request.
	ReasonTimeout Reason = "upstream-timeout"
	// ReasonStreamIdle: nothing moved for too long on a request or connection.
	ReasonStreamIdle Reason = "stream-idle"
	// ReasonStreamDuration: a request was under way for longer than --max-stream-duration allows, however much moved.
	ReasonStreamDuration Reason = "stream-duration"
	// ReasonClientGone: the client ended the request before it had all of the answer.
	ReasonClientGone Reason = "client-gone"
	// ReasonFault: a fault rule aborted the request.
	ReasonFault Reason = "fault-injected"
	// ReasonLoop: a DNS server would have to ask itself.
	ReasonLoop Reason = "dns-loop"
	// ReasonOverload: a bound on connections or queries was reached.
	ReasonOverload Reason = "overload"
)

// Reasons are all of them, in the order above.
func Reasons() []Reason {
	return []Reason{
		ReasonAllowed, ReasonNoRule, ReasonPort, ReasonTransport, ReasonSocketType, ReasonNetns, ReasonOwnPort,
		ReasonMapFull, ReasonQuota, ReasonGroup, ReasonSource, ReasonMartian, ReasonDevice, ReasonOptions,
		ReasonNoWorkload, ReasonUnknownWorkload, ReasonNoConfig, ReasonNoEndpoint, ReasonStorage, ReasonEthertype,
		ReasonFragment, ReasonNoState, ReasonFrame, ReasonSequence, ReasonNoListener, ReasonNoOrigin, ReasonName,
		ReasonQueryType, ReasonNoName, ReasonNotTLS, ReasonNotHTTP, ReasonMalformed, ReasonFlood, ReasonPeekTimeout,
		ReasonAddress, ReasonEndpoint, ReasonPolicyChanged, ReasonAuthorization, ReasonNoAllow, ReasonNotSupported,
		ReasonNoRoute, ReasonGateway, ReasonMisdirected, ReasonCertificate, ReasonHandshake, ReasonClientCertificate,
		ReasonProxyProtocol, ReasonGatewayLoop, ReasonNoDestination, ReasonUpstream, ReasonTLSVerify,
		ReasonTLSHandshake, ReasonTLSRejected, ReasonTLSCredential, ReasonTunnel, ReasonCredential, ReasonOverflow,
		ReasonUnhealthy, ReasonUpstreamClosed, ReasonUpstreamReset, ReasonUpstreamProtocol, ReasonResolve,
		ReasonTimeout, ReasonStreamIdle, ReasonStreamDuration, ReasonClientGone, ReasonFault, ReasonLoop,
		ReasonOverload,
	}
}
