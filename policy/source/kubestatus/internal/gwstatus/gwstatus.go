// SPDX-License-Identifier: Apache-2.0

// Package gwstatus says what the statuses of the Gateway API's objects are, as
// GEP-1364 and the comments of its types have it. It is a function of objects and
// of what the policy's reader found in them, and knows no API server.
package gwstatus

import (
	"slices"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy/istio"
)

// Observed are what statuses are made of.
type Observed struct {
	// Controller is the controllerName that is answered for.
	Controller gateway.GatewayController
	Classes    []*gateway.GatewayClass
	Gateways   []*gateway.Gateway
	Routes     []AnyRoute
	Grants     []*gateway.ReferenceGrant
	// Namespaces are the labels of each.
	Namespaces map[string]map[string]string
	// Service says whether there is a Service.
	Service func(types.NamespacedName) bool
	// Certificate is why a Secret is no certificate with its key; nil: it is one.
	Certificate func(types.NamespacedName) error
	// Serving are the addresses of the nodes whose egressd has labels, in an order that
	// stays; nil: nobody knows.
	Serving func(labels map[string]string) []string
	// Findings are what the policy's reader found in each Gateway and each route.
	Findings map[ObjectKey][]istio.Finding
}

// ObjectKey is the name of an object of a kind.
type ObjectKey struct {
	Kind string
	types.NamespacedName
}

// DefaultClass is the class whose Gateways are served though there is no object of
// its name.
const DefaultClass = "egressd"

// GatewayKind is the kind of Gateways, as findings have it.
const GatewayKind = "Gateway." + gateway.GroupName

// Statuses are those of the objects that are the controller's. Conditions have no
// time of their last transition: it is that of the writing if they change.
type Statuses struct {
	Classes  map[string]gateway.GatewayClassStatus
	Gateways map[types.NamespacedName]gateway.GatewayStatus
	// Routes are the parents that the controller answers for; other controllers
	// may have more. A route of which it answers for none is not here.
	Routes map[ObjectKey][]gateway.RouteParentStatus
}

// Compute says what the statuses are.
func Compute(o Observed) Statuses {
	out := Statuses{
		Classes:  map[string]gateway.GatewayClassStatus{},
		Gateways: map[types.NamespacedName]gateway.GatewayStatus{},
		Routes:   map[ObjectKey][]gateway.RouteParentStatus{},
	}
	for _, c := range o.Classes {
		if c.Spec.ControllerName == o.Controller {
			out.Classes[c.Name] = gateway.GatewayClassStatus{Conditions: []meta.Condition{classCondition(c)}, SupportedFeatures: supportedFeatures()}
		}
	}
	gateways := map[types.NamespacedName]*served{}
	for _, g := range o.Gateways {
		if o.serves(g.Spec.GatewayClassName) {
			gateways[nameOf(g)] = o.listeners(g)
		}
	}
	for i := range o.Routes {
		r := &o.Routes[i]
		if parents := o.route(r, gateways); len(parents) > 0 {
			out.Routes[r.name()] = parents
		}
	}
	for name, g := range gateways { // when their routes are counted
		var nodes []string
		if o.Serving != nil {
			nodes = o.Serving(labelsOf(g.Gateway))
		}
		out.Gateways[name] = g.status(nodes)
	}
	return out
}

// serves says whether Gateways of a class are served. Those of a class whose
// parameters are refused are, by what egressd does without parameters.
func (o *Observed) serves(class gateway.ObjectName) bool {
	for _, c := range o.Classes {
		if c.Name == string(class) {
			return c.Spec.ControllerName == o.Controller
		}
	}
	return class == DefaultClass
}

// classCondition judges a GatewayClass.
func classCondition(c *gateway.GatewayClass) meta.Condition {
	out := condition(c, string(gateway.GatewayClassConditionStatusAccepted), true, string(gateway.GatewayClassReasonAccepted), "egressd serves Gateways of this class")
	if c.Spec.ParametersRef != nil {
		out.Status, out.Reason = meta.ConditionFalse, string(gateway.GatewayClassReasonInvalidParameters)
		out.Message = "parametersRef: egressd has no parameters, and serves Gateways of this class without them; leave it out"
	}
	return out
}

// condition makes a condition of an object.
func condition(of meta.Object, kind string, is bool, reason, message string) meta.Condition {
	status := meta.ConditionFalse
	if is {
		status = meta.ConditionTrue
	}
	return meta.Condition{Type: kind, Status: status, ObservedGeneration: of.GetGeneration(), Reason: reason, Message: short(message)}
}

// short cuts a message to what the API server takes (32 KiB) and people read.
func short(s string) string {
	const most = 1024
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most-1]) + "…"
}

func nameOf(o meta.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// object is a reference to something in some namespace.
type object struct {
	group gateway.Group
	kind  gateway.Kind
	types.NamespacedName
}

// permits says whether an object of one namespace may refer to another one:
// in its own namespace, or by a ReferenceGrant of the other's (GEP-709).
func (o *Observed) permits(group gateway.Group, kind gateway.Kind, namespace string, to object) bool {
	if namespace == to.Namespace {
		return true
	}
	return slices.ContainsFunc(o.Grants, func(g *gateway.ReferenceGrant) bool {
		return g.Namespace == to.Namespace &&
			slices.ContainsFunc(g.Spec.From, func(f gateway.ReferenceGrantFrom) bool {
				return f.Group == group && f.Kind == kind && string(f.Namespace) == namespace
			}) &&
			slices.ContainsFunc(g.Spec.To, func(t gateway.ReferenceGrantTo) bool {
				return t.Group == to.group && t.Kind == to.kind && (t.Name == nil || *t.Name == "" || string(*t.Name) == to.Name)
			})
	})
}

// value is what p points to, or what is meant without it.
func value[T any](p *T, without T) T {
	if p == nil {
		return without
	}
	return *p
}
