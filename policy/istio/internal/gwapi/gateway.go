// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"fmt"
	"slices"
	"strings"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

const (
	// ControllerName is that of the GatewayClasses whose Gateways egressd serves.
	ControllerName = "egressd.dev/gateway"
	// defaultClass is such a class, too, when there is no object of that name.
	defaultClass = "egressd"
	// GatewayKind tells the Gateway API's Gateways from Istio's, as kubectl does.
	GatewayKind = "Gateway." + Group

	// NameLabel (GEP-1762) and NamespaceLabel are what an egressd that serves a
	// Gateway carries (run --gateway-selector).
	NameLabel      = Group + "/gateway-name"
	NamespaceLabel = "egressd.dev/gateway-namespace"
)

// APIGateway is a Gateway of the Gateway API as it was read.
type APIGateway struct {
	check.Checker
	Ref     policy.Ref
	Created meta.Time        // zero: unknown
	Node    *strictyaml.Node // its spec
	V       *gateway.GatewaySpec
}

// spec returns the node at path in the spec, as far as it exists.
func (g *APIGateway) spec(path ...any) *strictyaml.Node { return g.Node.At(path...) }

// APIObjects are those of the Gateway API, and what they refer to.
type APIObjects struct {
	// Routes are for ServiceEntries or for Gateways.
	Routes   []HTTPRoute
	L4Routes []L4Route
	Gateways []APIGateway
	// Classes are the controllers of the GatewayClasses.
	Classes map[string]string
	// Namespaces are the labels of the namespaces that are known.
	Namespaces map[string]map[string]string
	Grants     []Grant
}

// Served says whether egressd serves the Gateways of a class.
func (o *APIObjects) Served(class string) bool {
	controller, ok := o.Classes[class]
	return controller == ControllerName || !ok && class == defaultClass
}

// listener is a listener of a Gateway, which routes attach to. For the policy it
// is a Gateway by itself: what attaches to one listener is not for another one.
type listener struct {
	gateway *APIGateway
	in      *gateway.Listener
	at      *strictyaml.Node
	parent  *parent
	// allowed says which namespaces' routes may attach, kinds which kinds.
	allowed func(namespace string) bool
	kinds   []string
}

// key is the name by which VirtualServices are bound to a listener.
func (l *listener) key() string {
	return l.gateway.Ref.Namespace + "/" + l.gateway.Ref.Name + "/" + string(l.in.Name)
}

// translateGateways translates the Gateways, and finds their listeners.
func (t *translator) translateGateways(o *APIObjects) (out []*policy.Gateway) {
	slices.SortStableFunc(o.Gateways, func(a, b APIGateway) int { return older(a.Created, b.Created, a.Ref, b.Ref) })
	for i := range o.Gateways {
		g := &o.Gateways[i]
		g.unserved()
		name := g.Ref.Namespace + "/" + g.Ref.Name
		t.listeners[name] = []*listener{}
		for j := range g.V.Listeners {
			l := &listener{gateway: g, in: &g.V.Listeners[j], at: g.spec("listeners", j)}
			server, ok := t.server(l, o)
			if !ok || !g.distinct(l, j) || l.conflicts() {
				continue
			}
			t.listeners[name] = append(t.listeners[name], l)
			out = append(out, &policy.Gateway{
				Ref: g.Ref, Listener: string(l.in.Name), Servers: []policy.GatewayServer{server},
				Selector: map[string]string{NameLabel: g.Ref.Name, NamespaceLabel: g.Ref.Namespace},
			})
		}
	}
	for _, of := range t.listeners {
		isolate(of)
	}
	return out
}

// isolate notes the names that each of a Gateway's listeners leaves to another one
// on its port. A listener has one host.
func isolate(all []*listener) {
	for _, l := range all {
		for _, other := range all {
			own, h := l.parent.hosts[0], other.parent.hosts[0]
			if other.in.Port == l.in.Port && own != h && own.Covers(h) {
				l.parent.narrower = append(l.parent.narrower, h)
			}
		}
	}
}

