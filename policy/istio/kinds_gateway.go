// SPDX-License-Identifier: Apache-2.0

package istio

import (
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy/istio/internal/gwapi"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// The Gateway API: HTTPRoutes whose parents are ServiceEntries are rules for
// what leaves the node. Nothing here serves its Gateways.
const (
	waypointClass = "istio-waypoint"
)

// decodeUnknownGateway says what becomes of a kind of the group that is not
// known: it may be newer than we are.
func decodeUnknownGateway(known []string) func(*object, *draft) {
	return func(o *object, _ *draft) {
		o.Warnf(o.root.KeyOf("kind"), "kind %s of %s is not known, and not acted on%s", o.kind, gwapi.Group, strictyaml.DidYouMean(o.kind, known))
	}
}

// decodeServedGateway says what becomes of a Gateway.
func decodeServedGateway(o *object, _ *draft) {
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
