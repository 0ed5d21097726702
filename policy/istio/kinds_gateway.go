// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy/istio/internal/gwapi"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// waypointClass is that of Gateways for which egressd needs none.
const waypointClass = "istio-waypoint"

// decodeUnknownGateway says what becomes of a kind of the group that is not
// known: it may be newer than we are.
func decodeUnknownGateway(known []string) func(*object, *draft) {
	return func(o *object, _ *draft) {
		o.Warnf(o.root.KeyOf("kind"), "kind %s of %s is not known, and not acted on%s", o.kind, gwapi.Group, strictyaml.DidYouMean(o.kind, known))
	}
}

// late is an object of the Gateway API whose findings count only if it is found to
// be for something that egressd serves. What others serve may be newer than we
// are, and is not ours to judge.
type late struct {
	*object
	v    any // pointer to its spec; nil: not readable
	said *strictyaml.Report
}

// lateSpec decodes a spec of type T.
func lateSpec[T any](o *object, d *draft) {
	of := o.Report
	said := newReport(of.Types)
	o.Report = said
	o.topLevel()
	l := late{object: o, said: said}
	if v := new(T); strictyaml.DecodeGo(o.spec(), v, "spec", &o.Reporter) {
		l.v = v
	}
	o.Report = of
	d.take = func(to *loader) { to.api.late = append(to.api.late, l) }
}

// decodeHTTPRoute decodes an HTTPRoute, strictly if a parent is none of the Gateways'.
func decodeHTTPRoute(o *object, d *draft) {
	if gwapi.ForGateways(o.spec()) {
		lateSpec[gateway.HTTPRouteSpec](o, d)
		return
	}
	o.topLevel()
	v := new(gateway.HTTPRouteSpec)
	if strictyaml.DecodeGo(o.spec(), v, "spec", &o.Reporter) {
		d.take = func(l *loader) { l.api.routes = append(l.api.routes, o.httpRoute(v)) }
	}
}

func (o *object) httpRoute(v *gateway.HTTPRouteSpec) gwapi.HTTPRoute {
	return gwapi.HTTPRoute{Checker: o.Checker, Ref: o.ref, Created: o.meta.CreationTimestamp, Node: o.spec(), V: v}
}

func decodeGatewayClass(o *object, d *draft) {
	controller := o.spec().Get("controllerName")
	if controller == nil || controller.Kind != strictyaml.Scalar {
		return // the API server refuses it
	}
	d.take = func(l *loader) { l.api.classes[o.ref.Name] = controller.Text }
}

func decodeGrant(o *object, d *draft) {
	o.topLevel()
	v := new(gateway.ReferenceGrantSpec)
	if strictyaml.DecodeGo(o.spec(), v, "spec", &o.Reporter) {
		d.take = func(l *loader) { l.api.grants = append(l.api.grants, gwapi.Grant{Namespace: o.ref.Namespace, V: v}) }
	}
}

// namespaceKind is no policy by itself.
const namespaceKind = "Namespace"

// nameOfKind is what objects of a kind are called, where another group has a kind of
// that name.
func nameOfKind(apiVersion, kind string) string {
	if kind == "Gateway" && strings.HasPrefix(apiVersion, gwapi.Group+"/") {
		return gwapi.GatewayKind
	}
	return kind
}

// decodeNamespace takes the labels of a namespace, which a Gateway's listeners may
// ask for.
func decodeNamespace(o *object, d *draft) {
	d.take = func(l *loader) { l.api.namespaces[o.ref.Name] = o.meta.Labels }
}

// gatewayAPI are the objects of the Gateway API as they were read.
type gatewayAPI struct {
	routes     []gwapi.HTTPRoute // that have a ServiceEntry as a parent
	late       []late
	classes    map[string]string
	grants     []gwapi.Grant
	namespaces map[string]map[string]string
}

func newGatewayAPI() gatewayAPI {
	return gatewayAPI{classes: map[string]string{}, namespaces: map[string]map[string]string{}}
}

// some says whether there is anything to translate.
func (a *gatewayAPI) some() bool { return len(a.routes)+len(a.late) > 0 }

// objects are those that are for what egressd serves. The others are told so.
func (a *gatewayAPI) objects(r *strictyaml.Report) gwapi.APIObjects {
	out := gwapi.APIObjects{Routes: slices.Clone(a.routes), Classes: a.classes, Grants: a.grants, Namespaces: a.namespaces}
	served := map[string]bool{}
	for _, l := range a.late {
		if l.kind == gwapi.GatewayKind {
			l.gateway(&out, served, r)
		}
	}
	for _, l := range a.late {
		if l.kind != gwapi.GatewayKind {
			l.route(&out, served, r)
		}
	}
	return out
}

// gateway adds a Gateway that is served.
func (l late) gateway(out *gwapi.APIObjects, served map[string]bool, r *strictyaml.Report) {
	class := l.spec().Get("gatewayClassName")
	switch {
	case class != nil && out.Served(class.Text):
		served[l.ref.Namespace+"/"+l.ref.Name] = true
		if l.surface(r) {
			out.Gateways = append(out.Gateways, gwapi.APIGateway{
				Checker: l.Checker, Ref: l.ref, Created: l.meta.CreationTimestamp, Node: l.spec(), V: l.v.(*gateway.GatewaySpec),
			})
		}
	case class != nil && class.Text == waypointClass:
		l.Say(Note, l.root.KeyOf("kind"), "egressd does on the node what the waypoint would do for ServiceEntries")
	default:
		l.Warnf(l.root.KeyOf("kind"), "Gateway is not acted on: %s", gwapi.NotServed)
	}
}

// route adds a route that is for a Gateway that is served.
func (l late) route(out *gwapi.APIObjects, served map[string]bool, r *strictyaml.Report) {
	parents := l.spec("parentRefs").List()
	ours := slices.ContainsFunc(parents, func(p *strictyaml.Node) bool { return served[gwapi.ParentName(p, l.ref.Namespace)] })
	if !ours {
		if len(parents) == 0 {
			l.Warnf(l.spec(), "no parentRefs: the route is for nothing")
		}
		for i := range parents {
			gwapi.NoGateway(&l.Reporter, l.spec("parentRefs", i), "Gateway")
		}
		return
	}
	if !l.surface(r) {
		return
	}
	l4 := func(v *gateway.TLSRouteSpec) gwapi.L4Route {
		return gwapi.L4Route{Checker: l.Checker, Ref: l.ref, Created: l.meta.CreationTimestamp, Node: l.spec(), V: v}
	}
	switch v := l.v.(type) {
	case *gateway.HTTPRouteSpec:
		out.Routes = append(out.Routes, l.httpRoute(v))
	case *gateway.GRPCRouteSpec:
		out.Routes = append(out.Routes, l.httpRoute(gwapi.HTTPOf(v)))
	case *gateway.TLSRouteSpec:
		out.L4Routes = append(out.L4Routes, l4(v))
	case *gateway.TCPRouteSpec:
		out.L4Routes = append(out.L4Routes, l4(gwapi.TLSOf(v)))
	}
}

// surface makes the findings of an object count, and says whether it can be used.
func (l late) surface(r *strictyaml.Report) bool {
	r.AddAll(l.said.Findings)
	for s := range l.said.Unreadable {
		r.UnreadAt(s)
	}
	return l.v != nil
}
