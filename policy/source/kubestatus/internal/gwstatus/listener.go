// SPDX-License-Identifier: Apache-2.0

package gwstatus

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/internal/hostname"
)

// served is a Gateway with what is known of its listeners.
type served struct {
	*gateway.Gateway
	listeners []*listener
	// refused says that the policy's reader found errors, and that the Gateway is not
	// acted on as it is.
	refused problem
}

// listener is a listener of a Gateway. problem says why a condition of it is
// False; "": it is True.
type listener struct {
	*gateway.Listener
	kinds                          []gateway.RouteGroupKind
	accepted, resolved, conflicted problem
	certified                      problem // without a certificate it denies all
	attached                       map[ObjectKey]bool
	// narrower are the hosts of others on the port that the listener's host covers:
	// they have their names for themselves.
	narrower []hostname.Pattern
}

// problem is the reason and the message of a condition; its zero value is none.
type problem struct{ reason, message string }

// listeners judges the listeners of a Gateway.
func (o *Observed) listeners(g *gateway.Gateway) *served {
	out := &served{Gateway: g}
	for i := range g.Spec.Listeners {
		l := &listener{Listener: &g.Spec.Listeners[i], attached: map[ObjectKey]bool{}}
		l.accepted = accepts(l.Listener)
		l.kinds, l.resolved = l.routeKinds()
		l.certified = o.certificates(g, l.Listener)
		if l.resolved == (problem{}) {
			l.resolved = l.certified
		}
		out.listeners = append(out.listeners, l)
	}
	out.conflicts()
	if out.refused = refused(o.Findings[ObjectKey{GatewayKind, nameOf(g)}]); out.refused != (problem{}) {
		out.refused.reason = string(gateway.GatewayReasonInvalid)
		for _, l := range out.listeners { // none is at work as it is written
			if l.served() {
				l.accepted = problem{string(gateway.ListenerReasonUnsupportedValue), out.refused.message}
			}
		}
	}
	out.isolate()
	return out
}

// accepts says why a listener can't be.
func accepts(l *gateway.Listener) problem {
	unsupported := string(gateway.ListenerReasonUnsupportedValue)
	switch l.Protocol {
	case gateway.HTTPProtocolType, gateway.TCPProtocolType:
		if l.TLS != nil {
			return problem{unsupported, fmt.Sprintf("tls: protocol %s has none", l.Protocol)}
		}
	case gateway.TLSProtocolType:
		if m := mode(l.TLS); m != gateway.TLSModePassthrough && m != gateway.TLSModeTerminate {
			return problem{unsupported, fmt.Sprintf("tls.mode %s: egressd knows Terminate and Passthrough", m)}
		}
	case gateway.HTTPSProtocolType:
		if m := mode(l.TLS); m != gateway.TLSModeTerminate {
			return problem{unsupported, fmt.Sprintf("tls.mode %s: protocol HTTPS has Terminate alone", m)}
		}
	default:
		return problem{string(gateway.ListenerReasonUnsupportedProtocol), fmt.Sprintf("protocol %s: egressd serves HTTP, HTTPS, TLS and TCP", l.Protocol)}
	}
	return problem{}
}

func mode(t *gateway.ListenerTLSConfig) gateway.TLSModeType {
	if t == nil {
		return gateway.TLSModeTerminate
	}
	return value(t.Mode, gateway.TLSModeTerminate)
}

// kindsOf are the kinds of routes that a protocol can have.
var kindsOf = map[gateway.ProtocolType][]gateway.Kind{
	gateway.HTTPProtocolType: {httpRoute, grpcRoute}, gateway.HTTPSProtocolType: {httpRoute, grpcRoute}, gateway.TLSProtocolType: {tlsRoute}, gateway.TCPProtocolType: {tcpRoute},
}

// routeKinds are the kinds of routes that a listener takes.
func (l *listener) routeKinds() (out []gateway.RouteGroupKind, p problem) {
	out = []gateway.RouteGroupKind{}
	if l.accepted != (problem{}) {
		return out, p
	}
	known := kindsOf[l.Protocol]
	if l.Protocol == gateway.TLSProtocolType && mode(l.TLS) == gateway.TLSModeTerminate {
		known = []gateway.Kind{tcpRoute, tlsRoute}
	}
	group := gateway.Group(gateway.GroupName)
	if l.AllowedRoutes == nil || len(l.AllowedRoutes.Kinds) == 0 {
		for _, k := range known {
			out = append(out, gateway.RouteGroupKind{Group: &group, Kind: k})
		}
		return out, p
	}
	for _, k := range l.AllowedRoutes.Kinds {
		if value(k.Group, group) == group && slices.Contains(known, k.Kind) {
			out = append(out, gateway.RouteGroupKind{Group: &group, Kind: k.Kind})
			continue
		}
		p = problem{string(gateway.ListenerReasonInvalidRouteKinds), fmt.Sprintf("allowedRoutes.kinds: a listener of protocol %s has no routes of kind %s", l.Protocol, k.Kind)}
	}
	return out, p
}

