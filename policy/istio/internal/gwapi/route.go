// SPDX-License-Identifier: Apache-2.0

// Package gwapi translates the Gateway API's HTTPRoutes whose parents are
// ServiceEntries: they are rules for what leaves the node. Nothing serves its
// Gateways.
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
const NotServed = "no Gateway of the Gateway API is served here"

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
	o.Warnf(at, "the route is not acted on for the %s%s: %s (parents can be ServiceEntries)", cmp.Or(kind, "Gateway"), name, NotServed)
}
