// SPDX-License-Identifier: Apache-2.0

// Package code has the stable names of findings.
package code

import (
	"slices"
	"strings"

	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// Code is the stable name of a kind of finding, as in EGD0212: what people
// search for and suppress, whatever becomes of the words. A code is never used
// again for something else.
type Code struct {
	Code string
	// Istio is the code of Istio's analyzers for the same; "": they have none.
	Istio string
	// Text is the finding's text as a format of package fmt, by which a finding
	// has its code, or a description where the text is made elsewhere.
	Text string
}

// IsFault says whether what has the code is an error: it has that of a fault,
// or one of those that errors had before there were any.
func (c Code) IsFault() bool {
	return c.Code <= "EGD0005" || c.Code[5:] >= Missing && c.Code[5:] <= Form
}

// Codes of findings whose text does not tell.
const (
	Invalid  = "EGD0001" // all errors that have no other
	NoLabels = "EGD0110"
	Suppress = "EGD0111"
	Server   = "EGD0112" // of a Gateway, that compiling leaves out
	Refused  = "EGD01" + Conflict
	Cgroup   = "EGD0806"
	Clients  = "EGD2006"
)

// Of is the code of a finding by the format of its text.
func Of(s strictyaml.Severity, format string) string {
	if c, ok := byText[format]; ok {
		return c
	}
	if s == strictyaml.Error {
		return Invalid
	}
	return ""
}

var byText = func() map[string]string {
	m := make(map[string]string, len(All))
	for _, c := range All {
		m[c.Text] = c.Code
	}
	return m
}()

// All are all codes, ascending; one has a row for each of its texts. Errors
// have the codes of faults. The first two digits say what a finding is about: 01 objects and YAML, 02
// ServiceEntries, 03 VirtualServices, 04 Gateways and TLS, 05 DestinationRules,
// 06 Sidecars, 07 AuthorizationPolicies, 08 the mesh and Workloads, 09 the
// Gateway API, 10 Kubernetes Services; from 11 on objects that are right by
// themselves and wrong together.
var All = slices.SortedStableFunc(slices.Values(slices.Concat(notes, faults)), func(a, b Code) int { return strings.Compare(a.Code, b.Code) })

// notes are the codes of warnings and notes, and those that errors of all kinds
// of objects have.
var notes = []Code{
	{"EGD0001", "IST0106", "a value that is not valid; the text says what is"},
	{"EGD0002", "IST0106", "invalid YAML: %s"},
	{"EGD0003", "IST0106", "unknown field %q in %s%s"},
	{"EGD0004", "IST0106", "%s: expected %s, got %s%s"},
	{"EGD0005", "", "%s is not supported yet; egressd refuses to run with a rule that it would not enforce"},
	{"EGD0101", "", "%s: %q is read as a number; a cluster refuses it as a string, write it without quotes"},
	{"EGD0102", "", "%s: a bare number is read as seconds; the standard form is %q"},
	{"EGD0103", "", "%s is not acted on yet"},
	{"EGD0104", "", "%s is not done yet: what it applies to is denied (not-supported)"},
	{"EGD0105", "", "%s is not acted on yet: %s"},
	{"EGD0106", "", "%s is not read: it opens nothing and closes nothing here. Write its counterpart: %s"},
	{"EGD0107", "", "kind %s of %s is not read by egressd, skipped"},
	{"EGD0108", "", "neither apiVersion nor kind: not a Kubernetes object, skipped; what opens a host is a ServiceEntry (apiVersion: networking.istio.io/v1)"},
	{"EGD0109", "", "the object is already defined at %s:%d:%d; both are in force here, a cluster keeps the one that was applied last"},
	{"EGD0110", "", "a workload selector without labels"},
	{"EGD0111", "", "annotation %s: %q is no code of a warning"},
	{"EGD0112", "IST0145", "a Gateway's server that is left out"},
	{"EGD0113", "", "kind %s says what is expected of the policy, and is no part of it; \"egressd test\" runs it"},

	{"EGD0201", "", "port %d of %s is opened by ServiceEntry %s/%s (%s) as well, %s, and only the address tells the two apart: the first has its way"},
	{"EGD0202", "", "address is unset with network %q: the endpoint is not used"},
	{"EGD0203", "", "workloadSelector should not be set when resolution mode is %s"},
	{"EGD0204", "", "workloadSelector should not be set when resolution mode is %s: it selects nothing"},
	{"EGD0205", "IST0127", "workloadSelector selects no WorkloadEntry of namespace %s (Pods are not read)"},
	{"EGD0206", "", "there must only be 0 or 1 endpoint for resolution mode DNS_ROUND_ROBIN; of the %d selected the first is used"},
	{"EGD0207", "", "%s is not used: exactly 1 service port required for unix endpoints"},
	{"EGD0208", "", "%s is not used: its address %q is not a valid IP address, which resolution %s needs"},
	{"EGD0209", "", `partial wildcard %q may not work everywhere that Istio objects do; use "*." and a domain`},
	{"EGD0210", "", "host %q is listed twice"},
	{"EGD0211", "", "no ports: the entry opens nothing"},
	{"EGD0212", "IST0134", "addresses are required for ports serving TCP (or unset) protocol: all endpoints are unix sockets, so there is no address to answer queries for the host with"},
	{"EGD0213", "", "service entry can not have more than one host specified simultaneously with address and tcp port"},
	{"EGD0215", "", "location MESH_INTERNAL is treated like MESH_EXTERNAL: egressd adds no mutual TLS"},
	{"EGD0216", "", "address is unset with network %q: the entry leads nowhere here"},

	{"EGD0301", "", "virtual service must have at least one host, unless another delegates to it, and none does: it has no effect"},
	{"EGD0302", "IST0101", "delegate virtual service %s of %s/%s not found: the rule is left out"},
	{"EGD0303", "", "delegate virtual service %s of %s/%s is not exported to %s: the rule is left out"},
	{"EGD0304", "", "the rule is left out of VirtualService %s/%s: it has a match that the delegating rule at %s does not cover"},
	{"EGD0305", "", "large direct_responses may impact control plane performance (it has %d bytes)"},
	{"EGD0306", "", "delay configured, but fixedDelay not set: it injects nothing"},
	{"EGD0307", "IST0002", "percent is deprecated; use percentage.value"},
	{"EGD0308", "", "abort configured, but error type not set: it injects nothing"},
	{"EGD0309", "", "%s without percentage: it injects nothing (0%%)"},
	{"EGD0310", "", "%s: %q is matched as a header of that name; use the field %s of the match"},
	{"EGD0311", "", "sourceSubnet has no effect, as in Istio"},
	{"EGD0312", "", "%s has host bits set; it is read as %s"},
	{"EGD0313", "", "using an IP address (%q) goes against SNI spec and most clients do not support this"},
	{"EGD0314", "IST0002", `using deprecated setting "mirrorPercent", use "mirrorPercentage" instead`},
	{"EGD0315", "IST0130", "the rule is never reached: the rule at line %d matches everything"},
	{"EGD0316", "", "%s stands for the prefix in what is made of HTTPRoutes alone, and is written as it is here; use prefixRewrite"},
	{"EGD0317", "", "%s acts on routes, and does nothing beside a redirect or directResponse"},
	{"EGD0319", "", "retryOn %s never holds: Istio has no field for the headers that it asks for"},
	{"EGD0320", "", "retryOn %s never holds: no request leaves in HTTP/3"},

	{"EGD0401", "", "tls mode ISTIO_MUTUAL is nothing between a workload and an egress gateway, which are one node here; what it applies to elsewhere is denied (not-supported)"},
	{"EGD0402", "", "insecureSkipVerify: whoever answers is believed to be the upstream"},
	{"EGD0403", "IST0101", "Referenced credentialName not found: %q; there is no Secret %s/%s"},
	{"EGD0404", "IST0161", "Secret %s/%s is missing tls.crt and tls.key (or cert and key)"},
	{"EGD0405", "IST0101", "Secret %s/%s is missing ca.crt (or cacert), and there is no Secret %s-cacert with it"},
	{"EGD0406", "IST0161", "%s cannot be used: %s"},
	{"EGD0407", "IST0161", "%s has a certificate that cannot be read: %s"},
	{"EGD0408", "IST0161", "%s has a certificate that expired at %s"},
	{"EGD0409", "IST0161", "%s has a certificate that is not valid before %s"},
	{"EGD0410", "IST0161", "%s has no certificate in PEM form"},
	{"EGD0411", "", "the file %s cannot be read: %s"},
	{"EGD0412", "", "defaultEndpoint has no effect on a Gateway, as in Istio: the routes say where requests go"},
	{"EGD0413", "", "tls.httpsRedirect should only be used with http servers"},
	{"EGD0414", "", `using legacy gatewayName format %q; prefer the <namespace>/<name> format: "%s/%s"`},
	{"EGD0415", "", "%v mode does not use certificates, they will be ignored"},
	{"EGD0416", "", "TLS version below TLSV1_2 require setting compatible ciphers as by default they no longer include compatible ciphers."},
	{"EGD0417", "", "maxProtocolVersion %s is below the minimum: no client could connect"},
	{"EGD0421", "", "unix socket %s: a node listens there if --gateway-socket-dir names a directory that it is in"},
	{"EGD0418", "", "ignoring invalid cipher suites: %v"},
	{"EGD0420", "", "%s: what it applies to is denied (not-supported)"},
	{"EGD0419", "", "ignoring duplicate cipher suites: %v"},
	{"EGD0422", "", "no cipher suite is left of cipherSuites: clients can only connect by TLS 1.3, whose suites cannot be chosen. Write names as in ECDHE-RSA-AES128-GCM-SHA256, or leave out cipherSuites"},
	{"EGD0423", "", "ignoring terms of cipher suites that egressd does not read: %v; it reads names, ALL, [NAME|NAME], -NAME and !NAME"},

	{"EGD0501", "", "portLevelSettings: port %d is listed twice; the first applies"},
	{"EGD0502", "IST0002", "consistent hash MinimumRingSize is deprecated, use ConsistentHashLB's RingHash configuration instead"},
	{"EGD0503", "", "consistentHash says nothing to hash; %s is used"},
	{"EGD0504", "", "outlier detection policy must be provided for failover"},
	{"EGD0505", "IST0002", "outlier detection consecutive errors is deprecated, use consecutiveGatewayErrors or consecutive5xxErrors instead"},
	{"EGD0506", "", "warmup has no effect: it acts with %s and %s only"},

	{"EGD0601", "", "inboundConnectionPool is not acted on: egressd has no part in the way in to a workload"},
	{"EGD0602", "", "bind without a port has no effect"},
	{"EGD0603", "", "captureMode NONE is not acted on: connections are captured whatever it says, and nothing listens for the workload"},
	{"EGD0604", "", "bind is not acted on: nothing listens for the workload; the hosts and the port count"},
	{"EGD0605", "", "a unix socket to listen on is not acted on yet: nothing listens there, and the listener opens nothing"},
	{"EGD0606", "", "duplicated egress host: %s"},
	{"EGD0607", "", "`*/*` host select all resources, no other hosts can be added"},
	{"EGD0608", "", "outboundTrafficPolicy ALLOW_ANY opens every destination to these workloads"},
	{"EGD0609", "", "ingress is not acted on: egressd has no part in the way in to a workload"},

	{"EGD0701", "", "configured AuthorizationPolicy will deny all traffic to TCP ports under its scope due to the use of only HTTP attributes in a DENY rule; it is recommended to explicitly specify the port"},
	{"EGD0702", "", "requestPrincipals: egressd does not look into JSON web tokens, so no request has a principal and the source never matches"},
	{"EGD0703", "", "notRequestPrincipals: egressd does not look into JSON web tokens, so no request has a principal and this always matches"},
	{"EGD0706", "", "%s: only one '*', at the start or the end of %q, stands for other characters"},
	{"EGD0707", "", `%s: principals are written without "spiffe://"; %q matches nobody`},

	{"EGD0801", "", "the ConfigMap is not in the root namespace %s, skipped"},
	{"EGD0802", "", "%s does not act on egressd"},
	{"EGD0803", "", "no outboundTrafficPolicy: Istio's default is ALLOW_ANY, here what no rule names is denied"},
	{"EGD0804", "", "outboundTrafficPolicy %s opens the node: what no rule names is allowed"},
	{"EGD0805", "", "mode off: nothing is decided for these processes, every destination is open to them"},
	{"EGD0806", "", "the %s %s is also described elsewhere"},
	{"EGD0807", "", "%s does not act on egressd: %s"},
	{"EGD0808", "", "there is no provider %q for %s, and what is said of it does nothing; there are %s"},
	{"EGD0809", "", "nothing is known here of %s: %s"},

	{"EGD0901", "", "%s is not acted on: %s"},
	{"EGD0902", "", "kind %s of %s is not known, and not acted on%s"},
	{"EGD0903", "", "egressd does on the node what the waypoint would do for ServiceEntries"},
	{"EGD0904", "", "Gateway is not acted on: %s"},
	{"EGD0905", "", "the route is not acted on for the %s%s: %s"},
	{"EGD0906", "", "no parentRefs: the route is for nothing"},
	{"EGD0907", "IST0101", "there is no ServiceEntry %s: the route is not acted on for it"},
	{"EGD0908", "", "the route is not acted on for the Service %s: egressd acts on what ServiceEntries open"},
	{"EGD0909", "", "the route is not acted on for the %s %s%s"},
	{"EGD0910", "", "%s has no such port: the route is not acted on for it"},
	{"EGD0911", "", "none of the hostnames is a host of %s: the route is not acted on for it"},
	{"EGD0912", "", "headers: %q is listed before, which alone counts (names ignore case)"},
	{"EGD0913", "", "queryParams: %q is listed before, which alone counts"},
	{"EGD0914", "", "no backendRefs: the requests are answered with 500"},
	{"EGD0915", "", "all weights are 0: the requests are answered with 500"},
	{"EGD0916", "", "the match is never used: the rule at %s has the same and comes before it"},
	{"EGD0917", "", "listener %s is not served: %s"},
	{"EGD0918", "", "listener %s of protocol %s has no routes of kind %s"},
	{"EGD0919", "", "Gateway %s serves no such listener: the route is not acted on for it"},
	{"EGD0920", "", "no listener of Gateway %s lets a %s of namespace %s attach (allowedRoutes): the route is not acted on for it"},
	{"EGD0921", "", "no ReferenceGrant of namespace %s lets a %s of namespace %s refer to the Service %s: what would go there is answered with 500"},
	{"EGD0922", "", "the route is not acted on for the ServiceEntry %s: an HTTPRoute, or a VirtualService, can be"},
	{"EGD0923", "", "listener %s has no certificate, and its connections are denied (no-certificate): %s"},
	{"EGD0924", "", "a backend is a Service, or a Hostname of group %s, not kind %q of group %q%s: what would go there is answered with 500"},

	{"EGD1001", "", "there is no Service of this name; the Endpoints are not used"},
	{"EGD1002", "", "there is no Service %q (label %s); the EndpointSlice is not used"},
	{"EGD1003", "", "an ExternalName Service without ports: routes to it are answered with 503; give it the port of %s"},
	{"EGD1004", "", "protocol %s is not acted on; the port is left out"},
	{"EGD1005", "", "the Service is an ExternalName; its endpoints are not used"},

	{"EGD1101", "", "%s (%s) of another namespace declares %s, too, and otherwise: workloads of namespace %s have this one, those of %s and of all other namespaces that one alone, and what is said here of port %d does not count for them"},
	{"EGD1102", "IST0177", "port %d of %s has protocol %s here and %s in %s (%s): conflicting protocols; where both are visible, the first applies"},
	{"EGD1103", "", "%s (%s) already opens port %d of %s and leads it elsewhere; where both are visible, the first applies"},
	{"EGD1104", "", "exportTo %s: there is no object and no workload in that namespace"},
	{"EGD1105", "", `%s is the name of %s (%s): the entry counts for workloads of namespace %s alone, and exportTo: ["."] says so. An entry of namespace %s, or of the root namespace, counts for all`},

	{"EGD1201", "", "%s rules do not apply: no server of the Gateways that the VirtualService is bound to has such a port"},
	{"EGD1202", "IST0109", "VirtualService %s/%s of another namespace already has HTTP rules for the host %s; each counts for workloads of its own namespace, and the oldest that all see for those of others"},
	{"EGD1203", "", "%s already has rules for the host %s, which come before those of HTTPRoutes"},
	{"EGD1204", "IST0109", "VirtualService %s/%s already has HTTP rules for the host %s; of several the oldest that has a rule for the workload and the port applies"},
	{"EGD1205", "IST0101", "no ServiceEntry and no Service declares the host %s: the rules do not apply to anything"},
	{"EGD1206", "", "%s rules do not apply to %s: %s %s"},
	{"EGD1207", "IST0101", "there is no Gateway %s"},
	{"EGD1208", "IST0132", "one or more host %v defined in VirtualService %s not found in Gateway %s"},
	{"EGD1209", "IST0101", `Referenced host+subset in destinationrule not found: "%s+%s"`},
	{"EGD1210", "IST0101", "there is no Service for the destination %s: %s"},
	{"EGD1210", "IST0101", "no ServiceEntry declares the destination %s: %s"},

	{"EGD1301", "IST0130", "virtualService rule %s not used (route without matches defined before)"},
	{"EGD1302", "IST0131", "virtualService rule %s match #%d is not used (duplicate/overlapping match in rule %s)"},
	{"EGD1303", "IST0130", "virtualService rule %s not used (all matches used by prior rules)"},

	{"EGD1401", "", "the destination %s has no port %d for TCP (%s): %s"},
	{"EGD1402", "IST0112", "the destination %s has the ports %v, and none is named: %s when they come in on a port that is not one of them (%v); write the port"},
	{"EGD1403", "", "port %d of %s is for TLS, and requests would go there in plain text: %s; lead them to a port for HTTP"},
	{"EGD1404", "", "no DestinationRule originates TLS to %s, and header %s of egressd.dev/request-header-from goes out by such TLS alone: requests are denied (credential-unavailable); write a DestinationRule with tls mode SIMPLE for it"},
	{"EGD1405", "", "TLS to %s is not verified (insecureSkipVerify), and header %s of egressd.dev/request-header-from goes to nobody who is not known: requests are denied (credential-unavailable); name the CA in place of insecureSkipVerify"},

	{"EGD1501", "", "connections to names of %s that are not in sniHosts (%s) are denied on port %d: there are tls rules for the port, and what none of them matches is refused; write a rule for the rest"},
	{"EGD1502", "", "connections to %s are denied on port %d: there are tls rules for the port, none of them has the name in sniHosts (%s), and what none matches is refused; write a rule for it, or leave the host out"},
	{"EGD1503", "", "%s (%s) comes before and matches all that this does: this never applies"},

	{"EGD1601", "", "the match never holds: %s"},
	{"EGD1602", "", "no rule of the VirtualService can ever apply: what is said of its hosts elsewhere, or nothing, applies in its place"},

	{"EGD1701", "IST0101", "no ServiceEntry and no Service declares the host %s: the rule does not apply to anything"},
	{"EGD1702", "", "no route uses the subset %q of %s"},

	{"EGD1801", "IST0111", "the Sidecars [%s %s] in namespace %q have no workload selector; of several the oldest applies: %s"},
	{"EGD1802", "IST0101", "no ServiceEntry and no Service in namespace %s declares the host %s"},
	{"EGD1803", "", "the Sidecar hides every ServiceEntry and Service: its workloads reach nothing"},
	{"EGD1804", "", "%s declares names around %s and none within it: egressd opens %s alone, and Istio imports nothing by this entry; write a ServiceEntry for %s, or the wildcard here"},
	{"EGD1805", "IST0110", "the Sidecars [%s] in namespace %q select the same workload %q; of several the oldest applies"},
	{"EGD1806", "IST0167", "no ServiceEntry, no Service and no Gateway is in namespace %s: the policy guards nothing (it belongs in the namespace of the destinations)"},
	{"EGD1807", "", "%s of gateway.networking.k8s.io is not read by egressd: the policy does not guard it"},
	{"EGD1808", "IST0101", "there is no %s: the policy does not guard it"},
	{"EGD1809", "", "%s has no HTTP port, so that methods and paths are not known: the DENY rule denies whatever else it matches"},
	{"EGD1810", "", "%s has no HTTP port, so that methods and paths are not known: they never match"},
	{"EGD1811", "IST0167", "no Gateway is for the labels %s: the policy guards nothing (it counts where a connection starts; name destinations with targetRefs)"},

	{"EGD1901", "", "endpoint %s is on the node, or for the node alone: nothing is let there (endpoint-not-allowed) unless the node is started with --allow-endpoint %s"},
	{"EGD1902", "", "addresses %s: the node-local addresses in it (loopback, link-local, metadata services) stay closed unless --allow-endpoint names them"},
	{"EGD1903", "", "address %s is on the node, or for the node alone: nothing is let there (endpoint-not-allowed) unless the node is started with --allow-endpoint %s"},

	{"EGD2001", "", "no ServiceEntry opens anything: every connection that leaves the node is denied, and every name is refused; write a ServiceEntry for each host that is needed"},
	{"EGD2002", "", "all of %v is open on port %d, by address and for whatever name, and what %s resolves to as well: the name does not narrow the network. Leave addresses out to open the name alone, or make the name up (network.internal) to open the network alone"},
	{"EGD2003", "", "clients must ask for %s to reach %s, and egressd asks the DNS servers for it: if none of them knows the name, no client gets an address. Write hosts: [%s] if that is what clients ask for, or give the entry an address of its own (addresses: [240.0.0.1]), which egressd then answers with%s"},
	{"EGD2004", "", "clients must ask for %s, and reach %s%s"},
	{"EGD2005", "", "STATIC without endpoints: every connection fails, for there is nowhere to go; list endpoints with their addresses, or write resolution: DNS"},
	{"EGD2006", "", "a port whose clients begin otherwise than it is declared"},

	{"EGD2101", "", `namespace %s declares %s (%s %s) and has no rules for it: these act on what its workloads send there, and lead it to %s; exportTo: ["."] keeps them to namespace %s`},

	{"EGD2201", "", "the destination %s is a Kubernetes Service, and a rule does not open one: what comes from workloads is refused (%s); write a ServiceEntry for the host"},

	{"EGD2301", "", "the %s %s is listed twice"},
	{"EGD2302", "", "%s (%s) has the %s %s already; of several the first applies"},
	{"EGD2303", "", "some %ss are also those of %s in %s (%s), which is as specific; of several the first applies"},
}

// CanSuppress says whether a code is one of warnings or notes.
func CanSuppress(code string) bool {
	return slices.ContainsFunc(All, func(c Code) bool { return c.Code == code && !c.IsFault() })
}
