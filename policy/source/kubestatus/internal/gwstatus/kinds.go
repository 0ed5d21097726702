// SPDX-License-Identifier: Apache-2.0

package gwstatus

import (
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// The kinds of routes.
const (
	httpRoute = "HTTPRoute"
	grpcRoute = "GRPCRoute"
	tlsRoute  = "TLSRoute"
	tcpRoute  = "TCPRoute"
)

// AnyRoute is what routes of all kinds have in common.
type AnyRoute struct {
	meta.Object
	kind      string
	parents   []gateway.ParentReference
	hostnames []gateway.Hostname
	backends  []gateway.BackendObjectReference
}

func (r *AnyRoute) name() ObjectKey { return ObjectKey{r.kind, nameOf(r)} }

// OfHTTP is the AnyRoute of an HTTPRoute.
func OfHTTP(r *gateway.HTTPRoute) AnyRoute {
	out := AnyRoute{Object: r, kind: httpRoute, parents: r.Spec.ParentRefs, hostnames: r.Spec.Hostnames}
	filters := func(list []gateway.HTTPRouteFilter) {
		for _, f := range list {
			out.mirror(f.RequestMirror)
		}
	}
	for _, rule := range r.Spec.Rules {
		filters(rule.Filters)
		for _, b := range rule.BackendRefs {
			out.backends = append(out.backends, b.BackendObjectReference)
			filters(b.Filters)
		}
	}
	return out
}

// OfGRPC is the AnyRoute of a GRPCRoute.
func OfGRPC(r *gateway.GRPCRoute) AnyRoute {
	out := AnyRoute{Object: r, kind: grpcRoute, parents: r.Spec.ParentRefs, hostnames: r.Spec.Hostnames}
	filters := func(list []gateway.GRPCRouteFilter) {
		for _, f := range list {
			out.mirror(f.RequestMirror)
		}
	}
	for _, rule := range r.Spec.Rules {
		filters(rule.Filters)
		for _, b := range rule.BackendRefs {
			out.backends = append(out.backends, b.BackendObjectReference)
			filters(b.Filters)
		}
	}
	return out
}

// OfTLS is the AnyRoute of a TLSRoute.
func OfTLS(r *gateway.TLSRoute) AnyRoute {
	out := AnyRoute{Object: r, kind: tlsRoute, parents: r.Spec.ParentRefs, hostnames: r.Spec.Hostnames}
	for _, rule := range r.Spec.Rules {
		out.leadsTo(rule.BackendRefs)
	}
	return out
}

// OfTCP is the AnyRoute of a TCPRoute, which has no hostnames.
func OfTCP(r *gateway.TCPRoute) AnyRoute {
	out := AnyRoute{Object: r, kind: tcpRoute, parents: r.Spec.ParentRefs}
	for _, rule := range r.Spec.Rules {
		out.leadsTo(rule.BackendRefs)
	}
	return out
}

func (r *AnyRoute) leadsTo(refs []gateway.BackendRef) {
	for _, b := range refs {
		r.backends = append(r.backends, b.BackendObjectReference)
	}
}

func (r *AnyRoute) mirror(f *gateway.HTTPRequestMirrorFilter) {
	if f != nil {
		r.backends = append(r.backends, f.BackendRef)
	}
}