// unserved says what a Gateway asks for that it does not get.
func (g *APIGateway) unserved() {
	if len(g.V.Listeners) == 0 {
		g.Errorf(g.spec(), "a Gateway must have at least one listener")
	}
	for field, set := range map[string]bool{
		"addresses": len(g.V.Addresses) > 0, "infrastructure": g.V.Infrastructure != nil,
		"allowedListeners": g.V.AllowedListeners != nil, "tls": g.V.TLS != nil,
	} {
		if set {
			g.Inert(g.Node.KeyOf(field), field+" of a Gateway")
		}
	}
}

// distinct says whether the listeners before the one at index j differ from it
// in their names, and in port, protocol or hostname.
func (g *APIGateway) distinct(l *listener, j int) bool {
	for i := range j {
		other := &g.V.Listeners[i]
		switch {
		case other.Name == l.in.Name:
			g.Errorf(l.at.At("name"), "Listener name must be unique within the Gateway")
			return false
		case other.Port == l.in.Port && other.Protocol == l.in.Protocol && value(other.Hostname, "") == value(l.in.Hostname, ""):
			g.Errorf(l.at, "Combination of port, protocol and hostname must be unique for each listener")
			return false
		}
	}
	return true
}

// conflicts says whether another listener has the port with another protocol, or
// the name over TLS: then none of them is served, as the Gateway API has it.
func (l *listener) conflicts() bool {
	overTLS := func(in *gateway.Listener) bool {
		return in.Protocol == gateway.HTTPSProtocolType || in.Protocol == gateway.TLSProtocolType
	}
	for i := range l.gateway.V.Listeners {
		other := &l.gateway.V.Listeners[i]
		if other.Port != l.in.Port || other.Protocol == l.in.Protocol || other.Protocol == gateway.UDPProtocolType {
			continue
		}
		if !overTLS(other) || !overTLS(l.in) || strings.EqualFold(string(value(other.Hostname, "")), string(value(l.in.Hostname, ""))) {
			l.unserved(l.at, fmt.Sprintf("listener %s has port %d with protocol %s", other.Name, other.Port, other.Protocol))
			return true
		}
	}
	return false
}

// server translates a listener; false: it is not served.
func (t *translator) server(l *listener, o *APIObjects) (out policy.GatewayServer, ok bool) {
	g, in := l.gateway, l.in
	if !check.IsSubdomain(string(in.Name)) {
		g.Errorf(l.at.At("name"), "listener name %q is not a DNS-1123 subdomain", in.Name)
	}
	if in.Port < 1 || in.Port > 65535 {
		g.Errorf(l.at.At("port"), "port number %d must be in the range 1..65535", in.Port)
		return out, false
	}
	host := hostname.Pattern("*")
	if h := value(in.Hostname, ""); h != "" {
		var err error
		if host, err = check.Domain(string(h)); err != nil || host == "*" || check.IsPartialWildcard(host) {
			g.Errorf(l.at.At("hostname"), "listener hostname %q is not a name; a wildcard is a label by itself, as in *.example.com", h)
			return out, false
		}
	}
	out = policy.GatewayServer{
		Ref: g.Ref, Name: string(in.Name), Port: uint16(in.Port),
		Hosts: []hostname.Pattern{host}, HostNamespaces: []string{"*"}, // allowedRoutes says whose routes attach
	}
	out.Ref.Line, out.Ref.Column = l.at.Line, l.at.Col
	if l.kinds, ok = l.protocol(&out, func(ns, name string) bool { return t.grantedSecret(g.Ref.Namespace, ns, name) }); !ok {
		return out, false
	}
	if l.allowed, ok = l.namespaces(o.Namespaces); !ok {
		return out, false
	}
	l.routeKinds()
	l.parent = &parent{ref: g.Ref, name: "listener " + string(in.Name) + " of Gateway " + g.Ref.Namespace + "/" + g.Ref.Name, hosts: out.Hosts}
	return out, true
}

