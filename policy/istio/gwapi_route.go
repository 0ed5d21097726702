// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"slices"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// gatewayGroup is the API group of the Gateway API.
const gatewayGroup = "gateway.networking.k8s.io"

// notServed says why a Gateway is not acted on.
const notServed = "no Gateway of the Gateway API is served here"

// readRoute is an HTTPRoute as it was read.
type readRoute struct {
	check.Checker
	ref     policy.Ref
	created meta.Time        // zero: unknown
	at      *strictyaml.Node // its spec
	v       *gateway.HTTPRouteSpec
}

// spec returns the node at path in the spec, as far as it exists.
func (r *readRoute) spec(path ...any) *strictyaml.Node { return r.at.At(path...) }

// forGateways says whether all parents of a route are Gateways, or sets of
// listeners of theirs.
func forGateways(spec *strictyaml.Node) bool {
	fields := []string{"group", "kind", "namespace", "name", "sectionName", "port"}
	kinds := []string{"Gateway", "ListenerSet", "XListenerSet"}
	parents := spec.Get("parentRefs").List()
	return len(parents) > 0 && !slices.ContainsFunc(parents, func(p *strictyaml.Node) bool {
		k := p.Get("kind")
		return p.Kind != strictyaml.Mapping || k != nil && !slices.Contains(kinds, k.Text) ||
			slices.ContainsFunc(p.Fields, func(f strictyaml.Field) bool { return !slices.Contains(fields, f.Key) })
	})
}

// noGateway says that the parent of a route, at its node, is a Gateway.
func noGateway(o *strictyaml.Reporter, at *strictyaml.Node, kind string) {
	name := ""
	if n := at.Get("name"); n != nil {
		name = " " + n.Text
	}
	o.Warnf(at, "the route is not acted on for the %s%s: %s (parents can be ServiceEntries)", cmp.Or(kind, "Gateway"), name, notServed)
}