// takes says whether the listener takes routes of a kind.
func (l *listener) takes(kind string) bool {
	return slices.ContainsFunc(l.kinds, func(k gateway.RouteGroupKind) bool { return string(k.Kind) == kind })
}

// certificates judges the references of a listener to Secrets.
func (o *Observed) certificates(g *gateway.Gateway, l *gateway.Listener) problem {
	if l.TLS == nil || mode(l.TLS) != gateway.TLSModeTerminate {
		return problem{}
	}
	invalid := string(gateway.ListenerReasonInvalidCertificateRef)
	if len(l.TLS.CertificateRefs) == 0 {
		return problem{invalid, "tls.certificateRefs: name a Secret of type kubernetes.io/tls"}
	}
	for _, r := range l.TLS.CertificateRefs {
		to := object{value(r.Group, ""), value(r.Kind, "Secret"), types.NamespacedName{Namespace: string(value(r.Namespace, gateway.Namespace(g.Namespace))), Name: string(r.Name)}}
		switch {
		case to.group != "" || to.kind != "Secret":
			return problem{invalid, fmt.Sprintf("tls.certificateRefs: kind %s: a certificate is in a Secret", to.kind)}
		case !o.permits(gateway.GroupName, "Gateway", g.Namespace, to):
			return problem{string(gateway.ListenerReasonRefNotPermitted), fmt.Sprintf("tls.certificateRefs: no ReferenceGrant in namespace %s lets Gateways of namespace %s use Secret %s", to.Namespace, g.Namespace, to.Name)}
		}
		if err := o.Certificate(to.NamespacedName); err != nil {
			return problem{invalid, fmt.Sprintf("tls.certificateRefs: Secret %s: %v", to.NamespacedName, err)}
		}
	}
	return problem{}
}

// conflicts finds listeners that cannot be told apart: of one port with another
// protocol, or with the same host.
func (s *served) conflicts() {
	for _, a := range s.listeners {
		for _, b := range s.listeners {
			switch {
			case a == b || a.Port != b.Port || (a.Protocol == gateway.UDPProtocolType) != (b.Protocol == gateway.UDPProtocolType):
			case a.Protocol != b.Protocol && !(overTLS(a.Protocol) && overTLS(b.Protocol)):
				a.conflicted = problem{string(gateway.ListenerReasonProtocolConflict), fmt.Sprintf("listener %s has port %d with protocol %s", b.Name, b.Port, b.Protocol)}
			case a.conflicted == (problem{}) && strings.EqualFold(string(value(a.Hostname, "")), string(value(b.Hostname, ""))):
				a.conflicted = problem{string(gateway.ListenerReasonHostnameConflict), fmt.Sprintf("listener %s has port %d with the same hostname", b.Name, b.Port)}
			}
		}
	}
}

func overTLS(p gateway.ProtocolType) bool {
	return p == gateway.HTTPSProtocolType || p == gateway.TLSProtocolType
}

// served says whether a listener is at work: kinds of routes that it cannot have
// are no matter of the others.
func (l *listener) served() bool { return l.accepted == problem{} && l.conflicted == problem{} }

// unserved says why a listener is not at work.
func (l *listener) unserved() string { return cmp.Or(l.accepted.message, l.conflicted.message) }

// host are the names that a listener serves.
func (l *listener) host() hostname.Pattern {
	return hostname.Pattern(cmp.Or(strings.ToLower(string(value(l.Hostname, ""))), "*"))
}

// isolate finds the names that narrower listeners have for themselves.
func (s *served) isolate() {
	for _, l := range s.listeners {
		for _, other := range s.listeners {
			if other.Port == l.Port && other.served() && other.host() != l.host() && l.host().Covers(other.host()) {
				l.narrower = append(l.narrower, other.host())
			}
		}
	}
}

// status is the status of a listener.
func (l *listener) status(g *gateway.Gateway) gateway.ListenerStatus {
	is := func(kind gateway.ListenerConditionType, p problem, reason gateway.ListenerConditionReason, message string) meta.Condition {
		return condition(g, string(kind), p == problem{}, cmp.Or(p.reason, string(reason)), cmp.Or(p.message, message))
	}
	accepted, programmed := l.accepted, problem{}
	if accepted == (problem{}) {
		accepted = l.conflicted
	}
	if !l.served() {
		programmed = problem{string(gateway.ListenerReasonInvalid), l.unserved()}
	} else if l.certified != (problem{}) {
		programmed = problem{string(gateway.ListenerReasonInvalid), l.certified.message}
	}
	conditions := []meta.Condition{
		is(gateway.ListenerConditionAccepted, accepted, gateway.ListenerReasonAccepted, "the listener is valid"),
		is(gateway.ListenerConditionProgrammed, programmed, gateway.ListenerReasonProgrammed, "nodes that serve the Gateway listen here"),
		is(gateway.ListenerConditionResolvedRefs, l.resolved, gateway.ListenerReasonResolvedRefs, "all references are resolved"),
	}
	conflicted := condition(g, string(gateway.ListenerConditionConflicted), l.conflicted != problem{}, cmp.Or(l.conflicted.reason, string(gateway.ListenerReasonNoConflicts)),
		cmp.Or(l.conflicted.message, "no other listener is in the way"))
	return gateway.ListenerStatus{Name: l.Name, SupportedKinds: l.kinds, AttachedRoutes: int32(len(l.attached)), Conditions: append(conditions, conflicted)}
}