// protocol reads the protocol and the TLS settings of a listener, and returns
// the kinds of routes that it can have.
func (l *listener) protocol(out *policy.GatewayServer, granted func(namespace, secret string) bool) (kinds []string, ok bool) {
	g, in := l.gateway, l.in
	mode := gateway.TLSModeTerminate
	if in.TLS != nil {
		mode = value(in.TLS.Mode, mode)
	}
	pn := l.at.At("protocol")
	switch in.Protocol {
	case gateway.HTTPProtocolType, gateway.TCPProtocolType:
		if in.TLS != nil {
			g.Errorf(l.at.KeyOf("tls"), "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']")
			return nil, false
		}
	case gateway.HTTPSProtocolType, gateway.TLSProtocolType:
	case gateway.UDPProtocolType:
		l.unserved(pn, "UDP is not forwarded by gateways")
		return nil, false
	default:
		// It is no matter of the others: a Gateway may have protocols of somebody's own.
		l.unserved(pn, fmt.Sprintf("protocol %q is not one of HTTP, HTTPS, TCP, TLS%s", in.Protocol,
			strictyaml.DidYouMean(string(in.Protocol), []string{"HTTP", "HTTPS", "TCP", "TLS"})))
		return nil, false
	}
	switch {
	case in.Protocol == gateway.HTTPProtocolType:
		out.Protocol = policy.ProtocolHTTP
		return []string{"HTTPRoute", "GRPCRoute"}, true
	case in.Protocol == gateway.TCPProtocolType:
		out.Protocol = policy.ProtocolTCP
		return []string{"TCPRoute"}, true
	case in.Protocol == gateway.HTTPSProtocolType && mode == gateway.TLSModePassthrough:
		g.Errorf(l.at.At("tls", "mode"), "tls mode must be Terminate for protocol HTTPS")
		return nil, false
	case mode == gateway.TLSModePassthrough:
		out.Protocol, out.TLS = policy.ProtocolTLS, &policy.ServerTLS{Mode: policy.ServerPassthrough}
		return []string{"TLSRoute"}, true
	case mode != gateway.TLSModeTerminate:
		g.Errorf(l.at.At("tls", "mode"), "tls mode %q is not Terminate or Passthrough", mode)
		return nil, false
	}
	return l.terminates(out, granted)
}

// unserved says that a listener is not served.
func (l *listener) unserved(at *strictyaml.Node, why string) {
	l.gateway.Warnf(at, "listener %s is not served: %s", l.in.Name, why)
}

// namespaces reads whose routes may attach; without a word those of the
// Gateway's own namespace.
func (l *listener) namespaces(known map[string]map[string]string) (func(string) bool, bool) {
	g := l.gateway
	from := gateway.NamespacesFromSame
	var in *gateway.RouteNamespaces
	if a := l.in.AllowedRoutes; a != nil && a.Namespaces != nil {
		in = a.Namespaces
		from = value(in.From, from)
	}
	at := l.at.At("allowedRoutes", "namespaces")
	switch from {
	case gateway.NamespacesFromAll:
		return func(string) bool { return true }, true
	case gateway.NamespacesFromSame:
		return func(ns string) bool { return ns == g.Ref.Namespace }, true
	case gateway.NamespacesFromNone:
		return func(string) bool { return false }, true
	case gateway.NamespacesFromSelector:
		if in.Selector == nil {
			g.Errorf(at, "selector is required when from is Selector")
			return nil, false
		}
		selector, err := meta.LabelSelectorAsSelector(in.Selector)
		if err != nil {
			g.Errorf(at.At("selector"), "selector: %s", err)
			return nil, false
		}
		return func(ns string) bool {
			set, ok := known[ns]
			return ok && selector.Matches(labels.Set(set))
		}, true
	}
	g.Errorf(at.At("from"), "from %q is not All, Same, Selector or None", from)
	return nil, false
}

// routeKinds leaves those kinds that the listener allows.
func (l *listener) routeKinds() {
	if l.in.AllowedRoutes == nil || len(l.in.AllowedRoutes.Kinds) == 0 {
		return
	}
	var kinds []string
	for i, k := range l.in.AllowedRoutes.Kinds {
		if value(k.Group, Group) != Group || !slices.Contains(l.kinds, string(k.Kind)) {
			l.gateway.Warnf(l.at.At("allowedRoutes", "kinds", i), "listener %s of protocol %s has no routes of kind %s", l.in.Name, l.in.Protocol, k.Kind)
			continue
		}
		kinds = append(kinds, string(k.Kind))
	}
	l.kinds = kinds
}

// allows says whether a route of a kind and a namespace may attach.
func (l *listener) allows(kind, namespace string) bool {
	return slices.Contains(l.kinds, kind) && l.allowed(namespace)
}
