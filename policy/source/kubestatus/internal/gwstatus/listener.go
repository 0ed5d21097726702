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
)

// httpRoute is the kind of route that is read.
const httpRoute = "HTTPRoute"

// served is a Gateway with what is known of its listeners.
type served struct {
	*gateway.Gateway
	listeners []*listener
}

// listener is a listener of a Gateway. problem says why a condition of it is
// False; "": it is True.
type listener struct {
	*gateway.Listener
	kinds                          []gateway.RouteGroupKind
	accepted, resolved, conflicted problem
	attached                       map[types.NamespacedName]bool
}

// problem is the reason and the message of a condition; its zero value is none.
type problem struct{ reason, message string }

// listeners judges the listeners of a Gateway.
func (o *Objects) listeners(g *gateway.Gateway) *served {
	out := &served{Gateway: g}
	for i := range g.Spec.Listeners {
		l := &listener{Listener: &g.Spec.Listeners[i], attached: map[types.NamespacedName]bool{}}
		l.accepted = o.accepts(l.Listener)
		l.kinds, l.resolved = l.routeKinds()
		if l.resolved == (problem{}) {
			l.resolved = o.certificates(g, l.Listener)
		}
		out.listeners = append(out.listeners, l)
	}
	out.conflicts()
	return out
}

// accepts says why a listener can't be.
func (o *Objects) accepts(l *gateway.Listener) problem {
	value := string(gateway.ListenerReasonUnsupportedValue)
	switch {
	case l.Protocol != gateway.HTTPProtocolType && l.Protocol != gateway.HTTPSProtocolType:
		return problem{string(gateway.ListenerReasonUnsupportedProtocol), fmt.Sprintf("protocol %s: egressd knows HTTP and HTTPS", l.Protocol)}
	case o.NotServed != "":
		return problem{value, "nothing listens here: " + o.NotServed}
	case l.Protocol == gateway.HTTPSProtocolType && l.TLS == nil:
		return problem{value, "tls: protocol HTTPS needs it"}
	case l.Protocol == gateway.HTTPSProtocolType && mode(l.TLS) != gateway.TLSModeTerminate:
		return problem{value, fmt.Sprintf("tls.mode %s: protocol HTTPS is terminated", mode(l.TLS))}
	case l.Protocol == gateway.HTTPProtocolType && l.TLS != nil:
		return problem{value, "tls: protocol HTTP has none"}
	}
	return problem{}
}

func mode(t *gateway.ListenerTLSConfig) gateway.TLSModeType {
	return value(t.Mode, gateway.TLSModeTerminate)
}

// routeKinds are the kinds of routes that a listener takes.
func (l *listener) routeKinds() (out []gateway.RouteGroupKind, p problem) {
	out = []gateway.RouteGroupKind{}
	group := gateway.Group(gateway.GroupName)
	http := l.Protocol == gateway.HTTPProtocolType || l.Protocol == gateway.HTTPSProtocolType
	if l.AllowedRoutes == nil || len(l.AllowedRoutes.Kinds) == 0 {
		if http {
			out = append(out, gateway.RouteGroupKind{Group: &group, Kind: httpRoute})
		}
		return out, p
	}
	for _, k := range l.AllowedRoutes.Kinds {
		if http && value(k.Group, group) == group && k.Kind == httpRoute {
			out = append(out, gateway.RouteGroupKind{Group: &group, Kind: httpRoute})
			continue
		}
		p = problem{string(gateway.ListenerReasonInvalidRouteKinds), fmt.Sprintf("allowedRoutes.kinds: %s is not read for protocol %s; HTTPRoute is, for HTTP and HTTPS", k.Kind, l.Protocol)}
	}
	return out, p
}