// status is that of the Gateway; nodes are the addresses of those that serve it.
func (s *served) status(nodes []string) gateway.GatewayStatus {
	var out gateway.GatewayStatus
	valid, unresolved := 0, problem{}
	for _, l := range s.listeners {
		out.Listeners = append(out.Listeners, l.status(s.Gateway))
		if l.served() {
			valid++
		}
		if l.resolved != (problem{}) && unresolved == (problem{}) {
			unresolved = problem{string(gateway.GatewayReasonListenersNotResolved), fmt.Sprintf("listener %s: %s", l.Name, l.resolved.message)}
		}
	}
	reason, message := string(gateway.GatewayReasonAccepted), "the Gateway is valid"
	accepted := valid > 0
	switch p := s.asks(); {
	case p != problem{}:
		accepted, reason, message = false, p.reason, p.message
	case valid == 0:
		reason, message = string(gateway.GatewayReasonListenersNotValid), "no listener is valid"
	case valid < len(s.listeners):
		reason, message = string(gateway.GatewayReasonListenersNotValid), "some listeners are not valid, and are left out"
	}
	out.Conditions = append(out.Conditions, condition(s.Gateway, string(gateway.GatewayConditionAccepted), accepted, reason, message))
	p := problem{string(gateway.GatewayReasonInvalid), message}
	if accepted {
		out.Addresses, p = addresses(s.Gateway, nodes)
	}
	out.Conditions = append(out.Conditions,
		condition(s.Gateway, string(gateway.GatewayConditionProgrammed), p.reason == "", cmp.Or(p.reason, string(gateway.GatewayReasonProgrammed)), p.message),
		condition(s.Gateway, string(gateway.GatewayConditionResolvedRefs), unresolved == problem{}, cmp.Or(unresolved.reason, string(gateway.GatewayReasonResolvedRefs)), cmp.Or(unresolved.message, "all references are resolved")))
	return out
}

// asks says why a Gateway cannot be served as it is written.
func (s *served) asks() problem {
	if i := s.Spec.Infrastructure; i != nil && i.ParametersRef != nil {
		return problem{string(gateway.GatewayReasonInvalidParameters), "infrastructure.parametersRef: egressd has no parameters, and serves the listeners without them; leave it out"}
	}
	for _, a := range s.Spec.Addresses {
		if t := value(a.Type, gateway.IPAddressType); t != gateway.IPAddressType && t != gateway.HostnameAddressType {
			return problem{string(gateway.GatewayReasonUnsupportedAddress), fmt.Sprintf("addresses: type %s: write an IPAddress or a Hostname; the listeners are served all the same", t)}
		}
	}
	return s.refused
}

// maxAddresses is how many addresses a status may have.
const maxAddresses = 16

// addresses are where a Gateway is reached: what spec.addresses says, as of a load
// balancer, or else the nodes that serve it. nodes are their addresses.
func addresses(g *gateway.Gateway, nodes []string) (out []gateway.GatewayStatusAddress, said problem) {
	for _, a := range g.Spec.Addresses {
		if a.Value != "" {
			t := value(a.Type, gateway.IPAddressType)
			out = append(out, gateway.GatewayStatusAddress{Type: &t, Value: a.Value})
		}
	}
	switch {
	case len(out) > 0 && len(nodes) > 0:
		return out, problem{message: "nodes serve the Gateway; spec.addresses says where they are reached, and egressd does not look whether that is so"}
	case len(out) > 0:
		return out, problem{message: "spec.addresses says where the Gateway is reached, and egressd does not look whether that is so; no ready pod of egressd's has the labels " + labelsText(g)}
	case len(nodes) == 0:
		return nil, problem{
			string(gateway.GatewayReasonAddressNotAssigned),
			"no node serves the Gateway, as no ready pod of egressd's has its labels: run egressd with --gateway-selector " + labelsText(g) + ", and label its pods so, or write into spec.addresses where the Gateway is reached",
		}
	}
	for _, a := range nodes[:min(len(nodes), maxAddresses)] {
		t := gateway.IPAddressType
		out = append(out, gateway.GatewayStatusAddress{Type: &t, Value: a})
	}
	return out, problem{message: "the addresses are those of the nodes that serve the Gateway"}
}

// labelsOf are those of the nodes that serve a Gateway.
func labelsOf(g *gateway.Gateway) map[string]string {
	return map[string]string{gateway.GroupName + "/gateway-name": g.Name, "egressd.dev/gateway-namespace": g.Namespace}
}

func labelsText(g *gateway.Gateway) string {
	return fmt.Sprintf("%s/gateway-name=%s,egressd.dev/gateway-namespace=%s", gateway.GroupName, g.Name, g.Namespace)
}
