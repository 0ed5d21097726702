// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"regexp"

	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// GRPCRoute is the kind of routes that match services and methods of gRPC.
const GRPCRoute = "GRPCRoute"

// HTTPOf writes a GRPCRoute as the HTTPRoute that means the same: the method of
// a call is the path of its request (gRPC over HTTP2, "Path").
func HTTPOf(in *gateway.GRPCRouteSpec) *gateway.HTTPRouteSpec {
	out := &gateway.HTTPRouteSpec{CommonRouteSpec: in.CommonRouteSpec, Hostnames: in.Hostnames}
	for _, r := range in.Rules {
		rule := gateway.HTTPRouteRule{Name: r.Name, Filters: httpFilters(r.Filters), SessionPersistence: r.SessionPersistence}
		for _, m := range r.Matches {
			rule.Matches = append(rule.Matches, httpMatch(m))
		}
		for _, b := range r.BackendRefs {
			rule.BackendRefs = append(rule.BackendRefs, gateway.HTTPBackendRef{BackendRef: b.BackendRef, Filters: httpFilters(b.Filters)})
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

func httpFilters(in []gateway.GRPCRouteFilter) (out []gateway.HTTPRouteFilter) {
	for _, f := range in {
		out = append(out, gateway.HTTPRouteFilter{
			Type: gateway.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}

func httpMatch(in gateway.GRPCRouteMatch) (out gateway.HTTPRouteMatch) {
	out.Path = httpPath(in.Method)
	for _, h := range in.Headers {
		kind := gateway.HeaderMatchType(value(h.Type, gateway.GRPCHeaderMatchExact))
		out.Headers = append(out.Headers, gateway.HTTPHeaderMatch{Type: &kind, Name: gateway.HTTPHeaderName(h.Name), Value: h.Value})
	}
	return out
}

// httpPath is the path of the methods that m matches; nil: all.
func httpPath(m *gateway.GRPCMethodMatch) *gateway.HTTPPathMatch {
	if m == nil || m.Service == nil && m.Method == nil {
		return nil
	}
	service, method := value(m.Service, ""), value(m.Method, "")
	kind, path := gateway.PathMatchRegularExpression, ""
	any := func(s string) string {
		if s == "" {
			return "[^/]+"
		}
		return "(?:" + s + ")"
	}
	switch exact := value(m.Type, gateway.GRPCMethodMatchExact) == gateway.GRPCMethodMatchExact; {
	case exact && method == "":
		kind, path = gateway.PathMatchPathPrefix, "/"+service
	case exact && service == "":
		path = "/[^/]+/" + regexp.QuoteMeta(method)
	case exact:
		kind, path = gateway.PathMatchExact, "/"+service+"/"+method
	default:
		path = "/" + any(service) + "/" + any(method)
	}
	return &gateway.HTTPPathMatch{Type: &kind, Value: &path}
}
