// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"slices"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy/istio/internal/gwapi"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// The Gateway API: HTTPRoutes whose parents are ServiceEntries are rules for
// what leaves the node. Nothing here serves its Gateways.
const (
	waypointClass = "istio-waypoint"
)

// gatewayKinds are the kinds of the group, and why those that are not acted
// on are not.
var gatewayKinds = map[string]string{
	model.HTTPRoute:    "",
	"Gateway":          gwapi.NotServed,
	"GatewayClass":     gwapi.NotServed,
	"ListenerSet":      gwapi.NotServed,
	"ReferenceGrant":   "it grants Gateways something, and routes of ServiceEntries need no grant",
	"GRPCRoute":        "an HTTPRoute can match the path /service/method",
	"TLSRoute":         "a VirtualService can have the rules as tls",
	"TCPRoute":         "a VirtualService can have the rules as tcp",
	"UDPRoute":         "UDP goes where the application sends it",
	"BackendTLSPolicy": "a DestinationRule says how TLS is originated",
}

// gatewayKind knows all kinds of the Gateway API.
func gatewayKind(group, name string) (kind, bool) {
	if group != gwapi.Group {
		return kind{}, false
	}
	switch name {
	case model.HTTPRoute:
		return kind{group, []string{"v1", "v1beta1"}, decodeHTTPRoute}, true
	case "Gateway":
		return kind{group, nil, func(o *object, _ *draft) { o.gateway() }}, true
	}
	return kind{group, nil, func(o *object, _ *draft) {
		at := o.root.KeyOf("kind")
		if why, ok := gatewayKinds[name]; ok {
			o.Warnf(at, "%s is not acted on: %s", name, why)
			return
		}
		known := slices.Sorted(maps.Keys(gatewayKinds))
		o.Warnf(at, "kind %s of %s is not known, and not acted on%s", name, group, strictyaml.DidYouMean(name, known))
	}}, true
}

// gateway says what becomes of a Gateway.
func (o *object) gateway() {
	if class := o.spec().Get("gatewayClassName"); class != nil && class.Text == waypointClass {
		o.Say(Note, o.root.KeyOf("kind"), "egressd does on the node what the waypoint would do for ServiceEntries")
		return
	}
	o.Warnf(o.root.KeyOf("kind"), "Gateway is not acted on: %s", gwapi.NotServed)
}

// decodeHTTPRoute decodes an HTTPRoute. One that is for Gateways alone is not
// ours to judge: what it has in it may be newer than we are.
func decodeHTTPRoute(o *object, d *draft) {
	if gwapi.ForGateways(o.spec()) {
		for i := range o.spec("parentRefs").Items {
			gwapi.NoGateway(&o.Reporter, o.spec("parentRefs", i), "Gateway")
		}
		return
	}
	o.topLevel()
	v := new(gateway.HTTPRouteSpec)
	if strictyaml.DecodeGo(o.spec(), v, "spec", &o.Reporter) {
		d.take = func(l *loader) {
			l.httpRoutes = append(l.httpRoutes, gwapi.HTTPRoute{Checker: o.Checker, Ref: o.ref, Created: o.meta.CreationTimestamp, Node: o.spec(), V: v})
		}
	}
}
