// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy/source/kubestatus/internal/gwstatus"
)

var (
	servicesResource   = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	namespacesResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	podsResource       = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	secretsResource    = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// The Gateway API's kinds, by their resources.
const (
	classes  = "gatewayclasses"
	gateways = "gateways"
	grants   = "referencegrants"
)

// gatewayKinds are the kinds that are watched, with the versions that are read of
// each, the newest first.
var gatewayKinds = []struct {
	resource string
	versions []string
}{
	{classes, []string{"v1", "v1beta1"}},
	{gateways, []string{"v1", "v1beta1"}},
	{grants, []string{"v1", "v1beta1"}},
	{"httproutes", []string{"v1", "v1beta1"}},
	{"grpcroutes", []string{"v1"}},
	{"tlsroutes", []string{"v1", "v1alpha3", "v1alpha2"}},
	{"tcproutes", []string{"v1", "v1alpha2"}},
}

// routeKinds are the kinds of routes.
var routeKinds = []struct {
	kind, resource string
	typed          func(list []any) []gwstatus.AnyRoute
}{
	{"HTTPRoute", "httproutes", func(list []any) []gwstatus.AnyRoute { return routes(typed[gateway.HTTPRoute](list), gwstatus.OfHTTP) }},
	{"GRPCRoute", "grpcroutes", func(list []any) []gwstatus.AnyRoute { return routes(typed[gateway.GRPCRoute](list), gwstatus.OfGRPC) }},
	{"TLSRoute", "tlsroutes", func(list []any) []gwstatus.AnyRoute { return routes(typed[gateway.TLSRoute](list), gwstatus.OfTLS) }},
	{"TCPRoute", "tcproutes", func(list []any) []gwstatus.AnyRoute { return routes(typed[gateway.TCPRoute](list), gwstatus.OfTCP) }},
}

func routes[T any](list []*T, of func(*T) gwstatus.AnyRoute) []gwstatus.AnyRoute {
	out := make([]gwstatus.AnyRoute, 0, len(list))
	for _, r := range list {
		out = append(out, of(r))
	}
	return out
}

// typed converts objects; one that cannot be is of a newer Gateway API, and left
// out.
func typed[T any](list []any) []*T {
	var out []*T
	for _, o := range list {
		u, ok := o.(*unstructured.Unstructured)
		v := new(T)
		if ok && runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, v) == nil {
			out = append(out, v)
		}
	}
	return out
}