// certificates judges the references of a listener to Secrets.
func (o *Objects) certificates(g *gateway.Gateway, l *gateway.Listener) problem {
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

// programmed says whether a listener is at work.
func (l *listener) programmed() bool {
	return l.accepted == problem{} && l.resolved == problem{} && l.conflicted == problem{}
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
	if !l.programmed() {
		programmed = problem{string(gateway.ListenerReasonInvalid), cmp.Or(accepted.message, l.resolved.message)}
	}
	conditions := []meta.Condition{
		is(gateway.ListenerConditionAccepted, accepted, gateway.ListenerReasonAccepted, "the listener is valid"),
		is(gateway.ListenerConditionProgrammed, programmed, gateway.ListenerReasonProgrammed, "the listener is at work"),
		is(gateway.ListenerConditionResolvedRefs, l.resolved, gateway.ListenerReasonResolvedRefs, "all references are resolved"),
	}
	conflicted := condition(g, string(gateway.ListenerConditionConflicted), l.conflicted != problem{}, cmp.Or(l.conflicted.reason, string(gateway.ListenerReasonNoConflicts)),
		cmp.Or(l.conflicted.message, "no other listener is in the way"))
	return gateway.ListenerStatus{Name: l.Name, SupportedKinds: l.kinds, AttachedRoutes: int32(len(l.attached)), Conditions: append(conditions, conflicted)}
}

// gateway is the status of a Gateway.
func (o *Objects) gateway(s *served) gateway.GatewayStatus {
	var out gateway.GatewayStatus
	valid, programmed, unresolved := 0, 0, problem{}
	for _, l := range s.listeners {
		out.Listeners = append(out.Listeners, l.status(s.Gateway))
		if l.accepted == (problem{}) && l.conflicted == (problem{}) {
			valid++
		}
		if l.programmed() {
			programmed++
		}
		if l.resolved != (problem{}) && unresolved == (problem{}) {
			unresolved = problem{string(gateway.GatewayReasonListenersNotResolved), fmt.Sprintf("listener %s: %s", l.Name, l.resolved.message)}
		}
	}
	reason, message := string(gateway.GatewayReasonAccepted), "the Gateway is valid"
	accepted := valid > 0
	switch p := o.asks(s.Gateway); {
	case p != problem{}:
		accepted, reason, message = false, p.reason, p.message
	case valid == 0:
		reason, message = string(gateway.GatewayReasonListenersNotValid), cmp.Or(o.NotServed, "no listener is valid")
	case valid < len(s.listeners):
		reason, message = string(gateway.GatewayReasonListenersNotValid), "some listeners are not valid, and are left out"
	}
	out.Conditions = append(out.Conditions, condition(s.Gateway, string(gateway.GatewayConditionAccepted), accepted, reason, message))
	p := problem{}
	switch {
	case !accepted || programmed == 0:
		p = problem{string(gateway.GatewayReasonInvalid), "no listener is at work"}
	default:
		out.Addresses, p = o.addresses(s.Gateway)
	}
	out.Conditions = append(out.Conditions,
		condition(s.Gateway, string(gateway.GatewayConditionProgrammed), p == problem{}, cmp.Or(p.reason, string(gateway.GatewayReasonProgrammed)), cmp.Or(p.message, "the Gateway is at work")),
		condition(s.Gateway, string(gateway.GatewayConditionResolvedRefs), unresolved == problem{}, cmp.Or(unresolved.reason, string(gateway.GatewayReasonResolvedRefs)), cmp.Or(unresolved.message, "all references are resolved")))
	return out
}

// asks says what a Gateway asks for that it cannot have.
func (o *Objects) asks(g *gateway.Gateway) problem {
	if i := g.Spec.Infrastructure; i != nil && i.ParametersRef != nil {
		return problem{string(gateway.GatewayReasonInvalidParameters), "infrastructure.parametersRef: egressd has no parameters; leave it out"}
	}
	for _, a := range g.Spec.Addresses {
		if t := value(a.Type, gateway.IPAddressType); t != gateway.IPAddressType {
			return problem{string(gateway.GatewayReasonUnsupportedAddress), fmt.Sprintf("addresses: type %s: only an IPAddress can be asked for", t)}
		}
	}
	return problem{}
}

// addresses are where a Gateway can be reached.
func (o *Objects) addresses(g *gateway.Gateway) ([]gateway.GatewayStatusAddress, problem) {
	if len(o.Addresses) == 0 {
		return nil, problem{string(gateway.GatewayReasonAddressNotAssigned), "there is no address by which it can be reached"}
	}
	var out []gateway.GatewayStatusAddress
	for _, a := range g.Spec.Addresses {
		if a.Value == "" {
			continue
		}
		i := slices.IndexFunc(o.Addresses, func(b gateway.GatewayStatusAddress) bool { return b.Value == a.Value })
		if i < 0 {
			return nil, problem{string(gateway.GatewayReasonAddressNotUsable), fmt.Sprintf("addresses: %s is none of those by which it can be reached", a.Value)}
		}
		out = append(out, o.Addresses[i])
	}
	if len(out) == 0 {
		out = o.Addresses
	}
	return out[:min(len(out), 16)], problem{}
}
