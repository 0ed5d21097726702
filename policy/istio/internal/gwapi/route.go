// SPDX-License-Identifier: Apache-2.0

// Package gwapi translates the Gateway API: routes whose parents are ServiceEntries
// are rules for what leaves the node; Gateways of egressd's class, and the routes
// that attach to their listeners, are the entrance.
package gwapi

import (
	"cmp"
	"slices"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// Group is the API group of the Gateway API.
const Group = "gateway.networking.k8s.io"

// NotServed says why a Gateway is not acted on.
const NotServed = "egressd serves those of class egressd, and of GatewayClasses whose controllerName is " + ControllerName

// HTTPRoute is an HTTPRoute as it was read.
type HTTPRoute struct {
	check.Checker
	Ref     policy.Ref
	Created meta.Time        // zero: unknown
	Node    *strictyaml.Node // its spec
	V       *gateway.HTTPRouteSpec
}

// spec returns the node at path in the spec, as far as it exists.
func (r *HTTPRoute) spec(path ...any) *strictyaml.Node { return r.Node.At(path...) }

// ForGateways says whether all parents of a route are Gateways, or sets of
// listeners of theirs.
func ForGateways(spec *strictyaml.Node) bool {
	fields := []string{"group", "kind", "namespace", "name", "sectionName", "port"}
	kinds := []string{"Gateway", "ListenerSet", "XListenerSet"}
	parents := spec.Get("parentRefs").List()
	return len(parents) > 0 && !slices.ContainsFunc(parents, func(p *strictyaml.Node) bool {
		k := p.Get("kind")
		return p.Kind != strictyaml.Mapping || k != nil && !slices.Contains(kinds, k.Text) ||
			slices.ContainsFunc(p.Fields, func(f strictyaml.Field) bool { return !slices.Contains(fields, f.Key) })
	})
}

// NoGateway says that the parent of a route, at its node, is a Gateway.
func NoGateway(o *strictyaml.Reporter, at *strictyaml.Node, kind string) {
	name := ""
	if n := at.Get("name"); n != nil {
		name = " " + n.Text
	}
	o.Warnf(at, "the route is not acted on for the %s%s: %s", cmp.Or(kind, "Gateway"), name, NotServed)
}

// ParentName is "namespace/name" of the parent at a node, of a route in a
// namespace.
func ParentName(p *strictyaml.Node, namespace string) string {
	if ns := p.Get("namespace"); ns != nil && ns.Text != "" {
		namespace = ns.Text
	}
	name := ""
	if n := p.Get("name"); n != nil {
		name = n.Text
	}
	return namespace + "/" + name
}
